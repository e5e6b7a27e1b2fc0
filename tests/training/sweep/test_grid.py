"""Options with commas become typed values, and values become configurations, one per combination."""

from __future__ import annotations

import math
import re
from itertools import product
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamese_search.errors import UsageError
from siamese_search.training.config import PRESETS, TrainConfig, option_fields
from siamese_search.training.sweep.grid import MOST_RUNS, grid_points, label, parse_grid, swept, text

KINDS = get_type_hints(TrainConfig)
FIELDS = [name for name, _, _ in option_fields()]


def test_every_field_takes_the_values_of_every_preset() -> None:
    for config in PRESETS.values():
        for name in FIELDS:
            value = getattr(config, name)
            assert parse_grid({name: text(value)}) == {name: (value,)}
            assert parse_grid({name: [value]}) == {name: (value,)}


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6, unique=True))
def test_numbers_come_back_as_they_were(numbers: list[float]) -> None:
    typed = ", ".join(map(repr, numbers))
    assert parse_grid({"margin": typed}) == {"margin": tuple(numbers)} == parse_grid({"margin": numbers})


@given(st.sampled_from(FIELDS), st.text(max_size=30) | st.lists(st.booleans() | st.integers() | st.floats()))
def test_whatever_is_given_becomes_typed_values_or_an_error_that_names_the_option(name: str, value: object) -> None:
    try:
        (values,) = parse_grid({name: value}).values()
    except UsageError as caught:
        error = str(caught)
    else:
        error = None
    if error is not None:
        assert error.startswith("--" + name.replace("_", "-") + ": ")
        assert error.isprintable()
        return
    kind = KINDS[name]
    choices = get_args(kind) if get_origin(kind) is Literal else None
    assert len(set(values)) == len(values) > 0
    for one in values:
        assert one in choices if choices else type(one) is kind
        assert not isinstance(one, float) or math.isfinite(one)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"margin": "0.2,x"}, "--margin: 'x' is not a number"),
        ({"margin": "0.2,,0.5"}, "--margin: '' is not a number"),
        ({"margin": "0.2,nan"}, "--margin: 'nan' is not a number"),
        ({"margin": "0.2,1e999"}, "--margin: '1e999' is not a number"),
        ({"margin": "0.2,0.20"}, "--margin: 0.2 is given twice"),
        ({"margin": []}, "--margin: no value is given"),
        ({"margin": [True]}, "--margin: 'True' is not a number"),
        ({"batch_size": "8,2.5"}, "--batch-size: '2.5' is not a whole number"),
        ({"batch_size": "9" * 400}, "is not a whole number"),
        ({"soft_margin": "yes,perhaps"}, "--soft-margin: 'perhaps' is not true or false"),
        ({"keep": "last,first"}, "--keep: 'first' is none of last, best"),
        ({"last_stride": "1,3"}, "--last-stride: '3' is none of 1, 2"),
        ({"backbone": "efficientnet_b0,"}, "--backbone: '' is not a name"),
        ({"learning_rate": "1"}, "unknown hyperparameter 'learning_rate'"),
        ({"preset": "apn,reid"}, "unknown hyperparameter 'preset'"),
    ],
)
def test_what_cannot_be_a_value_is_named(given: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        parse_grid(given)


def test_no_extra_loss_is_a_value_among_others() -> None:
    assert parse_grid({"metric_loss": "none,CircleLoss"}) == {"metric_loss": ("", "CircleLoss")}
    first, _ = grid_points("reid", parse_grid({"metric_loss": "none,CircleLoss"}))
    assert (first.name, first.config.metric_loss) == ("metric-loss=none", "")


def test_the_grid_is_every_combination_with_the_fixed_options_in_each() -> None:
    grid = parse_grid({"margin": "0.2,0.5", "epochs": "3", "batch_size": [8, 16, 32]})
    assert swept(grid) == ["margin", "batch_size"]
    points = grid_points("apn", grid)
    expected = [
        PRESETS["apn"].with_options(margin=margin, epochs=3, batch_size=size)
        for margin, size in product((0.2, 0.5), (8, 16, 32))
    ]
    assert [point.config for point in points] == expected
    assert points[1].name == "margin=0.2,batch-size=16"
    assert points[1].values == {"margin": 0.2, "batch_size": 16}
    assert label(points[1].values) == "margin=0.2, batch-size=16"


def test_a_value_out_of_range_and_a_grid_without_an_end_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--margin: -1\.0 is too small"):
        grid_points("apn", parse_grid({"margin": "0.2,-1"}))
    with pytest.raises(UsageError, match="nothing to sweep"):
        grid_points("apn", parse_grid({"margin": "0.2"}))
    many = parse_grid({"seed": list(range(40)), "dim": list(range(2, 42))})
    with pytest.raises(UsageError, match=f"1600 combinations, the most is {MOST_RUNS}"):
        grid_points("apn", many)


@given(st.lists(st.text(st.characters(exclude_characters=","), min_size=1), min_size=2, max_size=5, unique=True))
def test_names_are_plain_file_names_that_differ_even_where_case_does_not_count(backbones: list[str]) -> None:
    try:
        points = grid_points("apn", parse_grid({"backbone": backbones}))
    except UsageError:  # blanks alone, or names that are equal without the blanks around them
        return
    names = [point.name for point in points]
    assert all(re.fullmatch(r"backbone=[A-Za-z0-9._,=+~-]+", name) for name in names)
    assert max(map(len, names)) <= 130
    assert len({name.casefold() for name in names}) == len(names)

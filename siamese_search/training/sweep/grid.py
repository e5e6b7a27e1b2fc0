"""The grid of a sweep: options with several values each become one configuration per combination."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import get_type_hints

from siamese_search.errors import UsageError, printable
from siamese_search.training.config import NOTHING, TrainConfig, flag, option_fields, value_of
from siamese_search.training.config import preset as find_preset

#: What a hyperparameter may be.
Value = bool | int | float | str

#: A grid that is larger was not meant: three options of ten values are a thousand trainings already.
MOST_RUNS = 1000

#: Characters of a run's directory name; what is cut off is told apart by a number.
_MOST_NAME = 120


@dataclass(frozen=True, slots=True)
class GridPoint:
    """One run of a sweep: ``values`` of the options that change, ``config`` with all of them."""

    name: str  # of the run's directory: ``margin=0.5,lr=0.001``
    values: dict[str, Value]
    config: TrainConfig


def parse_grid(given: Mapping[str, object]) -> dict[str, tuple[Value, ...]]:
    """Hyperparameters with their values, each of its field's own type.

    given: field of TrainConfig → text with commas (``"0.2,0.5"``), a sequence of values, or one value. Raises
    UsageError, naming option and value, for what cannot be, is empty or there twice. Ranges are checked by
    :func:`grid_points`.
    """
    kinds = get_type_hints(TrainConfig)
    known = [name for name, _, _ in option_fields()]
    grid: dict[str, tuple[Value, ...]] = {}
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"unknown hyperparameter {printable(name)!r}; see `sss sweep --help`")
        items = value.split(",") if isinstance(value, str) else value
        several = items if isinstance(items, list | tuple) else [items]
        values = tuple(value_of(name, kinds[name], item) for item in several)
        if not values:
            raise UsageError(f"{flag(name)}: no value is given")
        if twice := [one for place, one in enumerate(values) if one in values[:place]]:
            raise UsageError(f"{flag(name)}: {text(twice[0])} is given twice")
        grid[name] = values
    return grid


def swept(grid: Mapping[str, tuple[Value, ...]]) -> list[str]:
    """The options that have several values, in the order in which they were given."""
    return [name for name, values in grid.items() if len(values) > 1]


def grid_points(preset: str, grid: Mapping[str, tuple[Value, ...]]) -> list[GridPoint]:
    """All combinations, the last option changing fastest. Every configuration is checked.

    Raises UsageError where no option has several values, for over ``MOST_RUNS`` runs, and for bad values.
    """
    changing = swept(grid)
    if not changing:
        raise UsageError(
            "nothing to sweep: give an option several values (--margin 0.2,0.5,1.0); one model is `sss train`"
        )
    count = math.prod(map(len, grid.values()))
    if count > MOST_RUNS:
        raise UsageError(f"the grid has {count} combinations, the most is {MOST_RUNS}: give fewer values")
    base, points, names = find_preset(preset), [], set[str]()
    for combination in product(*grid.values()):
        options = dict(zip(grid, combination, strict=True))
        values = {name: options[name] for name in changing}
        first = name = re.sub(r"[^A-Za-z0-9._,=+-]", "_", label(values, ","))[:_MOST_NAME]
        number = 1
        while name.casefold() in names:  # another run has it, if only on a disk that ignores case
            number += 1
            name = f"{first}~{number}"
        names.add(name.casefold())
        points.append(GridPoint(name, values, base.with_options(**options)))
    return points


def text(value: Value) -> str:
    """A value as it would be typed: ``0.5``, ``true``, ``efficientnet_b0``."""
    return str(value).lower() if isinstance(value, bool) else str(value) or NOTHING


def label(values: Mapping[str, Value], separator: str = ", ") -> str:
    """A run in words: ``margin=0.5, lr=0.001``."""
    return separator.join(f"{flag(name)[2:]}={text(value)}" for name, value in values.items())

"""Who is held out: named, or drawn by number or share; of each of several data sets; and what cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamese_search.datasets.layouts import Dataset
from siamese_search.datasets.records import ImageRecord
from siamese_search.datasets.splits import Source
from siamese_search.errors import DataError, UsageError
from siamese_search.training.data import HoldOut, choose_held


def people(root: str, *names: str, layout: str = "folders") -> Dataset:
    return Dataset(Path(root), layout, "", [ImageRecord(f"{n}/{i}", Path(n), n) for n in names for i in (0, 1)])


def numbered(root: str, count: int) -> Dataset:
    return people(root, *(f"{i:03d}" for i in range(count)))


def of_one(count: int, holdout: HoldOut) -> set[str]:
    return alone(numbered("photos", count), holdout)


def alone(dataset: Dataset, holdout: HoldOut) -> set[str]:
    (held,) = choose_held([dataset.root], [Source("", dataset)], holdout)
    return held


def of_several(datasets: list[Dataset], holdout: HoldOut) -> list[set[str]]:
    sources = [Source(dataset.root.name, dataset) for dataset in datasets]
    return choose_held([dataset.root for dataset in datasets], sources, holdout)


@pytest.mark.parametrize(
    ("count", "amount", "held"), [(100, 0.1, 10), (10, 0.1, 2), (4, 0.1, 2), (6, 1, 1), (9, 3, 3), (2, 0, 0)]
)
def test_a_share_is_at_least_two_and_a_number_is_that_number(count: int, amount: float, held: int) -> None:
    assert len(of_one(count, HoldOut(amount=amount))) == held


@pytest.mark.parametrize("count", [2, 3])
def test_too_few_identities_are_counted_named_and_given_a_way_out(count: int) -> None:
    with pytest.raises(DataError, match="photos") as caught:
        of_one(count, HoldOut())
    text = str(caught.value)
    assert f"{count} identities found (000, 001" in text
    assert "--holdout 0" in text
    assert "4 identities or more" in text
    assert "\n" not in text


@pytest.mark.parametrize("amount", [-1, 1.5, float("nan"), float("inf")])
def test_amounts_that_are_none(amount: float) -> None:
    with pytest.raises(UsageError, match="--holdout"):
        of_one(9, HoldOut(amount=amount))


def test_each_data_set_gives_the_same_as_alone() -> None:
    a, b = numbered("a", 40), numbered("b", 20)
    for amount in (0.2, 3):
        holdout = HoldOut(amount=amount, seed=4)
        assert of_several([a, b], holdout) == [alone(dataset, holdout) for dataset in (a, b)]
    assert of_several([a, b], HoldOut(amount=0)) == [set(), set()]


def test_a_small_data_set_has_no_share_to_give_but_must_give_a_number() -> None:
    a, b = numbered("a", 40), numbered("b", 3)
    assert [len(ids) for ids in of_several([a, b], HoldOut())] == [4, 0]
    with pytest.raises(DataError, match="b: 3 identities found"):
        of_several([a, b], HoldOut(amount=2))
    with pytest.raises(DataError, match="a: 3 identities found"):
        of_several([numbered("a", 3), b], HoldOut())


def named(datasets: list[Dataset], *ids: str) -> list[set[str]]:
    return of_several(datasets, HoldOut(ids=ids))


def test_names_stand_for_every_data_set_or_for_one() -> None:
    a, b = people("a", "anna", "ben", "carl"), people("b", "anna", "dora", "emil")
    assert named([a, b], "anna") == [{"anna"}, {"anna"}]
    assert named([a, b], "b/anna", "carl") == [{"carl"}, {"anna"}]
    assert named([a, b], "dora") == [set(), {"dora"}]
    assert named([a, b]) == [set(), set()]


def test_a_full_name_goes_before_a_plain_one_that_looks_like_it() -> None:
    a, b = people("a", "anna", "ben", "carl"), people("b", "a/anna", "dora", "emil")
    assert named([a, b], "a/anna") == [{"anna"}, set()]
    assert named([a, b], "b/a/anna") == [set(), {"a/anna"}]


def test_names_of_nobody() -> None:
    a, b = people("a", "anna", "ben", "carl"), people("b", "dora", "emil", "fred")
    with pytest.raises(DataError, match="2 of 3 identities to hold out have no images in a, b: a/dora, zoe;"):
        named([a, b], "zoe", "a/dora", "anna")


def test_whom_a_sample_of_triplets_lacks_it_holds_out_already() -> None:
    a = people("a", "anna", "ben", "carl")
    sample = people("b", "dora", "emil", "fred", layout="triplets")
    assert named([a, sample], "anna", "zoe") == [{"anna"}, set()]
    assert named([a, sample], "b/dora", "b/zoe") == [set(), {"dora", "zoe"}]
    with pytest.raises(DataError, match="zoe"):
        named([a, sample], "zoe")


def test_of_one_data_set_absent_names_are_listed() -> None:
    photos = people("photos", *"abcd")
    with pytest.raises(DataError, match=r"4 of 5 .* in photos: v, x, y, …; there are 4 identities such as a;"):
        alone(photos, HoldOut(ids=("a", "x", "y", "z", "v")))
    # A triplet CSV samples the images: whom it never names is held out already. A list that fits nobody is wrong.
    sample = people("photos", *"abcd", layout="triplets")
    assert alone(sample, HoldOut(ids=("a", "x"))) == {"a", "x"}
    with pytest.raises(DataError, match="1 of 1"):
        alone(sample, HoldOut(ids=("x",)))
    assert alone(photos, HoldOut(ids=())) == set()

"""Splits: disjoint, deterministic, independent of order, and honest about what cannot work."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamese_search.datasets.layouts import Dataset, load_dataset
from siamese_search.datasets.records import RESERVED_IDENTITIES, ImageRecord
from siamese_search.datasets.splits import draw_identities, hold_out, read_identity_list
from siamese_search.errors import DataError

PEOPLE = [f"p{i:03d}" for i in range(50)]


def record(identity: str | None, camera: str | None, number: int) -> ImageRecord:
    name = f"{identity}_c1_{number}" if identity in RESERVED_IDENTITIES else number
    key = f"{identity}/{camera}/{name}.jpg"
    return ImageRecord(key, Path(key), identity, camera)


def dataset(records: list[ImageRecord], layout: str = "folders", triplets=()) -> Dataset:
    return Dataset(Path("somewhere"), layout, "test", records, list(triplets))


def test_so_many_are_drawn_of_those_that_are_there():
    held = draw_identities(PEOPLE, 7)
    assert len(held) == 7
    assert held < set(PEOPLE)


def test_splits_do_not_depend_on_order_or_repeats():
    shuffled = PEOPLE * 2
    random.Random(1).shuffle(shuffled)
    assert draw_identities(shuffled, 10, seed=3) == draw_identities(PEOPLE, 10, seed=3)


def test_splits_depend_on_the_seed():
    assert draw_identities(PEOPLE, 10, seed=0) != draw_identities(PEOPLE, 10, seed=1)


def test_a_split_is_the_same_on_every_machine():
    # Golden: a change would silently move people between training and evaluation of existing projects.
    assert sorted(draw_identities(PEOPLE, 3)) == ["p014", "p028", "p031"]


def test_a_new_identity_replaces_at_most_one_held_out():
    before = draw_identities(PEOPLE, 10)
    after = draw_identities([*PEOPLE, "newcomer"], 10)
    assert len(before & after) >= 9


@given(st.sets(st.text(min_size=1), min_size=3), st.data(), st.integers(0, 9))
def test_any_names_are_drawn(names, data, seed):
    names -= {"-1", "0000"}
    count = data.draw(st.integers(0, len(names)))
    held = draw_identities(names, count, seed)
    assert held <= names
    assert len(held) == count


def test_identity_lists(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbf# held out\r\n0002\r\n\r\n  0023  # why\r\n0002\nA#1\n")
    assert read_identity_list(path) == ["0002", "0023", "A#1"]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "names no identity"),
        (b"# only\n", "names no identity"),
        (b"\xff\xfe0\x00", "not UTF-8"),
        (b"a\x00b\n", "line 1 holds control"),
        (b"x" * ((16 << 20) + 1), "over 16777216"),
    ],
)
def test_bad_identity_lists(tmp_path, content, part):
    path = tmp_path / "ids.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=part):
        read_identity_list(path)


def test_missing_identity_lists(tmp_path):
    for path in (tmp_path / "nowhere.txt", tmp_path):
        with pytest.raises(DataError, match="no such file of identities"):
            read_identity_list(path)


def test_hold_out_parts():
    records = [record(who, "1", n) for who in ("a", "b", "c", "-1", "0000", None) for n in range(2)]
    train, held = hold_out(dataset(records), ["c"])
    assert (train.identities, held.identities) == (["a", "b"], ["c"])
    assert {r.identity for r in train.records} == {"a", "b"}
    assert {r.identity for r in held.records} == {"c", "-1", "0000"}


def test_hold_out_triplets_touch_one_side_only():
    records = [record(who, "1", n) for who in "abcd" for n in range(2)]
    key = {(r.identity, n): f"{r.identity}/1/{n}.jpg" for r in records for n in range(2)}
    triplets = [
        (key["a", 0], key["a", 1], key["b", 0]),
        (key["a", 0], key["a", 1], key["c", 0]),  # a held-out negative
        (key["c", 0], key["c", 1], key["a", 0]),  # a held-out anchor
        (key["c", 0], key["c", 1], key["d", 0]),
    ]
    train, held = hold_out(dataset(records, "triplets", triplets), ["c", "d"])
    assert (train.triplets, held.triplets) == (triplets[:1], triplets[3:])


def test_hold_out_leaves_two_to_train_on():
    with pytest.raises(DataError, match="leaves 1 to train on"):
        hold_out(dataset([record(who, "1", 0) for who in "abc"]), ["a", "b"])


@pytest.mark.data
def test_the_real_held_out_list(data_dir):
    ids = read_identity_list(data_dir / "market1501" / "heldout_ids.txt")
    train, held = hold_out(load_dataset(data_dir / "market1501" / "train"), ids)
    assert (len(train.identities), len(held.identities), len(held.records)) == (643, 108, 1970)
    train, _ = hold_out(load_dataset(data_dir / "market1501" / "train.csv"), ids)
    assert len(train.triplets) == 2883
    assert not set(train.identities) & set(ids)

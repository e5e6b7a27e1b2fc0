"""Several data sets as one: the same names in two of them are different people and different images."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamese_search.datasets.layouts import Dataset, load_dataset
from siamese_search.datasets.records import ImageRecord
from siamese_search.datasets.splits import Source, join, load_joined, load_sources, source_names
from siamese_search.errors import DataError, UsageError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/market", "b/duke"], ["market", "duke"]),
        (["market/train", "duke/train"], ["market/train", "duke/train"]),
        (["x/a/train", "x/b/train", "y/a/train"], ["x/a/train", "x/b/train", "y/a/train"]),
        (["train", "train.csv"], ["train", "train.csv"]),
    ],
)
def test_names_are_as_short_as_they_can_be(tmp_path: Path, paths: list[str], names: list[str]) -> None:
    assert source_names([tmp_path / path for path in paths]) == names
    assert source_names([tmp_path / path for path in paths[::-1]]) == names[::-1]


def test_one_path_twice(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="given twice"):
        source_names([tmp_path / "a", tmp_path / "b" / ".." / "a"])


def test_identities_and_keys_carry_their_source(tmp_path: Path) -> None:
    touch(tmp_path / "one", "anna/1.jpg", "ben/1.jpg")
    touch(tmp_path / "two", "anna/1.jpg", "carl/1.jpg")
    touch(tmp_path / "three", "0001_c1s1_000001_00.jpg", "0000_c1s1_000002_00.jpg", "-1_c2s1_000003_00.jpg")
    joined = load_joined([tmp_path / name for name in ("one", "two", "three")])
    assert [(r.key, r.identity, r.source) for r in joined.records] == [
        ("one/anna/1.jpg", "one/anna", "one"),
        ("one/ben/1.jpg", "one/ben", "one"),
        ("two/anna/1.jpg", "two/anna", "two"),
        ("two/carl/1.jpg", "two/carl", "two"),
        ("three/-1_c2s1_000003_00.jpg", "-1", "three"),
        ("three/0000_c1s1_000002_00.jpg", "0000", "three"),
        ("three/0001_c1s1_000001_00.jpg", "three/0001", "three"),
    ]
    assert joined.identities == ["one/anna", "one/ben", "three/0001", "two/anna", "two/carl"]
    assert joined.reason == "one: folders, two: folders, three: market1501"
    assert all(record.path.is_file() for record in joined.records)


def test_one_alone_is_read_as_it_is(tmp_path: Path) -> None:
    touch(tmp_path, "anna/1.jpg", "ben/1.jpg")
    assert load_joined([tmp_path]) == load_dataset(tmp_path)


def test_triplets_come_along() -> None:
    records = [ImageRecord(f"{n}.jpg", Path(f"{n}.jpg"), n) for n in "ab"]
    one = Dataset(Path("one"), "triplets", "", records, [("a.jpg", "a.jpg", "b.jpg")])
    two = Dataset(Path("two"), "folders", "", records)
    joined = join([Source("one", one), Source("two", two)])
    assert joined.triplets == [("one/a.jpg", "one/a.jpg", "one/b.jpg")]
    assert {key for triplet in joined.triplets for key in triplet} <= {r.key for r in joined.records}


def test_cameras_that_see_nobody_twice_are_left_out(tmp_path: Path) -> None:
    many = touch(tmp_path / "many", "0001_c1s1_000001_00.jpg", "0001_c2s1_000001_00.jpg")
    single = touch(tmp_path / "single", "0001_c1s1_000001_00.jpg", "0002_c2s1_000001_00.jpg")
    cameras = {source: set() for source in ("many", "single")}
    for record in load_joined([many, single]).records:
        cameras[str(record.source)].add(record.camera)
    assert cameras == {"many": {"1", "2"}, "single": {None}}


def test_an_image_in_two_data_sets_would_be_two_people(tmp_path: Path) -> None:
    touch(tmp_path / "all", "a/1.jpg", "b/1.jpg", "b/2.jpg")
    with pytest.raises(DataError, match="all and b share 2 images"):
        load_sources([tmp_path / "all", tmp_path / "all" / "b"])
    listed = tmp_path / "list.csv"
    listed.write_text("path,identity\nall/a/1.jpg,x\n")
    with pytest.raises(DataError, match="share 1 image"):
        load_sources([tmp_path / "all", listed])
    other = touch(tmp_path / "all.d", "a/1.jpg", "b/1.jpg")  # a name that only begins alike
    assert len(load_sources([tmp_path / "all", other])) == 2

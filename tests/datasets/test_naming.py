"""Fields from file names: by a pattern, and the pattern that is proposed."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamese_search.datasets.layouts import load_dataset, survey
from siamese_search.datasets.walk import PassedOver
from siamese_search.errors import DataError, UsageError
from siamese_search.options import layout_of
from siamese_search.training.options import RunOptions

pytest.importorskip("re2", reason="google-re2 is not installed")
from siamese_search.datasets.names import Naming, proposal

BUS = r"(?P<identity>.+)_cam(?P<camera>\d+)"
BUSES = [f"bus_{bus:04}_cam{camera}.jpg" for bus in (1, 2, 3) for camera in (1, 2)]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def records(root: Path, pattern: str):
    return load_dataset(root, f"pattern:{pattern}").records


def test_named_groups_become_identity_and_camera(tmp_path):
    touch(tmp_path, *BUSES)
    found = load_dataset(tmp_path, f"pattern:{BUS}")
    assert (found.layout, found.reason) == ("pattern", "identity, camera from names (6 of 6 images)")
    assert [(r.key, r.identity, r.camera) for r in found.records][:2] == [
        ("bus_0001_cam1.jpg", "bus_0001", "1"),
        ("bus_0001_cam2.jpg", "bus_0001", "2"),
    ]


def test_other_groups_are_metadata_numbers_where_all_of_them_are(tmp_path):
    touch(tmp_path, "a-007-x1.jpg", "b-012-2.jpg", "c-012.jpg")
    pattern = r"^(?P<identity>[a-z])-(?P<frame>\d+)(?:-(?P<tag>\w+))?$"
    assert [dict(r.metadata) for r in records(tmp_path, pattern)] == [
        {"frame": 7, "tag": "x1"},
        {"frame": 12, "tag": "2"},
        {"frame": 12},
    ]


def test_a_pattern_with_a_slash_is_of_the_path(tmp_path):
    touch(tmp_path, "paris/c3/ann.jpg", "rome/c1/bo.jpg")
    found = records(tmp_path, r"^(?P<city>\w+)/c(?P<camera>\d+)/(?P<identity>\w+)$")
    assert [(r.identity, r.camera, dict(r.metadata)) for r in found] == [
        ("ann", "3", {"city": "paris"}),
        ("bo", "1", {"city": "rome"}),
    ]


def test_without_an_identity_in_the_pattern_it_is_the_folder(tmp_path):
    touch(tmp_path, "ann/cam1_0.jpg", "ann/cam2_0.jpg", "bo/cam1_0.jpg")
    found = load_dataset(tmp_path, r"pattern:cam(?P<camera>\d+)")
    assert [(r.identity, r.camera) for r in found.records] == [("ann", "1"), ("ann", "2"), ("bo", "1")]
    assert "identity from the first folder" in found.reason


def test_names_that_do_not_fit_are_passed_over_and_named(tmp_path):
    touch(tmp_path, *BUSES, "cover.jpg")
    found = load_dataset(tmp_path, f"pattern:{BUS}")
    assert len(found.records) == 6
    assert "1 left out, the first is cover.jpg: does not fit the pattern" in found.reason


def test_a_pattern_that_fits_few_is_one_line(tmp_path):
    touch(tmp_path, *BUSES)
    with pytest.raises(DataError) as caught:
        survey(tmp_path, r"pattern:(?P<identity>.+)_c(?P<camera>\d+)s")
    message = str(caught.value)
    assert "does not fit 6 images: bus_0001_cam1.jpg" in message
    assert "\n" not in message


def test_a_pattern_that_takes_nothing_from_any_name_is_one_line(tmp_path):
    touch(tmp_path, "ann/1.jpg", "bo/2.jpg")
    with pytest.raises(DataError, match="takes nothing from any name: mend it"):
        records(tmp_path, "(?P<identity>)")
    optional = r"^(?:p(?P<identity>\d+)_)?"  # some names may have nothing to give
    assert [r.identity for r in records(touch(tmp_path / "some", "p7_1.jpg", "2.jpg"), optional)] == [None, "7"]


def test_a_file_that_comes_later_keeps_the_kinds(tmp_path):
    touch(tmp_path, "a-1.jpg", "b-2.jpg")
    found = survey(tmp_path, r"pattern:(?P<identity>\w)-(?P<frame>\w+)")
    assert dict(found.record_of("c-3.jpg").metadata) == {"frame": 3}
    late = found.record_of("c-x.jpg")
    assert isinstance(late, PassedOver)
    assert "frame is a whole number in all other names" in late.reason


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("(?P<identity>.+", "missing )"),
        (r"(?<=a)(?P<identity>b)", "no regular expression of RE2"),
        ("abc", "names no field"),
        ("(?P<path>.+)", "'path' is a reserved name"),
        (r"(?P<identity>\w+)_(?P<identity>\w+)", "names identity twice"),
        ("(?P<identity>a{100000})", "repetition"),
        ("(?P<identity>" + "x" * 3_000_000 + ")", "too large"),
        ("(?P<identity>\udc80)", "not UTF-8"),
    ],
)
def test_a_bad_pattern_is_one_line(tmp_path, pattern, told):
    touch(tmp_path, *BUSES)
    with pytest.raises(UsageError) as caught:
        survey(tmp_path, f"pattern:{pattern}")
    assert told in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "pattern", ["(?P<identity>(a+)+)+$", "(?P<identity>(a|a)*(a|a)*(a|a)*)$", "(?P<identity>.*.*.*.*.*)=$"]
)
def test_no_pattern_takes_long(pattern):
    naming = Naming(pattern)
    began = time.process_time()
    for _ in range(100):
        naming.see("a" * 200 + "b.jpg")
    assert time.process_time() - began < 5  # a backtracking engine takes longer than the universe has


def test_a_table_needs_no_pattern(tmp_path):
    touch(tmp_path, "a.jpg")
    (tmp_path / "data.csv").write_text("path\na.jpg\n")
    with pytest.raises(DataError, match="a pattern is for names in a directory"):
        survey(tmp_path / "data.csv", f"pattern:{BUS}")


def test_a_request_asks_for_a_layout_or_a_pattern():
    assert layout_of(RunOptions()) == "auto"
    assert layout_of(RunOptions(pattern=BUS)) == f"pattern:{BUS}"
    with pytest.raises(UsageError, match="not both"):
        layout_of(RunOptions(pattern=BUS, layout="flat"))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (BUSES, BUS),
        ([name.replace("_cam", "-C") for name in BUSES], r"(?P<identity>.+)\-C(?P<camera>\d+)"),
        (
            ["cam1_7_001.jpg", "cam2_7_002.jpg", "cam1_8_003.jpg", "cam2_8_004.jpg"],
            r"^cam(?P<camera>\d+)_(?P<identity>[^_]+)",
        ),
        (["ann_1.jpg", "ann_2.jpg", "bo_1.jpg", "bo_2.jpg"], r"(?P<identity>.+)_\d+$"),
        ([f"IMG_{i:04}.jpg" for i in range(20)], None),  # one name for all is nobody
        ([f"{i:08x}.jpg" for i in range(20)], None),
        ([], None),
    ],
)
def test_a_pattern_is_proposed_where_names_look_alike(tmp_path, names, expected):
    told = proposal(names, folders=False)
    assert (shlex.quote(expected) in told) if expected else told == ""
    if expected:
        touch(tmp_path, *names)
        assert shlex.quote(expected) in survey(tmp_path).detection.reason
        found = load_dataset(tmp_path, f"pattern:{expected}")  # and it is one that works
        assert len(found.records) == len(names)
        assert 2 <= len(found.identities) <= len(names) / 2


def test_cameras_are_proposed_beside_folders(tmp_path):
    touch(tmp_path, *(f"{who}/cam{camera}_0.jpg" for who in "ab" for camera in (1, 2)))
    found = survey(tmp_path).detection
    assert found.layout == "folders"
    assert r"--pattern 'cam(?P<camera>\d+)' takes cameras" in found.reason


@settings(max_examples=100)
@given(st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=30), max_size=12))
def test_any_names_have_a_proposal_that_can_be_used_or_none(names):
    told = proposal(names, folders=False)
    assert told.isprintable()
    if told:
        pattern = shlex.split(told.partition("--pattern ")[2])[0]
        naming = Naming(pattern)
        # Python's own engine is the oracle.
        for name in names:
            stem = name.rpartition(".")[0] or name
            assert naming.see(name) == (re.search(pattern, stem, re.ASCII) is not None)

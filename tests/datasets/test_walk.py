"""walk_images(): what is walked, what is passed over, and what ends the walk."""

import os

import pytest

from siamese_search.datasets import walk
from siamese_search.datasets.walk import MAX_DEPTH, walk_images
from siamese_search.errors import DataError


@pytest.fixture
def tree(tmp_path):
    """Three folders with an image each."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"x")
    return tmp_path


@pytest.fixture
def failing(monkeypatch):
    """Make reading one directory fail: permissions do not stop a test that runs as root."""

    def fail(directory, error):
        real = os.scandir

        def scandir(path):
            if os.fspath(path) == os.fspath(directory):
                raise error
            return real(path)

        monkeypatch.setattr(walk.os, "scandir", scandir)

    return fail


def test_an_unreadable_directory_ends_a_walk_that_takes_no_gaps(tree, failing):
    failing(tree / "b", PermissionError(13, "Permission denied"))
    with pytest.raises(DataError, match=r"/b: cannot be read \(Permission denied\)"):
        list(walk_images(tree))


def test_an_unreadable_directory_is_named_and_passed_over(tree, failing):
    failing(tree / "b", PermissionError(13, "Permission denied"))
    skipped = []
    found = list(walk_images(tree, skipped=lambda *what: skipped.append(what)))
    assert found == ["a/1.jpg", "c/1.jpg"]
    assert skipped == [("b", "the directory cannot be read (permission denied)")]


def test_an_unreadable_root_always_ends_the_walk(tree, failing):
    failing(f"{tree}/", PermissionError(13, "Permission denied"))
    with pytest.raises(DataError, match="cannot be read"):
        list(walk_images(tree, skipped=lambda *_: None))


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone"), NotADirectoryError(20, "a file now")])
def test_a_directory_that_vanishes_on_the_way_is_simply_not_there(tree, failing, error):
    failing(tree / "b", error)
    assert list(walk_images(tree)) == ["a/1.jpg", "c/1.jpg"]


def test_folders_that_are_nested_too_deep_are_named_and_passed_over(tree):
    deep = tree / "b" / "/".join(["d"] * (MAX_DEPTH + 2))
    deep.mkdir(parents=True)
    (deep / "lost.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="nested deeper"):
        list(walk_images(tree))
    skipped = []
    found = list(walk_images(tree, skipped=lambda *what: skipped.append(what)))
    assert found == ["a/1.jpg", "b/1.jpg", "c/1.jpg"]
    ((directory, reason),) = skipped
    assert directory.startswith("b/d/d")
    assert reason == f"folders nested deeper than {MAX_DEPTH}"

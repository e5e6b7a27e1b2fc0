"""read_bytes: one regular file as it is at one moment, and every way in which that can fail."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

from siamese_search.errors import ImageError
from siamese_search.io.location import CHANGED, MAX_BYTES, FileStamp, read_bytes


def stamp(path: Path) -> FileStamp:
    status = path.stat()
    return FileStamp(status.st_size, status.st_mtime_ns)


def reason(path: Path | str, expected: FileStamp | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        read_bytes(path, expected)
    return caught.value.reason


@contextmanager
def no_longer_than(seconds: int):
    """A hang becomes a failure."""

    def late(*_):
        raise TimeoutError(f"still waiting after {seconds} s")

    former = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(bytes(range(256)) * 40)
    return path


def test_all_bytes_of_a_file_and_of_a_link_to_it(file):
    link = file.parents[1].joinpath("link.jpg")
    link.symlink_to(file)
    assert read_bytes(file) == read_bytes(link) == read_bytes(os.fspath(file)) == file.read_bytes()
    assert read_bytes(file, stamp(file)) == file.read_bytes()


def test_reads_that_come_in_parts(file, monkeypatch):
    whole, read = file.read_bytes(), os.read
    monkeypatch.setattr(os, "read", lambda descriptor, count: read(descriptor, min(count, 999)))
    assert read_bytes(file) == whole


@pytest.mark.parametrize("expected", [(10240, 1), (10239, None), (0, None)])
def test_another_state_than_the_scan_saw_counts_as_changed(file, expected):
    size, mtime = expected
    assert reason(file, FileStamp(size, mtime or file.stat().st_mtime_ns)) == CHANGED


def test_a_file_emptied_since_the_scan_is_changed_not_empty(file):
    before = stamp(file)
    file.write_bytes(b"")
    assert reason(file, before) == CHANGED
    assert reason(file) == "empty file"
    assert reason(file, stamp(file)) == "empty file"


def grows(path: Path) -> None:
    with path.open("ab") as handle:
        handle.write(b"more")


def shrinks(path: Path) -> None:
    os.truncate(path, 100)


def is_touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("meanwhile", [grows, shrinks, is_touched])
@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_a_file_that_changes_while_it_is_read(file, monkeypatch, known, meanwhile, when):
    expected = stamp(file) if known else None
    read, calls = os.read, []

    def slow(descriptor, count):
        """A read in two parts at least, with the change before, between or after them."""
        calls.append(count)
        if len(calls) == 1 and when == "before":
            meanwhile(file)
        data = read(descriptor, min(count, 5000))
        if len(calls) == (1 if when == "between" else 2) and when != "before":
            meanwhile(file)
        return data

    monkeypatch.setattr(os, "read", slow)
    assert reason(file, expected) == CHANGED


def test_what_is_not_there_or_not_to_be_read(tmp_path):
    assert reason(tmp_path / "no.jpg") == "no such file"
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "gone")
    assert reason(tmp_path / "dangling.jpg") == "no such file"
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    assert reason(tmp_path / "loop.jpg").startswith("cannot be read: too many levels")
    assert reason(tmp_path / ("x" * 300)).startswith("cannot be read: file name too long")
    assert reason("a\x00b.jpg").startswith("cannot be read")
    assert reason(tmp_path) == "not a regular file"


def test_permission_denied(file, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # root, who runs many a test, may read everything
    assert reason(file) == "permission denied"


def test_an_error_of_the_disk_is_named(file, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", fail)
    assert reason(file) == "cannot be read: input/output error"


def test_larger_than_the_limit_is_not_read(tmp_path):
    path = tmp_path / "large.tif"
    with path.open("wb") as handle:
        handle.truncate(MAX_BYTES + 1)  # a hole: no disk is used
    assert "over the limit" in reason(path)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_devices_are_not_opened(device, monkeypatch):
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened a device"))
    if os.path.exists(device):  # noqa: PTH110
        assert reason(device) == "not a regular file"


def test_a_fifo_that_takes_the_place_of_a_file_does_not_hang(tmp_path, file, monkeypatch):
    """Between the look at the name and the opening anything can happen to it."""
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    regular = file.stat()
    with no_longer_than(20):
        assert reason(pipe) == "not a regular file"
        monkeypatch.setattr(os, "stat", lambda _: regular)
        assert reason(pipe) == "not a regular file"

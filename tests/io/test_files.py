"""Atomic writes: whole or not at all, through exceptions and through kill -9."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from siamese_search.errors import SiameseSearchError
from siamese_search.io.files import atomic_path, atomic_write_bytes, atomic_write_text, check_output
from siamese_search.render.canvas import save_png


def test_new_files_and_directories(tmp_path):
    path = tmp_path / "new" / "er" / "x.txt"
    atomic_write_text(path, "été\n")
    assert path.read_bytes() == "été\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["x.txt"]


def test_replacing(tmp_path):
    path = tmp_path / "x"
    atomic_write_bytes(path, b"old")
    before = path.open("rb")
    atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    with before:
        assert before.read() == b"old"  # a reader keeps the file that it opened


def test_the_name_appears_only_at_the_end(tmp_path):
    path = tmp_path / "x.npz"
    with atomic_path(path) as aside:
        assert aside.parent == tmp_path
        assert aside.name.startswith(".")
        aside.write_bytes(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert not aside.exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_no_debris(tmp_path, error):
    path = tmp_path / "x"
    atomic_write_bytes(path, b"old")

    def interrupted() -> None:
        with atomic_path(path) as aside:
            aside.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        interrupted()

    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_body_that_replaces_the_temporary_file(tmp_path):
    """Libraries that write aside themselves (numpy, sqlite) swap the file under us."""
    path = tmp_path / "x"
    with atomic_path(path) as aside:
        other = tmp_path / "other"
        other.write_bytes(b"swapped")
        other.replace(aside)
    assert path.read_bytes() == b"swapped"


def test_a_directory_in_the_way_fails_and_leaves_no_debris(tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        atomic_write_bytes(tmp_path / "x", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_long_names(tmp_path):
    path = tmp_path / ("n" * 250 + ".json")
    atomic_write_bytes(path, b"{}")
    assert path.read_bytes() == b"{}"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, mode):
    code = (
        "import os, sys; from pathlib import Path; from siamese_search.io.files import atomic_write_bytes;"
        f" os.umask({umask}); atomic_write_bytes(Path(sys.argv[1]), b'x'); assert os.umask(0) == {umask}"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], check=True, timeout=60)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


CRASH = """
import os, signal, sys
from pathlib import Path
import siamese_search.io.files as files
path, moment = Path(sys.argv[1]), sys.argv[2]
die = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
if moment == "sync":
    os.fsync = die
if moment == "rename":
    Path.replace = die
with files.atomic_path(path) as aside:
    aside.write_bytes(b"n" * 500_000)
    if moment == "write":
        die()
"""


@pytest.mark.parametrize("moment", ["write", "sync", "rename", "never"])
def test_kill_9_leaves_the_old_or_the_new_content(tmp_path: Path, moment: str):
    path = tmp_path / "x"
    atomic_write_bytes(path, b"old")
    done = subprocess.run([sys.executable, "-c", CRASH, str(path), moment], timeout=60, check=False)
    if moment == "never":
        assert done.returncode == 0
        assert path.read_bytes() == b"n" * 500_000
    else:
        assert done.returncode == -signal.SIGKILL
        assert path.read_bytes() == b"old"
        atomic_write_bytes(path, b"next")  # what the crash left behind is in nobody's way
        assert path.read_bytes() == b"next"


def test_nothing_takes_the_place_of_a_pipe_or_device(tmp_path):
    """A rename would: ``sss export /dev/stdout`` of root's left the machine without a /dev/stdout."""
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "link.csv").symlink_to("/dev/null")
    for path in (tmp_path / "pipe.csv", tmp_path / "link.csv"):
        with pytest.raises(OSError, match="pipes and devices"):
            atomic_write_text(path, "x")
    assert stat.S_ISFIFO((tmp_path / "pipe.csv").stat().st_mode)
    assert (tmp_path / "link.csv").is_symlink()
    for path in (tmp_path / "pipe.csv", tmp_path / "link.csv", Path("/dev/stdout"), Path("/dev/new.csv")):
        with pytest.raises(SiameseSearchError, match="pipes and devices"):
            check_output(path)


def test_a_picture_takes_the_place_of_one_drawn_here_and_of_no_other_image(tmp_path):
    photo, drawn, empty = tmp_path / "photo.PNG", tmp_path / "drawn.png", tmp_path / "empty.png"
    empty.touch()  # as mktemp makes it
    Image.new("RGB", (4, 4)).save(photo)
    before = photo.read_bytes()
    for out in (drawn, drawn, empty):
        save_png(Image.new("RGB", (8, 8)), out, "sheet")
        check_output(out)
    for write in (check_output, lambda out: save_png(Image.new("RGB", (8, 8)), out, "sheet")):
        with pytest.raises(SiameseSearchError, match="not drawn here"):
            write(photo)
    assert photo.read_bytes() == before

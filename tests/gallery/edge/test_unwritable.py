"""A store that cannot be written, because its disk is full or read-only: nobody dies of it, and it can be read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from full_disk import fill_disk

from siamese_search.errors import StoreError
from siamese_search.gallery import open_gallery, open_store
from siamese_search.gallery.edge import footprint
from siamese_search.gallery.filters import Condition

from .. import contract

MODEL = contract.MODEL
N = 50

#: Writes until it is refused, in a process of its own: the engine writes into mapped files, and a full disk is SIGBUS.
WRITER = """
import json, sys
import numpy as np
from siamese_search.errors import StoreError
from siamese_search.gallery import open_gallery
from siamese_search.gallery.contract import ModelRef

store, fingerprint, dim = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng, written, said = np.random.default_rng(1), 0, ""
with open_gallery(store, model=ModelRef(fingerprint, dim), create=True, mode="w") as gallery:
    while not said:
        rows = rng.normal(size=(1000, dim)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        ids = [f"00000000-0000-4000-8000-{written + i:012d}" for i in range(len(rows))]
        try:
            gallery.upsert(ids, rows, [{"identity": "x" * 100}] * len(rows))
            gallery.flush()
            written += len(rows)
        except StoreError as error:
            said = str(error)
    readable = gallery.count()
print(json.dumps([written, readable, said]))
"""


def filled(store):
    rows, ids = contract.unit(np.random.default_rng(0), N), contract.make_ids(N)
    with open_gallery(store, model=MODEL, create=True, mode="w") as gallery:
        gallery.upsert(ids, rows, [{"camera": 1}] * N)
    return ids, rows


def is_readable(store, ids, rows):
    with open_gallery(store) as gallery:
        assert gallery.count([Condition("camera", "=", (1,))]) == len(ids)
        assert [hits[0].id for hits in gallery.query_batch(rows, 1, [Condition("camera", "=", (1,))])] == ids
        assert gallery.facet("camera")[1] == len(ids)
        assert gallery.info().size_bytes > 0


def test_a_writer_that_fills_the_disk_is_told_in_one_line_and_nothing_committed_is_lost(small_disk):
    store = small_disk / "store"
    command = [sys.executable, "-c", WRITER, str(store), MODEL.fingerprint, "512"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    written, readable, said = json.loads(done.stdout)
    assert written == readable > 1000
    assert "its disk is full" in said
    assert "free some space, then run the command again" in said
    assert "\n" not in said
    with open_gallery(store) as gallery:
        assert gallery.count() == written


@pytest.mark.parametrize("megabytes", [70, 205, 300])
def test_on_tmpfs_where_a_hole_that_is_read_takes_room_nobody_dies_either(tmp_path, megabytes):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a tmpfs of its own needs the right to mount one")
    try:
        command = [sys.executable, "-c", WRITER, str(disk / "store"), MODEL.fingerprint, "512"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode == 0:
            written, readable, said = json.loads(done.stdout)
            with open_gallery(disk / "store") as gallery:
                assert gallery.count() == written == readable
        else:  # not even one without points had room
            said = done.stderr.splitlines()[-1]
        assert "its disk is full" in said
        assert (done.returncode == 0) == (megabytes > 200)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_on_a_full_disk_reading_goes_on_and_writing_does_once_there_is_room(small_disk, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    store = small_disk / "store"
    ids, rows = filled(store)
    ballast = fill_disk(small_disk)
    is_readable(store, ids, rows)
    with open_gallery(store, mode="w") as gallery:
        assert gallery.count() == N  # read from a copy
        with pytest.raises(StoreError, match=r"its disk is full \(0\.0 MB free, .* MB needed\)"):
            gallery.upsert(ids[:1], rows[:1], [{"camera": 2}])
        with pytest.raises(StoreError, match="its disk is full"):
            gallery.set_payload(ids[:1], [{"camera": 2}])
        with pytest.raises(StoreError, match="its disk is full"):
            gallery.delete(ids[:1])
        with open_store(store) as opened, pytest.raises(StoreError, match="No space left on device"):
            opened.open("another", model=MODEL, create=True, mode="w")
        assert gallery.count() == N
        ballast.unlink()
        gallery.set_payload(ids[:1], [{"camera": 2}])
        assert gallery.facet("camera") == {1: N - 1, 2: 1}
    with open_gallery(store) as gallery:
        assert gallery.facet("camera") == {1: N - 1, 2: 1}


def test_a_disk_that_others_fill_while_a_writer_is_open_is_told_and_nothing_committed_is_lost(small_disk):
    store = small_disk / "store"
    ids, rows = filled(store)
    more = contract.make_ids(N, seed=1)
    gallery = open_gallery(store, mode="w")
    gallery.upsert(more, rows, [{"camera": 2}] * N)
    ballast = fill_disk(small_disk)
    assert gallery.count() == 2 * N
    with pytest.raises(StoreError, match=r"its disk is full; what was committed is kept: free some space"):
        gallery.flush()
    with suppress(StoreError):
        gallery.close()
    is_readable(store, ids, rows)
    ballast.unlink()
    is_readable(store, ids, rows)


def test_who_could_not_flush_holds_nothing_once_it_is_closed(small_disk):
    """Nobody could open the gallery again, in this process, however much room there was by then."""
    store = small_disk / "store"
    ids, rows = filled(store)
    gallery = open_gallery(store, mode="w")
    gallery.upsert(ids, rows, [{"camera": 1}] * N)
    ballast = fill_disk(small_disk)
    with pytest.raises(StoreError, match="its disk is full"):
        gallery.close()
    ballast.unlink()
    with open_gallery(store, mode="w", wait=0.5) as again:
        again.set_payload(ids[:1], [{"camera": 2}])
    is_readable(store, ids[1:], rows[1:])


def test_the_copies_of_readers_that_were_killed_are_deleted_and_no_others(tmp_path):
    abandoned, new = (Path(tempfile.mkdtemp(prefix="sss-read-", dir=tmp_path)) for _ in range(2))
    in_use = footprint.PrivateCopy(str(tmp_path))
    for path in (abandoned, Path(in_use.name)):
        (path / "shard").mkdir()
        os.utime(path, (time.time() - 1000,) * 2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "sss-read-link").symlink_to(tmp_path / "mine")
    footprint._remove_abandoned(str(tmp_path))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {new.name, Path(in_use.name).name, "mine", "sss-read-link"}
    in_use.cleanup()
    assert not Path(in_use.name).exists()


READER = """
import sys
from siamese_search.gallery import open_gallery
from siamese_search.gallery import open_store
from siamese_search.errors import StoreError

with open_store(sys.argv[1]) as store:
    print(store.names())
with open_gallery(sys.argv[1]) as gallery, open_gallery(sys.argv[1]) as another:
    print(gallery.count(), another.count())
for act in (lambda gallery: gallery.delete(["0" * 32]), lambda gallery: gallery.optimise(index=True)):
    try:
        with open_gallery(sys.argv[1], mode="w") as gallery:
            act(gallery)
    except StoreError as error:
        print(error)
"""


def _as_anybody():
    """How to run a command without root's powers."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and there is no setpriv to give that up")
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


def test_a_read_only_store_can_be_read(tmp_path):
    store, before = tmp_path / "store", {}
    filled(store)
    next(store.rglob("turnstile.lock")).unlink()  # as from another machine's copy
    try:
        for path in [*store.rglob("*"), store]:
            path.chmod(path.stat().st_mode & ~0o222)
            before[path] = path.stat().st_mtime_ns
        command = [*_as_anybody(), sys.executable, "-c", READER, str(store)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        names, counts, *refused = done.stdout.splitlines()
        assert (names, counts) == ("['default']", f"{N} {N}")
        assert len(refused) == 2
        assert all(line.startswith("cannot write gallery 'default'") for line in refused)
        assert all("is read-only" in line for line in refused)
        assert {path: path.stat().st_mtime_ns for path in [*store.rglob("*"), store]} == before
    finally:
        for path in [store, *store.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)

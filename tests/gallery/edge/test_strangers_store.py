"""A store that came with somebody else's data: nothing in it may lead to another file, or hold us for ever."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from siamese_search.errors import GalleryNotFoundError, StoreError
from siamese_search.gallery.contract import Gallery, ModelRef
from siamese_search.gallery.edge import layout
from siamese_search.gallery.edge.convert import translated
from siamese_search.gallery.edge.locks import Turnstile
from siamese_search.gallery.edge.store import EmbeddedStore

MODEL = ModelRef("f" * 64, 4, "tiny")
SECRET = "export IMPORTANT=1\n"


def make_store(root: Path) -> Path:
    with EmbeddedStore(root).open("default", model=MODEL, create=True, mode="w") as gallery:
        put(gallery, 1, 2)
    return layout.current_generation(layout.find_gallery(root, "default"))


def put(gallery: Gallery, *numbers: int) -> None:
    vectors = np.zeros((len(numbers), 4), np.float32)
    vectors[range(len(numbers)), [number % 4 for number in numbers]] = 1.0
    ids = [f"00000000-0000-0000-0000-{number:012d}" for number in numbers]
    gallery.upsert(ids, vectors, [{"identity": str(number)} for number in numbers])


def read(root: Path) -> None:
    with EmbeddedStore(root).open("default", model=MODEL) as gallery:
        gallery.query(np.array([1, 0, 0, 0], np.float32), 1)


def write(root: Path) -> None:
    with EmbeddedStore(root).open("default", model=MODEL, mode="w") as gallery:
        put(gallery, 3)


def optimise(root: Path) -> None:
    with EmbeddedStore(root).open("default", model=MODEL, mode="w") as gallery:
        gallery.optimise()


def entries(generation: Path) -> list[Path]:
    """Every file of a store by its path from the generation, and those that it may have for a while."""
    gallery, store = generation.parent, generation.parents[2]
    made = [path for path in store.rglob("*") if path.is_file()]
    for name in ("shard.lock", "turnstile.lock", "written", "journal", "optimise.lock", "optimised", "fields.json"):
        made.append(generation / name)
    return sorted({*made, gallery / "BUILDING", gallery / "build.lock"})


@pytest.mark.parametrize("act", [read, write, optimise])
def test_no_file_of_a_store_is_followed_elsewhere(tmp_path: Path, act: Callable[[Path], None]) -> None:
    generation = make_store(tmp_path / "store")
    victim = tmp_path / "victim"
    for path in entries(generation):
        former = path.read_bytes() if path.exists() else None
        path.unlink(missing_ok=True)
        victim.write_text(SECRET)
        path.symlink_to(victim)
        with suppress(StoreError):
            act(tmp_path / "store")
        assert victim.read_text() == SECRET, path
        path.unlink(missing_ok=True)
        if former is not None:
            path.write_bytes(former)
    act(tmp_path / "store")


@pytest.mark.parametrize("act", [read, write, optimise])
def test_no_file_of_a_store_is_another_file_too(tmp_path: Path, act: Callable[[Path], None]) -> None:
    """An archive may hold hard links to what lies where it is unpacked."""
    generation = make_store(tmp_path / "store")
    victim = tmp_path / "victim"
    for path in entries(generation):
        former = path.read_bytes() if path.exists() else None
        path.unlink(missing_ok=True)
        victim.unlink(missing_ok=True)
        victim.write_bytes(former or SECRET.encode())
        path.hardlink_to(victim)
        with suppress(StoreError):
            act(tmp_path / "store")
        assert victim.read_bytes() == (former or SECRET.encode()), path
        path.unlink(missing_ok=True)
        if former is not None:
            path.write_bytes(former)
    act(tmp_path / "store")


@pytest.mark.parametrize("verb", ["drop", "rollback", "drop_old", "build"])
def test_nothing_is_made_or_renamed_behind_a_link_to_a_generation(tmp_path: Path, verb: str) -> None:
    generation = make_store(tmp_path / "store")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(generation, elsewhere)
    (elsewhere / "shard").rename(elsewhere / "shard.next")  # as a swap that was cut short
    for name in ("shard.lock", "turnstile.lock"):
        (elsewhere / name).unlink()
    before = sorted(elsewhere.rglob("*"))
    (generation.parent / "g-00000000").symlink_to(elsewhere)
    (generation.parent / "CURRENT").write_text(f"{generation.name}\n{'' if verb == 'build' else 'g-00000000'}\n")
    store = EmbeddedStore(tmp_path / "store")
    with suppress(StoreError):
        store.build("default", MODEL).close() if verb == "build" else getattr(store, verb)("default")
    assert sorted(elsewhere.rglob("*")) == before
    if verb == "drop":
        assert store.names() == []


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "1" + "0" * 400])
def test_no_number_of_a_strangers_is_a_mistake_of_ours(tmp_path: Path, number: str) -> None:
    generation = make_store(tmp_path / "store")
    (generation / "points.json").write_text(f'{{"format": 1, "points": {number}, "mark": ""}}')
    read(tmp_path / "store")
    (generation / "shard.lock").write_text(f'{{"pid": {number}, "host": "{socket.gethostname()}", "since": {number}}}')
    assert Turnstile(generation, "it").holder() == "another process"


def test_a_gallery_of_another_dimension_than_it_says_is_damaged(tmp_path: Path) -> None:
    generation = make_store(tmp_path / "store")
    header = layout.read_header(generation)
    layout.write_header(generation, replace(header, model=replace(MODEL, dim=8)))
    with EmbeddedStore(tmp_path / "store").open("default") as gallery:
        assert [one.vector for one in gallery.scroll(with_vectors=True)] == [None, None]


@pytest.mark.parametrize("name", ["galleries", "galleries/default", "generation", "shard", "segments"])
def test_no_directory_of_a_store_may_be_a_link(tmp_path: Path, name: str) -> None:
    generation = make_store(tmp_path / "store")
    places = {"generation": generation, "shard": generation / "shard", "segments": generation / "shard" / "segments"}
    path = places.get(name, tmp_path / "store" / name)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    before = {p: p.read_bytes() for p in elsewhere.rglob("*") if p.is_file()}
    path.symlink_to(elsewhere)
    for act in (read, write):
        with pytest.raises(StoreError, match=r"link"):
            act(tmp_path / "store")
    assert {p: p.read_bytes() for p in elsewhere.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("act", [read, write])
def test_pipes_hold_nobody(tmp_path: Path, act: Callable[[Path], None]) -> None:
    generation = make_store(tmp_path / "store")
    for path in entries(generation):
        former = path.read_bytes() if path.exists() else None
        path.unlink(missing_ok=True)
        os.mkfifo(path)

        def attempt() -> None:
            with suppress(StoreError):
                act(tmp_path / "store")

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), path
        path.unlink(missing_ok=True)
        if former is not None:
            path.write_bytes(former)


def test_a_lock_file_says_nothing_that_a_stranger_could_have_chosen(tmp_path: Path) -> None:
    generation = make_store(tmp_path / "store")
    with EmbeddedStore(tmp_path / "store").open("default", model=MODEL) as gallery:
        gallery.count()
        text = (generation / "shard.lock").read_text()
    assert set(json.loads(text)) == {"pid", "host", "since"}


def test_the_store_itself_may_be_reached_through_a_link(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    (tmp_path / "link").symlink_to(tmp_path / "store")
    read(tmp_path / "link")
    write(tmp_path / "link")


def test_a_panic_of_the_engine_is_one_line(tmp_path):
    """It prints where it happened, and a backtrace, before Python learns of it."""
    generation = make_store(tmp_path / "store")
    for file in generation.glob("shard/segments/*/payload_index/*/has_values/status.dat"):
        file.write_bytes(b"")
    code = (
        "import sys; from siamese_search.gallery import open_gallery\n"
        "print('kept', file=sys.stderr)\n"
        "try:\n    open_gallery(sys.argv[1]).count()\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
        "print('kept too', file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "kept\nkept too\n")
    assert done.stdout.startswith("StoreError gallery 'default'")
    assert "the vector engine failed: index out of bounds" in done.stdout


@pytest.mark.parametrize("instead", ["nothing", "a directory", "a pipe"])
def test_a_gallery_that_lost_its_pointer_is_no_missing_gallery(tmp_path, instead):
    """A copy that was cut short: to make the gallery anew, as we would say of a missing one, cannot be meant."""
    pointer = make_store(tmp_path / "store").parent / "CURRENT"
    pointer.unlink()
    if instead == "a directory":
        pointer.mkdir()
    elif instead == "a pipe":
        os.mkfifo(pointer)
    store = EmbeddedStore(tmp_path / "store")
    for how in ({}, {"model": MODEL, "create": True, "mode": "w"}):
        with pytest.raises(StoreError, match=r"CURRENT is missing or no file.*restore it") as caught:
            store.open("default", **how)
        assert not isinstance(caught.value, GalleryNotFoundError)


def test_limits_of_the_system_are_no_damage():
    """Who is told to drop a gallery for want of memory would lose what is sound."""
    for text, said in (
        ("failed to load segment: Out of memory, IO Error: Cannot allocate memory (os error 12)", "ulimit -v"),
        ('failed to open WAL: Os { code: 24, message: "Too many open files" }', "ulimit -n"),
        ('Can\'t init WAL: Os { code: 27, kind: FileTooLarge, message: "File too large" }', "ulimit -f"),
        ("failed to build edge-search thread pool: Resource temporarily unavailable (os error 11)", "ulimit -u"),
        ("Failed to save structure on disk with error: Permission denied (os error 13)", "may not"),
    ):
        with pytest.raises(StoreError) as caught, translated("gallery 'x'", "; drop it and ingest again"):
            raise Exception(text)
        assert said in str(caught.value)
        assert "drop it" not in str(caught.value)

"""Optimising an embedded gallery: what others see meanwhile, and what a crash at any moment leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from soundness import verify_vectors

from siamese_search.errors import StoreBusyError, StoreError
from siamese_search.gallery import open_gallery
from siamese_search.gallery.contract import Gallery, ModelRef
from siamese_search.gallery.edge import journal, layout, optimise
from siamese_search.gallery.filters import Condition

DIM = 32
MODEL = ModelRef("f" * 64, DIM, "tests")
N = 500


def row(i: int) -> np.ndarray:
    found = np.random.default_rng(i).standard_normal(DIM).astype(np.float32)
    return found / np.linalg.norm(found)


def point_id(i: int) -> str:
    return str(uuid.UUID(int=i))


def put(gallery: Gallery, start: int, stop: int, **payload: object) -> None:
    numbers = range(start, stop)
    gallery.upsert(
        [point_id(i) for i in numbers],
        np.stack([row(i) for i in numbers]),
        [{"size": i, "camera": str(i % 3), **payload} for i in numbers],
    )


@pytest.fixture
def store(scratch: Path) -> Path:
    path = scratch / "store"
    with open_gallery(path, model=MODEL, create=True, mode="w") as gallery:
        put(gallery, 0, N)
    return path


def generation(store: Path) -> Path:
    return layout.current_generation(store / "galleries" / "default")


def debris(store: Path) -> list[str]:
    names = {path.name for path in generation(store).iterdir()}
    return sorted(names & {"shard.next", "shard.old", "journal"})


def sound(gallery: Gallery, wanted: set[int]) -> None:
    """It holds exactly these points, whole, and finds each of some."""
    assert {int(uuid.UUID(point.id)) for point in gallery.scroll()} == wanted
    assert verify_vectors(gallery).damaged == ()
    for i in sorted(wanted)[::50]:
        assert gallery.query(row(i), 1, exact=True)[0].id == point_id(i)


def at(stage: str, action) -> object:
    """A progress callback that does something once, when a stage is reached."""
    done: list[str] = []

    def progress(now: str, seconds: float) -> None:
        assert seconds >= 0
        if now == stage and not done:
            done.append(now)
            action()

    progress.done = done  # type: ignore[attr-defined]
    return progress


class Stages:
    """Calls ``actions`` in a second thread at the moment a stage begins, and waits for them: no race with the child.

    The work of the child is done in this process, stage by stage, so that every stage can be met.
    """

    def __init__(self, store: Path, **actions) -> None:
        self.actions, self.seen = actions, []
        self.changed = optimise.optimise(generation(store), "it", points=N, index=True, wait=5, say=self.say)

    def say(self, stage: str) -> None:
        self.seen.append(stage)
        action = self.actions.get(stage.split()[0])
        if action is not None:
            action()


def test_an_index_is_built_where_it_is_asked_for(store: Path):
    with open_gallery(store, mode="w") as gallery:
        assert gallery.optimise() is False  # too small for anything
        assert gallery.info().indexed_points == 0
        stages: list[str] = []
        assert gallery.optimise(index=True, progress=lambda stage, _: stages.append(stage)) is True
        assert "building the index" in stages or "swapping" in stages
        assert gallery.info().indexed_points == N
        sound(gallery, set(range(N)))
        assert gallery.optimise(index=True) is False
        assert gallery.optimise() is False  # keeps the index that there is
        put(gallery, N, N + 100)
        assert gallery.optimise() is True
        assert gallery.info().indexed_points == N + 100
        assert gallery.optimise(index=False) is True
        assert gallery.info().indexed_points == 0
        sound(gallery, set(range(N + 100)))
    assert debris(store) == []


def test_compacting_leaves_every_answer_as_it_was(store: Path, monkeypatch: pytest.MonkeyPatch):
    where = [Condition("camera", "=", ("1",))]
    with open_gallery(store, mode="w") as gallery:
        gallery.delete([point_id(i) for i in range(0, 100, 2)])
        before = [gallery.query(row(i), 20, conditions) for i in (3, 700) for conditions in ((), where)]
        facets = gallery.facet("camera")
    monkeypatch.setattr(optimise, "COMPACT_FROM", 100)
    assert optimise.optimise(generation(store), "it", points=N, index=None, wait=5, say=lambda _: None)
    with open_gallery(store, mode="w") as gallery:
        assert [gallery.query(row(i), 20, conditions) for i in (3, 700) for conditions in ((), where)] == before
        assert gallery.facet("camera") == facets
        put(gallery, 0, 2, camera="9")
        assert gallery.facet("camera")["9"] == 2


def test_searches_and_writes_go_on_meanwhile_and_nothing_is_lost(store: Path):
    """What is written after the copy was made: new, replaced and deleted points, and a new field."""

    def others() -> None:
        with open_gallery(store, mode="w", wait=1) as gallery:
            assert gallery.count() == N
            assert gallery.query(row(7), 1)[0].id == point_id(7)
            put(gallery, N, N + 40, colour="red")
            put(gallery, 0, 10, camera="9")
            gallery.delete([point_id(20), point_id(21), point_id(N + 1)])

    def late() -> None:
        with open_gallery(store, mode="w", wait=1) as gallery:
            put(gallery, 20, 21)
            put(gallery, 900, 3000)  # more than one turn's worth

    done = Stages(store, building=others, swapping=late)
    assert done.changed is True
    assert done.seen == ["copying", "building the index", "swapping"]
    with open_gallery(store) as gallery:
        sound(gallery, {*range(N + 40), *range(900, 3000)} - {21, N + 1})
        assert gallery.facet("colour") == {"red": 39}
        assert gallery.count([Condition("camera", "=", ("9",))]) == 10
        assert gallery.info().indexed_points > 0
    assert debris(store) == []


def test_a_field_that_changes_its_type_meanwhile_begins_it_again(store: Path):
    widened: list[int] = []

    def widen() -> None:
        if not widened:
            widened.append(1)
            with open_gallery(store, mode="w") as gallery:
                put(gallery, N, N + 1, size="large")

    done = Stages(store, building=widen)
    assert done.changed is True
    assert done.seen.count("copying") == 2
    with open_gallery(store) as gallery:
        assert gallery.fields()["size"] == "str"
        assert gallery.count([Condition("size", "=", ("7",))]) == 1
        sound(gallery, set(range(N + 1)))


def test_a_gallery_that_never_rests_is_given_up(store: Path):
    kinds = iter(["int", 2.5, "text"])

    def widen() -> None:
        with open_gallery(store, mode="w") as gallery:
            put(gallery, N, N + 1, restless=next(kinds))
            (generation(store) / "journal").unlink()

    with pytest.raises(StoreError, match="faster than it can be optimised"):
        Stages(store, building=widen)
    assert debris(store) == []
    with open_gallery(store) as gallery:
        sound(gallery, set(range(N + 1)))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("stage", ["opening", "building the index"])
def test_a_child_that_is_killed_leaves_the_gallery_as_it_was(scratch: Path, how: signal.Signals, stage: str):
    path, n = scratch / "store", 12_000
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((n, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = [point_id(i) for i in range(n)]
    with open_gallery(path, model=MODEL, create=True, mode="w") as gallery:
        gallery.upsert(ids, rows, [{"size": i} for i in range(n)])
        shoot = at(stage, lambda: os.kill(child(), how))
        with pytest.raises(StoreError, match=how.name):
            gallery.optimise(index=True, progress=shoot)  # type: ignore[arg-type]
        assert shoot.done  # type: ignore[attr-defined]
        assert debris(path) == []
        assert gallery.count() == n
        assert gallery.query(rows[11], 1)[0].id == ids[11]
        gallery.upsert(ids[:1], rows[:1], [{"size": -1}])
        assert gallery.count([Condition("size", "<", (0,))]) == 1


def child() -> int:
    """The only child of this process that optimises."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == os.getpid() and b"siamese_search.gallery.edge.optimise" in command:
                return int(entry.name)
    raise AssertionError("no child is optimising")


def test_an_interrupt_in_the_parent_kills_the_child(store: Path):
    def interrupt() -> None:
        raise KeyboardInterrupt

    with open_gallery(store, mode="w") as gallery:
        put(gallery, N, 6000)
        with pytest.raises(KeyboardInterrupt):
            gallery.optimise(index=True, progress=at("building the index", interrupt))  # type: ignore[arg-type]
        assert gallery.count() == 6000
        assert gallery.info().indexed_points == 0
    assert debris(store) == []


_PARENT = """
import os, signal, sys
from siamese_search.gallery import open_gallery

def die(stage, seconds):
    if stage == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

with open_gallery(sys.argv[1], mode="w") as gallery:
    gallery.optimise(index=True, progress=die)
"""


@pytest.mark.parametrize("stage", ["opening", "building the index"])
def test_a_parent_that_is_killed_leaves_the_gallery_whole(store: Path, stage: str):
    """Its child ends at its next words, or has swapped; both are as good, and the next one goes through."""
    with open_gallery(store, mode="w") as gallery:
        put(gallery, N, 3000)
    dead = subprocess.run([sys.executable, "-c", _PARENT, os.fspath(store), stage], timeout=120)
    assert dead.returncode == -signal.SIGKILL
    with open_gallery(store, mode="w", wait=60) as gallery:
        sound(gallery, set(range(3000)))
        put(gallery, 3000, 3010)
        for _ in range(300):  # the orphan may still be at work
            try:
                gallery.optimise(index=True)
                break
            except StoreBusyError:
                time.sleep(0.2)
        sound(gallery, set(range(3010)))
        assert gallery.info().indexed_points >= 3000
    assert debris(store) == []


def test_a_swap_cut_short_between_its_two_renames_is_finished(store: Path, monkeypatch: pytest.MonkeyPatch):
    rename = Path.rename

    def die(self: Path, target: Path) -> Path:
        if Path(target).name == "shard":
            raise SystemExit("power loss")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", die)
    with pytest.raises(SystemExit):
        Stages(store)
    monkeypatch.undo()
    assert not (generation(store) / "shard").exists()
    with open_gallery(store) as gallery:
        sound(gallery, set(range(N)))
        assert gallery.info().indexed_points == N
    assert Stages(store).changed is True
    assert debris(store) == []


def test_what_a_killed_optimisation_left_is_deleted_by_the_next(store: Path):
    for name in ("shard.next", "shard.old"):
        (generation(store) / name).mkdir()
        (generation(store) / name / "half").write_text("x")
    journal.begin(generation(store))
    with open_gallery(store, mode="w") as gallery:
        put(gallery, N, N + 5)
        assert gallery.count() == N + 5
        assert gallery.optimise(index=True) is True
        sound(gallery, set(range(N + 5)))
    assert debris(store) == []


def test_one_optimisation_at_a_time(store: Path):
    def again() -> None:
        with pytest.raises(StoreBusyError, match="being optimised"):
            Stages(store)

    assert Stages(store, building=again).changed is True


def test_a_gallery_dropped_meanwhile_is_an_error(store: Path):
    from siamese_search.gallery import open_store

    def drop() -> None:
        with open_store(store) as opened:
            opened.drop("default")

    place = generation(store)
    with pytest.raises(StoreError, match="replaced meanwhile"):
        optimise.optimise(
            place, "it", points=N, index=True, wait=5, say=lambda stage: drop() if stage == "swapping" else None
        )
    assert not place.exists()


class TestJournal:
    def test_nothing_is_kept_where_nobody_asks(self, tmp_path: Path):
        journal.note(tmp_path, [point_id(1)])
        assert list(tmp_path.iterdir()) == []
        assert journal.read(tmp_path, 0) is None

    def test_entries_come_back_in_order(self, tmp_path: Path):
        journal.begin(tmp_path)
        ids = [point_id(i) for i in (5, 3, 5, 2**100)]
        for one in ids:
            journal.note(tmp_path, [one])
        assert journal.read(tmp_path, 0) == ids
        assert journal.read(tmp_path, 3) == ids[3:]
        assert journal.read(tmp_path, 4) == []
        with (tmp_path / journal.NAME).open("ab") as file:
            file.write(b"half")  # a writer that was killed
        assert journal.read(tmp_path, 0) == ids
        journal.note(tmp_path, ids[:2])  # what is written after it is not out of step
        assert journal.read(tmp_path, 0) == [*ids, *ids[:2]]
        journal.end(tmp_path)
        journal.end(tmp_path)
        assert journal.read(tmp_path, 0) is None

    def test_an_abandoned_one_ends(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(journal, "MOST_BYTES", 100)
        journal.begin(tmp_path)
        for i in range(20):
            journal.note(tmp_path, [point_id(i)])
        assert journal.read(tmp_path, 0) is None


def test_readers_in_threads_go_on_while_a_child_works(store: Path):
    """A real child, and searches in this process at the same time."""
    with open_gallery(store, mode="w") as gallery:
        put(gallery, N, 8000)
        stop, answers = threading.Event(), []

        def ask() -> None:
            with open_gallery(store, wait=60) as mine:
                while not stop.is_set():
                    answers.append(mine.query(row(7), 1)[0].id)

        reader = threading.Thread(target=ask)
        reader.start()
        try:
            assert gallery.optimise(index=True) is True
        finally:
            stop.set()
            reader.join()
        assert set(answers) == {point_id(7)}
        assert gallery.info().indexed_points == 8000

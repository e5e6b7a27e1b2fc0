"""The embedded store: the contract, and its own traps: crashes between two steps, debris, readers in the way."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from siamese_search.errors import GalleryNotFoundError, StoreBusyError, StoreError
from siamese_search.gallery import open_store
from siamese_search.gallery.contract import Generations
from siamese_search.gallery.edge import layout
from siamese_search.gallery.edge.locks import Turnstile
from siamese_search.gallery.edge.store import EmbeddedStore

# importlib import mode keeps test directories off sys.path, so the suite is loaded by its file.
_spec = importlib.util.spec_from_file_location(
    "store_contract", Path(__file__).parents[1].joinpath("store_contract.py")
)
assert _spec is not None
assert _spec.loader is not None
contract = importlib.util.module_from_spec(_spec)
sys.modules["store_contract"] = contract
_spec.loader.exec_module(contract)
OLD, NEW, NEWER = contract.OLD, contract.NEW, contract.NEWER
count, fill, finds, put, renew = contract.count, contract.fill, contract.finds, contract.put, contract.renew
PROJECT = Path(__file__).resolve().parents[3]


class TestEmbeddedStore(contract.StoreContract):
    @pytest.fixture
    def open_place(self, scratch):
        return lambda: open_store(scratch / "store")


@pytest.fixture
def store(scratch: Path) -> EmbeddedStore:
    opened = EmbeddedStore(scratch / "store")
    fill(opened)
    return opened


def home(store: EmbeddedStore) -> Path:
    return store.path / "galleries" / "default"


def files(store: EmbeddedStore) -> list[str]:
    """What lies in a gallery's directory, less the locks of builders."""
    return sorted(path.name for path in home(store).iterdir() if not path.name.endswith(".lock"))


def built(store: EmbeddedStore) -> Path:
    """A new generation of six images, not yet published."""
    with store.build("default", NEW) as fresh:
        put(fresh, *range(6))
    path = layout.building_generation(home(store))
    assert path is not None
    return path


def crash(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Make a step of :mod:`layout` the moment at which the process dies: nothing after it runs."""

    def die(*_: object) -> None:
        raise SystemExit(step)

    monkeypatch.setattr(layout, step, die)


def test_old_files_go_when_they_should(store: EmbeddedStore):
    first = layout.current_generation(home(store))
    renew(store)
    second = layout.current_generation(home(store))
    assert files(store) == sorted(["CURRENT", first.name, second.name])
    renew(store, model=NEWER, n=4)
    third = layout.current_generation(home(store))
    assert files(store) == sorted(["CURRENT", second.name, third.name])
    store.drop_old("default")
    assert files(store) == sorted(["CURRENT", third.name])
    store.drop("default")
    assert list((store.path / "galleries").iterdir()) == []


def test_a_store_of_the_first_layout_is_read(store: EmbeddedStore):
    """CURRENT of one line, without a former generation."""
    assert (home(store) / "CURRENT").read_text().count("\n") == 1
    assert store.generations("default") == Generations(OLD)


def test_a_crash_before_the_swap_changes_nothing(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch):
    built(store)
    with monkeypatch.context() as patch:
        crash(patch, "point_to")
        with pytest.raises(SystemExit):
            store.publish("default")
    assert store.generations("default") == Generations(OLD, None, NEW)
    assert count(store) == 10
    store.publish("default")
    assert store.generations("default") == Generations(NEW, OLD)


def test_a_crash_between_the_swap_and_its_note(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch):
    """BUILDING still names what is current now: nobody may continue, publish or delete it as unfinished."""
    fresh = built(store)
    with monkeypatch.context() as patch:
        crash(patch, "mark_building")
        with pytest.raises(SystemExit):
            store.publish("default")
    assert (home(store) / "BUILDING").read_text().strip() == fresh.name
    assert store.generations("default") == Generations(NEW, OLD)
    assert count(store) == 6
    with pytest.raises(StoreError, match="nothing is being built"):
        store.publish("default")
    assert store.rollback("default") == OLD
    assert store.generations("default") == Generations(OLD, NEW)
    assert store.rollback("default") == NEW
    with store.build("default", NEW) as another:  # of the same model, even so
        assert another.count() == 0
    assert count(store) == 6
    assert store.generations("default") == Generations(NEW, OLD, NEW)


def test_a_crash_between_the_swap_and_its_note_then_drop_old(store: EmbeddedStore):
    fresh = built(store)
    current = layout.current_generation(home(store))
    layout.point_to(home(store), fresh, current)  # the state on disk at that moment
    assert store.drop_old("default") == 1
    assert files(store) == sorted(["CURRENT", fresh.name])
    assert count(store) == 6


def test_a_builder_that_died_before_its_note_leaves_debris_for_the_next(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        real = layout.mark_building
        patch.setattr(layout, "mark_building", lambda home, to: real(home, to) if to is None else sys.exit(1))
        with pytest.raises(SystemExit):
            store.build("default", NEW)
    assert len(files(store)) == 3  # CURRENT, the current one, and one that nobody names
    assert store.generations("default") == Generations(OLD)
    fresh = built(store)
    assert files(store) == sorted(["BUILDING", "CURRENT", fresh.name, layout.current_generation(home(store)).name])


@pytest.mark.parametrize("text", ["", "g-00000000", "../default", "/etc", "\x00", "g-zzzzzzzz\ng-1"])
def test_a_damaged_note_of_a_building_generation_counts_as_none(store: EmbeddedStore, text: str):
    fresh = built(store)
    (home(store) / "BUILDING").write_text(text)
    assert store.generations("default") == Generations(OLD)
    with pytest.raises(StoreError, match="nothing is being built"):
        store.publish("default")
    built(store)
    assert not fresh.exists()


def test_a_damaged_building_generation_is_begun_anew(store: EmbeddedStore):
    fresh = built(store)
    (fresh / "gallery.json").write_text("{")
    with pytest.raises(StoreError, match=r"gallery\.json.*damaged"):
        store.publish("default")
    assert count(store) == 10
    with store.build("default", NEW) as again:
        assert again.count() == 0
    assert not fresh.exists()


def test_a_former_generation_that_was_deleted_by_hand(store: EmbeddedStore):
    first = layout.current_generation(home(store))
    renew(store)
    layout.remove_tree(first)
    assert store.generations("default") == Generations(NEW)
    with pytest.raises(StoreError, match="no former generation"):
        store.rollback("default")
    assert count(store) == 6


def test_rolling_back_to_damage_is_refused_and_from_damage_works(store: EmbeddedStore):
    first = layout.current_generation(home(store))
    renew(store)
    (first / "shard").rename(first / "away")
    with pytest.raises(StoreError, match=r"damaged.*nothing was changed"):
        store.rollback("default")
    assert count(store) == 6
    (first / "away").rename(first / "shard")
    layout.remove_tree(layout.current_generation(home(store)) / "shard")
    assert store.rollback("default") == OLD
    assert count(store) == 10


def test_a_damaged_gallery_can_be_dropped(store: EmbeddedStore):
    layout.remove_tree(layout.current_generation(home(store)) / "shard")
    (home(store) / "CURRENT").write_text("nonsense")
    store.drop("default")
    assert store.names() == []


def test_a_builder_killed_in_the_middle_keeps_its_points_and_blocks_nobody(store: EmbeddedStore):
    code = """
import importlib.util, sys, os
spec = importlib.util.spec_from_file_location("store_contract", sys.argv[2])
contract = importlib.util.module_from_spec(spec); spec.loader.exec_module(contract)
from siamese_search.gallery import open_store
fresh = open_store(sys.argv[1]).build("default", contract.NEW)
for i in range(100_000):
    contract.put(fresh, i)
    print(i, flush=True)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code, os.fspath(store.path), Path(__file__).parents[1].joinpath("store_contract.py")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.fspath(PROJECT)},
    )
    assert child.stdout is not None
    for _ in range(5):
        done = int(child.stdout.readline())
    with pytest.raises(StoreBusyError, match=rf"process {child.pid} \(-c"):
        store.build("default", NEW, wait=0.1)
    child.kill()
    rest = child.stdout.read().split()
    child.wait(timeout=60)
    done = int(rest[-1]) if rest else done
    assert count(store) == 10
    with store.build("default", NEW) as fresh:
        assert done + 1 <= fresh.count() <= done + 2
        assert finds(fresh, 3)


class Busy:
    """Somebody in the middle of a call on a generation, in another thread, until ``done`` is set."""

    def __init__(self, generation: Path) -> None:
        self.generation, self.done, self.inside = generation, threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.work)

    def work(self) -> None:
        lock = Turnstile(self.generation, "it")
        lock.acquire(10)
        self.inside.set()
        self.done.wait(60)
        lock.release()

    def __enter__(self) -> Busy:
        self.thread.start()
        assert self.inside.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()


def test_publishing_waits_for_a_call_that_has_begun(store: EmbeddedStore):
    built(store)
    with Busy(layout.current_generation(home(store))) as busy:
        with pytest.raises(StoreBusyError):
            store.publish("default", wait=0.1)
        assert store.generations("default") == Generations(OLD, None, NEW)
        threading.Timer(0.2, busy.done.set).start()
        store.publish("default", wait=60)
    assert store.generations("default") == Generations(NEW, OLD)


def test_a_former_generation_in_use_is_left_for_the_next_builder(store: EmbeddedStore):
    first = layout.current_generation(home(store))
    renew(store)
    with Busy(first):
        renew(store, model=NEWER, n=4)  # does not wait for who reads what is on its way out
        assert store.generations("default") == Generations(NEWER, NEW)
        assert first.is_dir()
    with store.build("default", OLD):
        assert not first.exists()


def test_dropping_waits_for_a_call_that_has_begun(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("siamese_search.gallery.edge.store._WAIT", 0.1)
    with Busy(layout.current_generation(home(store))) as busy:
        with pytest.raises(StoreBusyError):
            store.drop("default")
        assert store.names() == ["default"]
        monkeypatch.setattr("siamese_search.gallery.edge.store._WAIT", 60.0)
        threading.Timer(0.2, busy.done.set).start()
        store.drop("default")
    assert store.names() == []


def test_a_drop_that_died_before_deleting_is_finished_by_the_next(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        crash(patch, "remove_dropped")
        with pytest.raises(SystemExit):
            store.drop("default")
    assert store.names() == []
    assert len(list((store.path / "galleries").iterdir())) == 1
    fill(store)
    store.drop("default")
    assert list((store.path / "galleries").iterdir()) == []


def test_who_waited_for_a_gallery_that_was_dropped_and_made_again(store: EmbeddedStore):
    """A lock on a directory that has been replaced protects nothing: it is not taken for the right one."""
    lock = Turnstile(home(store), "it", "build.lock")
    lock.acquire(1)
    assert lock.in_place()
    aside = home(store).rename(store.path / "galleries" / "aside")
    assert not lock.in_place()
    fill(store)
    with store.build("default", NEW) as fresh:  # the old lock is still held: of other files
        put(fresh, 1)
    assert not lock.in_place()
    lock.release()
    layout.remove_tree(aside)


def test_a_gallery_that_vanishes_under_its_writer_is_told_so(store: EmbeddedStore):
    with store.open("default", mode="w") as writer:
        store.drop("default")
        with pytest.raises(GalleryNotFoundError, match=r"'default'.*deleted meanwhile"):
            put(writer, 11)


def test_a_write_by_anybody_changes_the_mark_and_nothing_else_does(store: EmbeddedStore):
    with (
        store.open("default") as reader,
        store.open("default", mode="w") as one,
        EmbeddedStore(store.path).open("default", mode="w") as two,
    ):
        marks = [reader.write_mark()]
        for writer in (one, two, one, one):
            put(writer, 11)
            marks.append(reader.write_mark())
        one.delete([contract.point_id(11)])
        marks.append(reader.write_mark())
        put(two, 12)
        two.flush()
        put(two, 13)
        marks.append(reader.write_mark())
        assert len(set(marks)) == len(marks)
        assert None not in marks
        assert finds(one)
        one.flush()
        one.optimise()
        two.close()
        assert reader.write_mark() == one.write_mark() == marks[-1]
    renew(store, model=OLD)
    with store.open("default") as reader:
        assert reader.write_mark() not in marks


def test_what_was_begun_by_a_process_that_died_is_deleted_when_the_next_gallery_is_made(store: EmbeddedStore):
    galleries = home(store).parent
    debris = [galleries / name for name in (".default.0a1b2c3d.part", ".other.4e5f6a7b.part")]
    for path in debris:
        (path / "g-00000000" / "shard").mkdir(parents=True)
    os.utime(debris[0], (0, 0))
    store.open("third", model=OLD, create=True, mode="w").close()
    assert [path.exists() for path in debris] == [False, True]  # the other may be in the making

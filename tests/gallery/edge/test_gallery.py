"""The embedded engine's own traps: locks, crashes, other processes, interrupted optimising, damaged files."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import qdrant_edge as edge
from soundness import verify_vectors

from siamese_search.errors import StoreBusyError, StoreError
from siamese_search.gallery import open_gallery
from siamese_search.gallery.contract import ModelRef
from siamese_search.gallery.edge import footprint, layout
from siamese_search.gallery.edge import lease as lease_module
from siamese_search.gallery.edge.lease import ShardLease
from siamese_search.gallery.edge.locks import Turnstile
from siamese_search.gallery.filters import Condition

DIM = 16
MODEL = ModelRef("f" * 64, DIM, "tests")
PROJECT = Path(__file__).resolve().parents[3]

#: What every child process starts with: the same deterministic points as here.
PRELUDE = """
import sys, time, uuid
import numpy as np
from siamese_search.gallery import open_gallery
from siamese_search.gallery.contract import ModelRef
store, DIM = sys.argv[1], 16
MODEL = ModelRef("f" * 64, DIM, "tests")
def point(i):
    row = np.random.default_rng(i).standard_normal(DIM).astype(np.float32)
    return str(uuid.UUID(int=i)), row / np.linalg.norm(row)
def upsert(gallery, start, stop):
    ids, rows = zip(*map(point, range(start, stop)))
    gallery.upsert(ids, np.stack(rows), [{"size": i, "camera": str(i % 3)} for i in range(start, stop)])
def say(*what):
    print(*what, flush=True)
"""
exec(PRELUDE.split("store, DIM")[0] + PRELUDE[PRELUDE.index("def point") : PRELUDE.index("def say")])


def start(code: str, store: Path, *arguments: str, **options) -> subprocess.Popen:
    """A real process that runs ``code`` after the prelude; its stdout is text."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), os.fspath(store), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.fspath(PROJECT)},
        **options,
    )


def finish(child: subprocess.Popen) -> str:
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    return out


@pytest.fixture
def store(scratch: Path) -> Path:
    path = scratch / "store"
    with open_gallery(path, model=MODEL, create=True, mode="w") as gallery:
        upsert(gallery, 0, 50)  # noqa: F821
    return path


def generation(store: Path) -> Path:
    return layout.current_generation(store / "galleries" / "default")


def test_kill_9_during_upserts_loses_nothing_acknowledged(store: Path):
    acknowledged = 50
    for round_ in range(3):
        child = start(
            """
            with open_gallery(store, model=MODEL, mode="w") as gallery:
                first = int(sys.argv[2])
                for start in range(first, first + 100_000, 20):
                    upsert(gallery, start, start + 20)
                    say(start + 20)
            """,
            store,
            str(acknowledged),
        )
        assert child.stdout is not None
        for _ in range(4 + round_):
            acknowledged = int(child.stdout.readline())
        child.kill()
        rest = child.stdout.read().split()  # what it acknowledged before the kill arrived
        child.communicate(timeout=60)
        acknowledged = int(rest[-1]) if rest else acknowledged
        with open_gallery(store) as gallery:
            assert acknowledged <= gallery.count() <= acknowledged + 20
            sizes = {p.payload["size"] for p in gallery.scroll(fields=["size"])}
            assert set(range(acknowledged)) <= sizes
            assert verify_vectors(gallery).damaged == ()
        # the unacknowledged batch may be there in part or whole: upserting it again settles it
    with open_gallery(store, mode="w") as gallery:
        upsert(gallery, acknowledged, acknowledged + 20)  # noqa: F821
        assert gallery.count() == acknowledged + 20


def test_searches_are_answered_while_another_process_ingests(store: Path):
    writer = start(
        """
        with open_gallery(store, model=MODEL, mode="w") as gallery:
            say("go")
            end, i = time.monotonic() + 60, 50
            while time.monotonic() < end and not __import__("os").path.exists(sys.argv[2]):
                upsert(gallery, i, i + 50)
                i += 50
            say(i)
        """,
        store,
        os.fspath(store.parent / "stop"),
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    reading = """
        _, row = point(7)
        for _ in range(3):
            with open_gallery(store, wait=60) as gallery:
                assert gallery.query(row, 1)[0].payload["size"] == 7
        say(gallery.name)
    """
    readers = [start(reading, store) for _ in range(2)]
    for reader in readers:
        assert finish(reader) == "default\n"
    assert writer.poll() is None  # it was writing all the time
    (store.parent / "stop").touch()
    total = int(finish(writer))
    with open_gallery(store) as gallery:
        assert gallery.count() == total


def test_readers_that_stay_open_take_turns(store: Path):
    code = """
        _, row = point(3)
        with open_gallery(store, wait=60) as gallery:
            for _ in range(200):
                assert gallery.query(row, 1)[0].payload["size"] == 3
    """
    for child in [start(code, store) for _ in range(3)]:
        finish(child)


def test_galleries_in_one_process_and_thread_take_turns(store: Path):
    with open_gallery(store, mode="w") as one, open_gallery(store, wait=5) as two, open_gallery(store) as three:
        for i in range(50, 53):
            upsert(one, i, i + 1)  # noqa: F821
            assert two.count() == three.count() == i + 1


def test_an_idle_holder_gives_way(store: Path):
    """A program that thinks (embeds, waits for a person) with a gallery open keeps nobody out."""
    holder = start(
        """
        gallery = open_gallery(store, mode="w")
        upsert(gallery, 50, 60)
        say("holding")
        sys.stdin.readline()
        say(gallery.count())
        """,
        store,
        stdin=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "holding\n"
    with open_gallery(store, wait=60, mode="w") as gallery:
        assert gallery.count() == 60
        upsert(gallery, 60, 70)  # noqa: F821
    assert holder.communicate("\n", timeout=60)[0] == "70\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
def test_who_waits_for_a_stopped_process_is_told_how_it_goes_on(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", "input('ready')"], stdin=-1, stdout=-1) as holder:
        assert holder.stdout is not None
        assert holder.stdout.read(5) == b"ready"
        note = {"pid": holder.pid, "host": socket.gethostname(), "since": time.time()}
        (tmp_path / "shard.lock").write_text(json.dumps(note))
        lock = Turnstile(tmp_path, "the gallery")
        running = lock.holder()
        holder.send_signal(signal.SIGSTOP)
        os.waitpid(holder.pid, os.WUNTRACED)
        stopped = lock.holder()
        holder.kill()
    assert "stopped" not in running
    assert f", stopped until kill -CONT {holder.pid}) for " in stopped


def test_a_reader_that_waited_in_vain_names_the_holder(store: Path):
    holder = start(
        """
        from pathlib import Path
        from siamese_search.gallery.edge.locks import Turnstile
        Turnstile(Path(store), "it").acquire(5)
        say("holding")
        sys.stdin.readline()
        """,
        generation(store),
        stdin=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with open_gallery(store, wait=0.2) as gallery:
        with pytest.raises(StoreBusyError, match=rf"process {holder.pid} \(-c ") as caught:
            gallery.count()
        assert "\n" not in str(caught.value)
        assert "0.2 s" in str(caught.value)
        holder.kill()  # the kernel drops the locks of the dead
        holder.communicate(timeout=60)
        assert gallery.count() == 50


def test_a_program_outside_the_queue_is_reported(store: Path):
    shard = edge.EdgeShard.load(os.fspath(generation(store) / "shard"))
    with open_gallery(store, wait=0.2) as gallery:
        with pytest.raises(StoreBusyError, match="without queueing"):
            gallery.count()
        shard.close()
        assert gallery.count() == 50


def test_the_turnstile_lets_no_one_barge_in(scratch: Path):
    """Having given way, the first holder comes after the one who waited."""
    first, second, order = Turnstile(scratch, "it"), Turnstile(scratch, "it"), []
    first.acquire(1)
    assert not first.wanted()

    def wait_and_sign() -> None:
        second.acquire(30)
        order.append("second")
        time.sleep(0.05)
        second.release()

    thread = threading.Thread(target=wait_and_sign)
    thread.start()
    while not first.wanted():
        time.sleep(0.001)
    first.release()
    first.acquire(30)
    order.append("first")
    first.release()
    first.release()
    thread.join()
    assert order == ["second", "first"]


def test_a_crash_between_schema_and_points_is_mended(store: Path):
    """fields.json is written first and marks its fields pending; whoever opens next finishes the work."""
    path = generation(store) / "fields.json"
    document = json.loads(path.read_text())
    document["fields"].update(size="str", weight="float")
    document["pending"] = ["size", "weight"]
    path.write_text(json.dumps(document))
    with open_gallery(store) as gallery:
        assert gallery.fields()["size"] == "str"
        assert gallery.count([Condition("size", "=", ("7",))]) == 1
        assert gallery.facet("weight") == {}
        assert {type(p.payload["size"]) for p in gallery.scroll()} == {str}
    assert json.loads(path.read_text())["pending"] == []


def test_two_writers_agree_on_the_fields(store: Path):
    with open_gallery(store, mode="w") as one, open_gallery(store, mode="w") as two:
        i, row = point(90)  # noqa: F821
        one.upsert([i], row[None], [{"new": 1}])
        i, row = point(91)  # noqa: F821
        two.upsert([i], row[None], [{"new": 2.5, "newer": True}])
        assert one.fields() == two.fields()
        assert one.fields()["new"] == "float"
        assert [type(p.payload["new"]) for p in one.scroll([Condition("new", "present")])] == [float, float]


def test_verify_finds_a_vector_that_changed(store: Path):
    ids = [point(i)[0] for i in range(2)]  # noqa: F821
    shard = edge.EdgeShard.load(os.fspath(generation(store) / "shard"))
    other = point(99)[1].tolist()  # noqa: F821
    shard.update(edge.UpdateOperation.update_vectors([edge.PointVectors(ids[1], other)]))
    shard.close()
    with open_gallery(store) as gallery:
        report = verify_vectors(gallery)
    assert report.points == 50
    assert report.damaged == (ids[1],)


def test_a_missing_shard_is_an_error_that_leaves_no_debris(store: Path):
    shard = generation(store) / "shard"
    layout.remove_tree(shard)
    shard.mkdir()
    with open_gallery(store) as gallery, pytest.raises(StoreError, match="ingest again"):
        gallery.count()
    assert list(shard.iterdir()) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"fields": None},
        {"fields": {"camera": "list"}},
        {"pending": "camera"},
        {"pending": ["nobody"]},
        {"pending": [[]]},
    ],
)
def test_damaged_fields_are_a_store_error(store: Path, changed: dict[str, object]):
    path = generation(store) / "fields.json"
    path.write_text(json.dumps({"format": 1, "fields": {"camera": "str"}, "pending": [], **changed}))
    with open_gallery(store) as gallery, pytest.raises(StoreError, match=r"fields\.json is damaged"):
        gallery.count()


def test_a_damaged_shard_is_a_store_error(store: Path):
    for file in (generation(store) / "shard" / "segments").rglob("segment.json"):
        file.write_text("{")
    with open_gallery(store) as gallery, pytest.raises(StoreError, match="gallery 'default'") as caught:
        gallery.count()
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("if its files are damaged, drop it (sss drop) and ingest again")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 1, "points": null}'])
def test_a_count_that_is_damaged_is_said_until_somebody_writes(
    store: Path, caplog: pytest.LogCaptureFixture, content: str
):
    (generation(store) / "points.json").write_text(content)
    with open_gallery(store) as gallery:
        assert gallery.count() == 50
    assert [one.getMessage() for one in caplog.records if "points.json is damaged" in one.getMessage()]
    caplog.clear()
    with open_gallery(store, mode="w") as gallery:
        gallery.set_payload([next(iter(gallery.scroll())).id], [{"camera": "9"}])
    assert json.loads((generation(store) / "points.json").read_text())["points"] == 50


def test_a_gallery_carried_over_a_fork_is_refused(store: Path):
    with open_gallery(store) as gallery:
        assert gallery.count() == 50
        pid = os.fork()
        if pid == 0:
            try:
                gallery.count()
            except StoreError as error:
                os._exit(7 if "fork" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert gallery.count() == 50


def test_errors_that_are_not_the_engines_pass_through(store: Path):
    lease = ShardLease(lambda: generation(store), "it", 1.0)
    with pytest.raises(KeyError), lease.use():
        raise KeyError("mine")
    with pytest.raises(StoreError, match="it: the vector engine failed: Vector dimension"), lease.use() as shard:
        shard.query(edge.QueryRequest(limit=1, query=edge.Query.Nearest([1.0])))
    lease.close()


def test_a_slow_opening_earns_no_longer_slice_than_a_search_would_wait_for(
    store: Path, monkeypatch: pytest.MonkeyPatch
):
    late = 0.0

    def slow(*_: object) -> None:
        nonlocal late
        late += 100.0  # a million points from a busy disk

    monkeypatch.setattr(lease_module, "read_ahead", slow)
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late, sleep=time.sleep)
    monkeypatch.setattr(lease_module, "time", clock)
    lease = ShardLease(lambda: generation(store), "it", 1000.0)
    with lease.use():
        assert 0 < lease._slice_ends - clock.monotonic() < 10.0
    lease.close()


def test_the_count_is_exact_where_points_moved_between_segments_and_the_writer_died(store: Path):
    """A count without a filter trusts what each segment says; a point in two of them would count twice."""
    with open_gallery(store, mode="w") as gallery:
        upsert(gallery, 0, 200)  # noqa: F821
        assert gallery.optimise(index=True)  # into a segment that is not written to any more
    child = start(
        """
        import os
        with open_gallery(store, model=MODEL, mode="w") as gallery:
            upsert(gallery, 0, 100)
            gallery.delete([point(i)[0] for i in range(90, 110)])
            upsert(gallery, 200, 230)
            upsert(gallery, 95, 97)
            say(gallery.count(), sum(1 for _ in gallery.scroll(fields=[])))
            os.kill(os.getpid(), 9)
        """,
        store,
    )
    out, _ = child.communicate(timeout=120)
    assert out.split() == ["212", "212"]
    with open_gallery(store) as gallery:
        there = {point.id for point in gallery.scroll(fields=[])}
        assert len(there) == 212
        assert gallery.count() == gallery.info().points == len(there)


def test_only_what_is_not_in_memory_is_read_ahead(store: Path, monkeypatch: pytest.MonkeyPatch):
    with open_gallery(store) as gallery:
        storage = gallery.storage
    asked: dict[str, int] = {}

    def advise(descriptor: int, offset: int, length: int, _advice: int) -> None:
        name = os.fspath(Path(f"/proc/self/fd/{descriptor}").readlink())
        assert offset >= asked.get(name, 0)  # nothing twice
        asked[name] = offset + length

    monkeypatch.setattr(footprint.os, "posix_fadvise", advise)
    shard = generation(store) / layout.SHARD
    monkeypatch.setattr(footprint, "_in_memory", lambda _descriptor, _offset: True)
    footprint.read_ahead(shard, storage)
    assert asked == {}
    monkeypatch.setattr(footprint, "_in_memory", lambda _descriptor, _offset: False)
    footprint.read_ahead(shard, storage)
    vectors = next(shard.glob("segments/*/vector_storage/vectors/chunk_0.mmap"))
    there = vectors.stat()
    end = asked[os.fspath(vectors.resolve())]
    assert end >= 50 * DIM * 4
    if there.st_blocks * 512 < there.st_size:  # sparse: the hole is nothing to read
        assert end < there.st_size
    assert not any("payload_storage" in name for name in asked)


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="only Linux tells what is in memory")
def test_closing_leaves_in_memory_what_a_search_reads(tmp_path: Path):
    """The engine has the pages of its files thrown out, and the next search would wait for the disk.

    In ``tmp_path``: ``scratch`` may be in memory altogether, where nothing can be told.
    """
    rows = np.random.default_rng(0).standard_normal((400, 512)).astype(np.float32)  # noqa: F821
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: F821
    store = tmp_path / "kept"
    model = ModelRef("f" * 64, 512, "tests")
    with open_gallery(store, model=model, create=True, mode="w") as gallery:
        gallery.upsert([point(i)[0] for i in range(400)], rows, [{}] * 400)  # noqa: F821
    vectors = next(generation(store).glob("shard/segments/*/vector_storage/vectors/chunk_0.mmap"))

    def in_memory() -> list[bool]:
        with vectors.open("rb") as file:
            return [footprint._in_memory(file.fileno(), at) for at in range(0, rows.nbytes, 65536)]

    with vectors.open("rb") as file:
        assert len(file.read(rows.nbytes)) == rows.nbytes
    if not all(in_memory()):
        pytest.skip("this file system does not tell what is in memory")
    for _ in range(2):
        with open_gallery(store) as gallery:
            assert gallery.query(rows[0], 1)
        assert all(in_memory())


def test_importing_the_package_imports_no_engine():
    code = "import sys, siamese_search.gallery as o; o.open_gallery; sys.exit('qdrant_edge' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.fspath(PROJECT)})

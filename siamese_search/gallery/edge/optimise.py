"""An embedded gallery's shard, optimised on a copy beside it while everybody goes on using it.

    1. copy       in turns with everybody: the journal begins, all points are read and written to ``shard.next``
    2. optimise   without the lock: searches and writes go on in ``shard``; writers enter points in the journal
    3. catch up   in turns with everybody: points in the journal are brought over to ``shard.next``
    4. swap       under the lock: the last of them, then ``shard`` becomes ``shard.old``, ``shard.next`` ``shard``

Nobody waits for longer than a turn, whatever the size; copying the files would be faster, but they hold still only
under the lock. (Its log cannot be left out either: the engine ignores writes whose numbers begin again.)

A crash at any moment leaves a whole ``shard``, except between the two renames, where whoever opens the gallery next
makes the second one (:func:`.layout.finish_swap`). What else it leaves behind, the next optimisation deletes.
``optimised`` holds the write mark of the last one, so that nothing is done twice.

It happens in a child process, ``python -m`` of this module, because the engine's ``optimize`` holds the interpreter
lock for minutes. The child says each stage on a line of its stdout, and in the end whether something changed.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import qdrant_edge as edge

from siamese_search.errors import SiameseSearchError, StoreBusyError, StoreError, printable
from siamese_search.gallery.contract import OptimiseProgress
from siamese_search.gallery.edge import journal, layout
from siamese_search.gallery.edge.convert import shard_config, to_points, translated
from siamese_search.gallery.edge.footprint import check_room, has_index, taken
from siamese_search.gallery.edge.lease import ShardLease, settle_field
from siamese_search.gallery.edge.locks import Turnstile
from siamese_search.gallery.engine import to_vector
from siamese_search.gallery.storage import COMPACT_FROM, pays_index
from siamese_search.io.files import atomic_write_text, fsync_directory, open_own, read_own

_OLD = "shard.old"
_STAMP = "optimised"
#: Points brought over per turn: a tenth of a second.
_TURN = 1000
#: The swap is for everybody's good: it may wait longer than who wants an answer.
_SWAP_WAIT = 120.0
_ATTEMPTS = 3
_BUSY = 75  # EX_TEMPFAIL
_TICK_SECONDS = 0.2


def run_in_child(
    generation: Path,
    what: str,
    *,
    points: int,
    index: bool | None,
    wait: float,
    progress: OptimiseProgress | None = None,
) -> bool:
    """:func:`optimise` in a child, of a generation that nobody in this process holds.

    Raises StoreBusyError or StoreError with the child's message. On any exception here (Ctrl-C above all) the child is
    killed, and the gallery is as it was.
    """
    # The child must find this package even when it runs from a source tree.
    root = os.fspath(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    options = {"points": points, "index": index, "wait": wait}
    command = [sys.executable, "-m", __name__, os.fspath(generation), what, json.dumps(options)]
    pipe, none, env = subprocess.PIPE, subprocess.DEVNULL, {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(command, stdin=none, stdout=pipe, stderr=pipe, env=env) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            last = _follow(child.stdout, progress)
            # One line at most, so the pipe cannot have filled up.
            err = child.stderr.read()
            child.wait()
        except BaseException:
            child.kill()
            child.wait()
            _tidy(generation)
            raise
    if child.returncode == 0:
        return bool(last["changed"])
    _tidy(generation)
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise StoreError(f"{what}: optimising was interrupted ({name}); the gallery is usable as before")
    lines = err.decode("utf-8", "replace").strip().splitlines()
    message = lines[-1] if lines else f"optimising failed with exit code {child.returncode}"
    raise (StoreBusyError if child.returncode == _BUSY else StoreError)(message)


def _follow(lines: IO[bytes], progress: OptimiseProgress | None) -> dict[str, Any]:
    """Read what the child says until it says no more, reporting progress; its last words."""
    started, stage, rest = time.monotonic(), "starting", b""
    last: dict[str, Any] = {"changed": False}
    with selectors.DefaultSelector() as selector:
        selector.register(lines, selectors.EVENT_READ)
        while True:
            if selector.select(_TICK_SECONDS):
                data = os.read(lines.fileno(), 65536)
                if not data:
                    return last
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    last = json.loads(line)
                    stage = str(last.get("stage", stage))
                    if progress is not None:  # each of them: several may come in one read
                        progress(stage, time.monotonic() - started)
            elif progress is not None:
                progress(stage, time.monotonic() - started)


def _tidy(generation: Path) -> None:
    """Delete what a child that was killed has left, unless another one is at work by now."""
    with suppress(SiameseSearchError, OSError), _sole(generation, "the gallery"):
        discard(generation)


def _main(generation: str, what: str, options: str) -> int:
    """The child. A signal ends it at once: Python's handlers would run only after the engine returns, in minutes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _say({"stage": "opening"})  # from here on a signal ends it, whatever the parent ignores
    try:
        changed = optimise(Path(generation), what, **json.loads(options), say=lambda stage: _say({"stage": stage}))
    except SiameseSearchError as error:
        print(error, file=sys.stderr)
        return _BUSY if isinstance(error, StoreBusyError) else 1
    _say({"changed": changed})
    return 0


def _say(words: dict[str, Any]) -> None:
    """A line for the parent. Should that have gone, BrokenPipeError ends the child before it changes anything."""
    print(json.dumps(words), flush=True)


def optimise(
    generation: Path, what: str, *, points: int, index: bool | None, wait: float, say: Callable[[str], None]
) -> bool:
    """Optimise the shard of a generation; True if something changed. Holds the interpreter lock for minutes.

    points: how many it has, more or less. say: called with each stage. Raises StoreBusyError (somebody else is at it,
    or holds the shard), StoreError.
    """
    header = layout.read_header(generation)
    with _sole(generation, what):
        discard(generation)
        for _ in range(_ATTEMPTS):
            job = _Job(generation, what, header, wait)
            try:
                if not job.copy(points, index, say):
                    return False
                say("building the index" if job.index else "compacting")
                if not job.optimise():
                    job.stamp()
                    return False
                say("swapping")
                if job.swap():
                    return True
            finally:
                discard(generation)
    raise StoreError(f"{what} is written to faster than it can be optimised; run it again when less is ingested")


def discard(generation: Path) -> None:
    """Delete what an optimisation leaves behind. Not while one is running."""
    journal.end(generation)
    if (generation / layout.SHARD).exists():  # else shard.next is about to take its name
        for name in (layout.NEXT_SHARD, _OLD):
            layout.remove_tree(generation / name)


class _Job:
    """One attempt. What was copied, and how far the journal has been brought over."""

    def __init__(self, generation: Path, what: str, header: layout.GalleryHeader, wait: float) -> None:
        self.generation, self.what, self.header, self.wait = generation, what, header, wait
        self.next = generation / layout.NEXT_SHARD
        self.index = False
        self._types: dict[str, str] = {}
        self._mark = ""
        self._done = 0

    def copy(self, points: int, index: bool | None, say: Callable[[str], None]) -> bool:
        """Copy the shard; False where there is nothing to do."""
        storage, dim = self.header.storage, self.header.model.dim
        with self._turn(self.wait):
            indexed = has_index(self.generation)
            self.index = (indexed or pays_index(points, dim, storage)) if index is None else index
            self._mark = layout.read_mark(self.generation)
            small = points < COMPACT_FROM and not self.index and not indexed
            if small or self._stamp() == _read(self.generation / _STAMP):
                return False
            self._types, _ = layout.read_fields(self.generation)
            journal.begin(self.generation)
        say("copying")
        check_room(self.generation, self.what, 2 * taken(self.generation / layout.SHARD))
        with (
            translated(self.what),
            closing(edge.EdgeShard.create(os.fspath(self.next), shard_config(dim, storage))) as fresh,
            closing(ShardLease(self._locate, self.what, _SWAP_WAIT)) as lease,
        ):
            for name, kind in self._types.items():
                settle_field(fresh, name, kind, stored=False)
            offset: Any = None
            while True:
                request = edge.ScrollRequest(offset=offset, limit=_TURN, with_payload=True, with_vector=True)
                with lease.use() as shard:
                    records, offset = shard.scroll(request)
                _put(fresh, records, dim)
                if offset is None:
                    break
            fresh.flush()
        return True

    def optimise(self) -> bool:
        """Let the engine work on the copy; False where it finds nothing to do."""
        config = shard_config(self.header.model.dim, self.header.storage, compact=not self.index, index=self.index)
        with translated(self.what), closing(edge.EdgeShard.load(os.fspath(self.next), config)) as shard:
            changed = shard.optimize()
            shard.flush()
        return changed

    def swap(self) -> bool:
        """Bring the copy up to date and let it take the place; False where that cannot be done any more."""
        while True:
            with self._turn(_SWAP_WAIT), translated(self.what):
                entries = journal.read(self.generation, self._done)
                types, _ = layout.read_fields(self.generation)
                if entries is None or any(types.get(name) != kind for name, kind in self._types.items()):
                    return False  # lost track, or stored values were converted to another type
                last = len(entries) <= _TURN
                other = dict(types.items() - self._types.items()) if last else {}
                self._bring_over(entries[:_TURN], other)
                if last:
                    self._rename()
                    return True
            time.sleep(0.01)

    def _bring_over(self, entries: Sequence[str], fields: Mapping[str, str]) -> None:
        """Make these points in the copy what they are in the original; fields: new ones, or of another type."""
        self._done += len(entries)
        ids: list[Any] = list(dict.fromkeys(entries))
        if not ids and not fields:
            return
        with closing(self._load(layout.SHARD)) as shard:
            records = shard.retrieve(ids, True, True)
        with closing(self._load(layout.NEXT_SHARD)) as fresh:
            for name, kind in fields.items():
                settle_field(fresh, name, kind, stored=name in self._types)
            fresh.update(edge.UpdateOperation.delete_points(ids))
            _put(fresh, records, self.header.model.dim)
            fresh.flush()

    def _rename(self) -> None:
        try:
            (self.generation / layout.SHARD).rename(self.generation / _OLD)
            self.next.rename(self.generation / layout.SHARD)
            fsync_directory(self.generation)
        except OSError as error:
            reason = error.strerror or printable(str(error))
            raise StoreError(f"{self.what} was replaced meanwhile: {reason}") from error
        self.stamp()

    def stamp(self) -> None:
        """Remember what has been optimised. It holds the mark from before the copy, which a later write changes."""
        with suppress(OSError):  # costs a second optimisation at most
            atomic_write_text(self.generation / _STAMP, self._stamp())

    def _stamp(self) -> str:
        return json.dumps({"mark": self._mark, "index": self.index})

    def _locate(self) -> Path:
        if not self.generation.is_dir():
            raise StoreError(f"{self.what} was replaced meanwhile: run the command again")
        return self.generation

    def _load(self, name: str) -> edge.EdgeShard:
        return edge.EdgeShard.load(os.fspath(self.generation / name))

    @contextmanager
    def _turn(self, wait: float) -> Iterator[None]:
        lock = Turnstile(self.generation, self.what)
        try:
            lock.acquire(wait)  # whose FileNotFoundError :func:`_sole` explains
            layout.finish_swap(self.generation)
            yield
        finally:
            lock.release()


@contextmanager
def _sole(generation: Path, what: str) -> Iterator[None]:
    """One optimisation at a time. The kernel drops the lock of a process that dies."""
    try:
        layout.check_own(generation)
        with open(generation / "optimise.lock", "ab", opener=open_own) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreBusyError(f"{what} is being optimised by another process") from None
            yield
    except FileNotFoundError:
        raise StoreError(f"{what} was replaced meanwhile: run the command again") from None


def _put(shard: edge.EdgeShard, records: Sequence[edge.Record], dim: int) -> None:
    """Store points as they came from another shard, with vector and payload."""
    rows: list[Any] = [to_vector(record.vector, dim) for record in records]
    if any(row is None for row in rows):
        raise StoreError("points have lost their vectors; embed the images again with: sss ingest --reembed DIR")
    if records:
        ids, payloads = [record.id for record in records], [record.payload for record in records]
        shard.update(edge.UpdateOperation.upsert_points(to_points(ids, rows, payloads)))


def _read(path: Path) -> str:
    try:
        return read_own(path, 4096).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))

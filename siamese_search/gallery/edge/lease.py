"""The lease: an engine's shard that is opened when needed and given up when somebody else waits for it.

Qdrant Edge 0.9 locks a shard exclusively, readers included, so sharing means taking turns. A lease keeps the shard open
between uses (opening costs 0.1 s at 20,000 points), and closes it as soon as it is idle, somebody waits at the
turnstile, and it has had its slice: a watcher thread gives way even while the owner is busy elsewhere.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import qdrant_edge as edge

from siamese_search.errors import StoreBusyError, StoreError, printable
from siamese_search.gallery.edge import footprint, journal, layout
from siamese_search.gallery.edge.convert import INDEXES, encode_bools, panics_unprinted, translated
from siamese_search.gallery.edge.footprint import kept_in_memory, read_ahead
from siamese_search.gallery.edge.locks import Turnstile
from siamese_search.gallery.fields import UNINDEXED, coerce, json_path, misfits
from siamese_search.gallery.storage import DEFAULT_STORAGE
from siamese_search.io.files import atomic_write_text

_log = logging.getLogger(__name__)

#: What is said where the engine cannot open a shard.
_ADVICE = "; if its files are damaged, drop it (sss drop) and ingest again"

#: The shortest time a holder keeps the shard, so that two busy processes do not spend their time opening it.
_SLICE_SECONDS = 0.1
#: And the longest, however long opening took: whoever waits gives up in the end (a search after 10 seconds).
_LONGEST_SLICE_SECONDS = 5.0
_WATCH_SECONDS = 0.02
#: Having given way, we wait at least this long to get back in: an ingest must not fail because others search.
_RETURN_SECONDS = 120.0


class ShardLease:
    """Shared access to the shard of the generation that ``locate()`` names. Thread-safe.

    ``locate`` is asked each time the shard is opened, and raises where that generation may no longer be used.
    """

    generation: Path  # of the shard, once it has been opened

    def __init__(self, locate: Callable[[], Path], what: str, wait: float) -> None:
        self._locate, self._what, self._wait = locate, what, wait
        self.lost = 0  # points that there must be and that are not, as it was opened
        self._mutex = threading.RLock()
        self._shard: edge.EdgeShard | None = None
        self._lock: Turnstile | None = None
        self._slice_ends = 0.0
        self._entered = False
        self._depth = 0
        self._dirty = False
        self._closed = False
        # What is open in place of a shard that cannot be written, and the mark of the last write in it.
        self._copy: footprint.PrivateCopy | None = None
        self._mark = ""
        self._pid = os.getpid()
        self._storage = DEFAULT_STORAGE
        self.types: dict[str, str] = {}
        self._points: int | None = None  # once they were counted, until somebody may have written

    @contextmanager
    def use(self, *, writing: bool = False, room: int = 0) -> Iterator[edge.EdgeShard]:
        """The open shard, for one operation; gives way afterwards if somebody waits.

        room: bytes that the writing will take. Raises StoreError, before anything is written, where there are none.
        """
        if os.getpid() != self._pid:
            raise StoreError(f"{self._what} was opened by another process: open it again after a fork")
        with self._mutex:
            if writing:
                footprint.check_room(self._locate(), self._what, room)
            if self._copy is not None and self._depth == 0:
                outdated = layout.read_mark(self.generation) != self._mark  # somebody, who can, has written since
                if writing or outdated:
                    self.release()
            shard = self._open()
            if writing and self._copy is not None:
                raise StoreError(f"cannot write {self._what}: its disk was full or read-only; run the command again")
            self._depth += 1
            try:
                if writing and not self._dirty:
                    layout.mark_written(self.generation)
                    self._dirty = True
                with translated(self._what):
                    yield shard
            finally:
                self._depth -= 1
                if writing:
                    self._points = None
            self.give_way()

    def size(self) -> int:
        """How many points there are. Call it inside :meth:`use`."""
        if self._points is None:
            assert self._shard is not None
            self._points = journal.size(self._shard)
        return self._points

    def give_way(self) -> None:
        """Close the shard if it is idle, its slice is over and somebody waits. Cheap otherwise."""
        with self._mutex:
            idle = self._shard is not None and self._depth == 0
            if idle and time.monotonic() >= self._slice_ends and self._lock is not None and self._lock.wanted():
                self.release()

    def flush(self) -> None:
        """Make writes survive a power loss. Nothing to do when the shard has been given up: that flushes."""
        with self._mutex:
            if self._shard is not None:
                with translated(self._what):
                    self._flush(self._shard)

    def release(self) -> None:
        """Flush, close the shard and let others in; the next use opens it again."""
        with self._mutex:
            shard, lock, self._shard, self._lock = self._shard, self._lock, None, None
            try:
                if shard is not None:
                    with translated(self._what):
                        try:
                            self._flush(shard)
                        finally:  # also where its disk is full: what is not closed nobody can open again
                            with kept_in_memory(self.generation / layout.SHARD, self._storage):
                                shard.close()
            finally:
                self._dirty = False
                self._drop_copy()
                if lock is not None:
                    lock.release()

    def _drop_copy(self) -> None:
        copy, self._copy = self._copy, None
        if copy is not None:
            copy.cleanup()

    def _flush(self, shard: edge.EdgeShard) -> None:
        if self._dirty:
            shard.flush()
            journal.keep_tally(self.generation, shard)
            self._dirty = False

    def close(self) -> None:
        """Release for good."""
        with self._mutex:
            self._closed = True
            self.release()

    def add_fields(self, shard: edge.EdgeShard, changed: dict[str, str]) -> None:
        """Record new or widened fields, convert what is stored, and index them. Call inside :meth:`use`.

        The schema file comes first and marks the fields as pending: whoever opens it after a crash goes on.
        """
        before = self.types
        self.types = {**before, **changed}
        self._write_fields(pending=list(changed))
        for name, kind in changed.items():
            settle_field(shard, name, kind, stored=name in before)
        self._write_fields(pending=[])

    def _write_fields(self, pending: list[str]) -> None:
        if self._copy is not None:
            return
        document = {"format": layout.FORMAT_VERSION, "fields": self.types, "pending": pending}
        path = self.generation / "fields.json"
        with layout.os_errors("write", path):
            atomic_write_text(path, json.dumps(document) + "\n")

    def _open(self) -> edge.EdgeShard:
        if self._closed:
            raise StoreError(f"{self._what} is closed")
        if self._shard is not None:
            return self._shard
        wait = max(self._wait, _RETURN_SECONDS) if self._entered else self._wait
        deadline = time.monotonic() + wait
        with ExitStack() as undo:
            lock, generation = self._enter(deadline)
            undo.callback(lock.release)
            started = time.monotonic()
            layout.finish_swap(generation)
            self._storage = layout.read_header(generation).storage
            path = generation / layout.SHARD
            read_ahead(path, self._storage)
            if path.is_dir() and not footprint.can_open(path):
                self._copy = footprint.copy_shard(path, self._what)
                undo.callback(self._drop_copy)
                self._mark = layout.read_mark(generation)
                path = Path(self._copy.name) / path.name
                lock.release()  # the copy is nobody else's
            shard = self._load(path, deadline)
            undo.callback(shard.close)
            self.generation = generation
            with translated(self._what):
                self._read_fields(shard)
                before, self.lost = self.lost, journal.lost(generation, shard)
            if self.lost > before:
                _log.warning(
                    "%s is damaged: %s of its points cannot be found, and every answer lacks them; embed the images"
                    " again with: sss ingest --reembed DIR", self._what, f"{self.lost:,}",
                )  # fmt: skip
            undo.pop_all()
        self._shard, self._lock, self._entered, self._points = shard, lock, True, None
        now = time.monotonic()
        slice_seconds = min(max(_SLICE_SECONDS, 2 * (now - started)), _LONGEST_SLICE_SECONDS)
        self._slice_ends = now + slice_seconds
        threading.Thread(target=self._watch, args=(lock,), name="shard-lease", daemon=True).start()
        return shard

    def _enter(self, deadline: float) -> tuple[Turnstile, Path]:
        while True:
            generation = self._locate()
            lock = Turnstile(generation, self._what)
            try:
                layout.check_own(generation)
                lock.acquire(max(0.0, deadline - time.monotonic()))
            except FileNotFoundError:
                # The generation was replaced and deleted between our look and our lock.
                if time.monotonic() >= deadline:
                    raise StoreError(f"{self._what}: {printable(generation)} has vanished") from None
                continue
            with ExitStack() as undo:
                undo.callback(lock.release)
                if self._locate() == generation:
                    undo.pop_all()
                    return lock, generation

    def _load(self, path: Path, deadline: float) -> edge.EdgeShard:
        # Looked at first: a failed load leaves debris behind in a directory that is not a shard.
        if not (path / "edge_config.json").is_file() or not (path / "segments").is_dir():
            raise StoreError(f"{self._what} is damaged: {printable(path)} holds no vectors; delete it and ingest again")
        while True:
            try:
                with translated(self._what, _ADVICE), panics_unprinted():
                    return edge.EdgeShard.load(os.fspath(path))
            except StoreError as error:
                if "WouldBlock" not in str(error):
                    raise
                if time.monotonic() >= deadline:
                    raise StoreBusyError(
                        f"{self._what} is busy: another program holds {printable(path)} without queueing"
                    ) from error
            time.sleep(0.02)

    def _read_fields(self, shard: edge.EdgeShard) -> None:
        self.types, pending = layout.read_fields(self.generation)
        if pending:  # a writer died on the way
            for name in pending:
                settle_field(shard, name, self.types[name], stored=True)
            shard.flush()
            self._write_fields(pending=[])

    def _watch(self, lock: Turnstile) -> None:
        while True:
            time.sleep(_WATCH_SECONDS)
            if not self._mutex.acquire(blocking=False):
                continue
            try:
                if self._lock is not lock:
                    return
                # An error here would surface in no one's call; the owner's next use meets it again.
                with suppress(StoreError):
                    self.give_way()
            finally:
                self._mutex.release()


def settle_field(shard: edge.EdgeShard, name: str, kind: str, *, stored: bool) -> None:
    """Index a field; one that was stored by another type before, once its values are of this one."""
    if stored:
        _convert_stored(shard, name, kind)
        shard.update(edge.UpdateOperation.delete_field_index(json_path(name)))
    if name not in UNINDEXED:
        shard.update(edge.UpdateOperation.create_field_index(json_path(name), INDEXES[kind]))


def _convert_stored(shard: edge.EdgeShard, name: str, kind: str) -> None:
    """Rewrite stored values of a field that are not of its type; a second run changes nothing."""
    path = json_path(name)
    present = edge.Filter(must_not=[edge.IsEmptyCondition(path)])
    offset = None
    while True:
        records, offset = shard.scroll(
            edge.ScrollRequest(offset=offset, limit=1000, filter=present, with_payload=[path], with_vector=False)
        )
        for value, ids in misfits(records, name, kind):
            written = {name: coerce(value, kind)}
            encode_bools(written, [name] if kind == "bool" else [])
            shard.update(edge.UpdateOperation.set_payload(ids, written))
        if offset is None:
            return

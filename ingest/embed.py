"""EmbedStage: planned batches are decoded and embedded, in order, and passed on.

The middle of every ingest: in one process between the planner and the committing thread
(:mod:`ingest.pipeline`), and in each worker of a cluster (:mod:`ingest.distributed`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol

from ingest.decode import DecodedBatch, Decoder, PendingBatch
from ingest.plan import PlannedFile
from ingest.stages import Tally
from siamese_search.gallery.contract import Vectors
from siamese_search.model.embedder import Embedder, begin

_DECODE_AHEAD = 2  # batches


class Sink(Protocol):
    """Takes what was embedded: n files, float32 [n, d]."""

    def put(self, files: list[PlannedFile], vectors: Vectors) -> None: ...


class Stop(Protocol):
    """Whether to end after the batch in hand: a :class:`threading.Event`, or what looks like one."""

    def is_set(self) -> bool: ...


class EmbedStage:
    """What the calling thread does: begin to decode what was planned, embed what is decoded, pass it on.

    Failures and counts go to ``tally``, which is told to report after every step.
    """

    def __init__(self, embedder: Embedder, decoder: Decoder, sink: Sink, tally: Tally) -> None:
        self._embedder, self._decoder, self._sink, self._tally = embedder, decoder, sink, tally
        self._running: tuple[list[PlannedFile], Callable[[], Vectors]] | None = None

    def run(self, batches: Iterator[list[PlannedFile]], stop: Stop) -> bool:
        """Embed all batches, in order; False when ``stop`` came first. It is looked at between two batches."""
        try:
            complete = self._run(batches, stop)
        except Exception:
            with suppress(Exception):  # the first error is the one to report
                self._collect()
            raise
        self._collect()
        return complete

    def _run(self, batches: Iterator[list[PlannedFile]], stop: Stop) -> bool:
        pending: deque[PendingBatch] = deque()
        for files in batches:
            if stop.is_set():
                break
            if files:
                pending.append(self._decoder.submit(files))
            if len(pending) > _DECODE_AHEAD:
                self._embed(pending.popleft().result())
            self._tally.report()
            if stop.is_set():
                break
        else:
            while pending and not stop.is_set():
                self._embed(pending.popleft().result())
                self._tally.report()
            if not pending:
                return True
        for batch in pending:
            batch.cancel()
        return False

    def _embed(self, batch: DecodedBatch) -> None:
        """Embed a batch, or start to, where a device does it by itself: then the one before it is fetched."""
        clock = self._tally.clock
        clock.add("decode", batch.seconds)
        for file, reason in batch.failures:
            self._tally.fail(file.scanned.record.path, reason)
        if not batch.files:
            batch.release()
            return
        with clock.busy("embed"):
            vectors = begin(self._embedder, batch.pixels)
        batch.release()
        self._collect()
        if callable(vectors):
            self._running = batch.files, vectors
        else:
            self._pass_on(batch.files, vectors)

    def _collect(self) -> None:
        """Wait for the batch that was started."""
        if self._running is not None:
            (files, result), self._running = self._running, None
            with self._tally.clock.busy("embed"):
                vectors = result()
            self._pass_on(files, vectors)

    def _pass_on(self, files: list[PlannedFile], vectors: Vectors) -> None:
        self._tally.add(embedded=len(files))
        self._sink.put(files, vectors)

"""The middle of every ingest: planned files are decoded and embedded, in order, and passed on.

A batch is uint8, each file as the scan saw it or named with its reason. In one process this stands between the planner
and the committing thread (:mod:`ingest.pipeline`), and in each worker of a cluster (:mod:`ingest.distributed`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ingest.scan import PlannedFile
from ingest.stages import Tally
from siamese_search.gallery.contract import Vectors
from siamese_search.io.decoding import BatchDecoder, DecodedPixels, PendingPixels
from siamese_search.io.location import FileStamp
from siamese_search.model.embedder import Embedder, begin

_DECODE_AHEAD = 2  # batches


class DecodedBatch:
    """A decoded batch, to be given back with :meth:`release` when it has been embedded.

    files: the n that could be read. failures: the others, each with why. seconds: busy time of the decoding
    threads, added up.
    """

    def __init__(self, files: Sequence[PlannedFile], decoded: DecodedPixels) -> None:
        self.files = [files[row] for row in decoded.rows]
        self.failures = [(files[row], error.reason) for row, error in decoded.failures]
        self.seconds = decoded.seconds
        self._decoded = decoded

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 [n, H, W, 3], valid until the release, empty afterwards."""
        return self._decoded.pixels

    def release(self) -> None:
        """The pixels have been used: the next batches may have their buffer."""
        self._decoded.release()


class PendingBatch:
    """A batch that is being decoded."""

    def __init__(self, files: Sequence[PlannedFile], pending: PendingPixels) -> None:
        self._files, self._pending = files, pending

    def result(self) -> DecodedBatch:
        """Wait for the decoded batch. To be called once."""
        return DecodedBatch(self._files, self._pending.result())

    def cancel(self) -> None:
        """Drop what has not begun. The result is not to be asked for any more."""
        self._pending.cancel()


class Decoder:
    """A pool of decode threads. Use it as a context manager; leaving it ends them after their current image.

    Each file must be in the state that the scan saw: one that has been written since, or is being written,
    is a failure, because what the gallery says of it (size, mtime) would not be what was embedded.
    """

    def __init__(self, size: tuple[int, int], threads: int) -> None:
        self._decoder = BatchDecoder(size, threads)

    def submit(self, files: Sequence[PlannedFile]) -> PendingBatch:
        """Begin to decode a batch, in order."""
        paths = [file.scanned.record.path for file in files]
        stamps = [FileStamp(file.scanned.size, file.scanned.mtime_ns) for file in files]
        return PendingBatch(files, self._decoder.submit(paths, stamps))

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.__exit__()


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

"""The stages of an ingest below the plan, and what all stages share: clocks, counts, a thread that runs ahead.

The clocks say how long each stage was busy, and which of them holds up the rest. Files are decoded and embedded in
order, and reach the gallery in flushed batches meanwhile. A batch is uint8, each file as the scan saw it or named with
its reason. In one process :func:`embed_files` stands between the planner and the committing thread
(:mod:`ingest.pipeline`), and in each worker of a cluster (:mod:`ingest.distributed`).
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ingest.scan import PlannedFile
from ingest.summary import STAGES, IngestSummary, Progress, Stage
from siamese_search.embedding import Stop, embed_images
from siamese_search.gallery.contract import Gallery, Vectors
from siamese_search.io.location import FileStamp
from siamese_search.model.embedder import Embedder

T = TypeVar("T")

#: Seconds that the rate in the progress display looks back, and between two of its samples.
_RATE_SECONDS = 10.0
_SAMPLE_SECONDS = 0.25

#: Container objects made before the youngest are searched; Python's default is 700. A planned file is made of
#: six, in no cycle, and lives for three chunks of a thousand.
_THRESHOLD = 20_000


class Clock:
    """Busy seconds per stage, added by each stage's own threads.

    workers: threads of a stage where it has more than one; its busy time is divided by them, so that a stage
    that is busy all the time has been busy for as long as the ingest runs.
    """

    def __init__(self) -> None:
        self.workers: dict[Stage, int] = {}
        self._busy: dict[Stage, float] = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    def add(self, stage: Stage, seconds: float) -> None:
        with self._lock:
            self._busy[stage] += seconds / self.workers.get(stage, 1)

    @contextmanager
    def busy(self, stage: Stage) -> Iterator[None]:
        """The block is work of this stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started)

    def timed(self, stage: Stage, items: Iterable[T]) -> Iterator[T]:
        """``items``; making each of them is work of this stage."""
        iterator = iter(items)
        while True:
            with self.busy(stage):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def seconds(self) -> dict[Stage, float]:
        with self._lock:
            return dict(self._busy)


class Tally:
    """The counts of a running ingest: its threads add, the calling one reports. total: of images, where it is known."""

    def __init__(self, summary: IngestSummary, total: int | None, progress: Callable[[Progress], None] | None) -> None:
        self.summary, self.clock = summary, Clock()
        self.total, self.scanned, self._progress = total, False, progress
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._samples: deque[tuple[float, int]] = deque([(self._started, 0)])

    def add(self, **counts: int) -> None:
        """counts: of the summary."""
        with self._lock:
            for name, count in counts.items():
                setattr(self.summary, name, getattr(self.summary, name) + count)

    def fail(self, path: str | os.PathLike[str], reason: str) -> None:
        with self._lock:
            self.summary.fail(path, reason)

    def report(self) -> None:
        """Tell the progress display where we are."""
        if self._progress is not None:
            self._progress(self._moment())

    def finish(self) -> IngestSummary:
        """The summary, complete but for what happens after the pipeline."""
        self.summary.seconds = time.monotonic() - self._started
        self.summary.stages = self.clock.seconds()
        return self.summary

    def _moment(self) -> Progress:
        with self._lock:
            one = self.summary
            seen, embedded, failed, done = one.seen, one.embedded, one.failed, one.stored + one.failed
        return Progress(
            done,
            seen,
            self.scanned,
            embedded,
            failed,
            total=seen if self.scanned else None if self.total is None else max(self.total, seen),
            images_per_second=self._rate(done),
            stages=self.clock.seconds(),
        )

    def _rate(self, done: int) -> float:
        """Images settled per second, of late: what the first files took says little about the last ones."""
        now = time.monotonic()
        samples = self._samples
        if now - samples[-1][0] >= _SAMPLE_SECONDS:
            samples.append((now, done))
        while len(samples) > 2 and now - samples[1][0] > _RATE_SECONDS:
            samples.popleft()
        since, before = samples[0]
        return (done - before) / max(now - since, 1e-3)


@contextmanager
def rarely() -> Iterator[None]:
    """Within the block the collector runs rarely, in the whole process; a limit that is higher already stays.

    Searching the living objects again and again takes a fifth of the time of an ingest in which nothing changed.
    """
    before = gc.get_threshold()
    if 0 < before[0] < _THRESHOLD:  # 0: somebody has switched it off
        gc.set_threshold(_THRESHOLD, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def prefetch(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Yield ``items`` in order, computed in a thread up to ``depth`` items ahead, and one that waits for its place.

    An exception of the iterator is raised here, after the items before it. Closing the generator ends the thread.
    """
    iterator, end = iter(items), object()
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        ahead = deque(pool.submit(next, iterator, end) for _ in range(depth + 1))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(pool.submit(next, iterator, end))
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(cancel_futures=True)


_DECODE_AHEAD = 2  # batches


#: Takes what was embedded: n files, float32 [n, d].
Put = Callable[[list[PlannedFile], Vectors], None]


def embed_files(
    batches: Iterable[Sequence[PlannedFile]], embedder: Embedder, put: Put, tally: Tally, *, threads: int, stop: Stop
) -> bool:
    """Embed batches of planned files, in order; False when ``stop`` came first. It is looked at between two batches.

    Each file must be in the state that the scan saw: one that has been written since, or is being written, is a
    failure, because what the gallery says of it (size, mtime) would not be what was embedded. Failures and counts go
    to ``tally``, which is told to report after every step. threads: that decode.
    """
    waiting, ended = 0, False

    def planned() -> Iterator[Sequence[PlannedFile]]:
        nonlocal waiting, ended
        for files in batches:
            if files:
                waiting += 1
                yield files
            tally.report()
            if stop.is_set():
                return
        ended = True

    for done in embed_images(
        planned(),
        embedder,
        lambda file: file.scanned.record.path,
        camera_of=lambda file: file.scanned.record.camera,
        stamp_of=lambda file: FileStamp(file.scanned.size, file.scanned.mtime_ns),
        threads=threads,
        ahead=_DECODE_AHEAD,
        stop=stop,
    ):
        waiting -= 1
        tally.clock.add("decode", done.decoding)
        tally.clock.add("embed", done.embedding)
        for file, error in done.failures:
            tally.fail(file.scanned.record.path, error.reason)
        if done.items:
            tally.add(embedded=len(done.items))
            put(done.items, done.vectors)
        tally.report()
    return ended and not waiting


#: Points per commit, and seconds after which a smaller one is made: what is embedded should soon be found.
COMMIT_POINTS = 256
COMMIT_SECONDS = 1.0
#: Embedded batches that may wait for the thread.
_AHEAD = 4


def write(gallery: Gallery, files: Sequence[PlannedFile], vectors: Vectors, tally: Tally) -> None:
    """Store these points durably and count them: vectors float32 [n, d], a row per file."""
    stored = accepted(gallery, files, vectors, tally)
    gallery.flush()
    new = sum(file.action == "new" for file in stored)
    same = sum(file.action == "refreshed" for file in stored)
    tally.add(new=new, unchanged=same, changed=len(stored) - new - same)


def accepted(gallery: Gallery, files: Sequence[PlannedFile], vectors: Vectors, tally: Tally) -> list[PlannedFile]:
    """Write points; the files whose point the gallery took. A row that it refuses is a failure of its image alone."""
    try:
        gallery.upsert([file.id for file in files], vectors, [file.payload for file in files])
    except ValueError as error:
        if len(files) > 1:
            rows = zip(files, vectors, strict=True)
            return [one for file, row in rows for one in accepted(gallery, [file], row[None], tally)]
        tally.fail(files[0].scanned.record.path, f"cannot be stored: {error}")
        return []
    return list(files)


class Committer:
    """Commits in a thread. As a context manager: leaving it commits the rest, as an error of another stage
    does (what was embedded is paid for); KeyboardInterrupt does not.
    """

    def __init__(self, gallery: Gallery, tally: Tally) -> None:
        self.gallery, self.tally = gallery, tally
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._ahead: deque[Future[None]] = deque()
        # Of the thread alone:
        self._files: list[PlannedFile] = []
        self._vectors: list[Vectors] = []
        self._due: threading.Timer | None = None
        self._failed = False

    def put(self, files: list[PlannedFile], vectors: Vectors) -> None:
        """Hand over what was embedded: n files, float32 [n, d]. Waits while four batches wait.

        Raises what the thread failed with.
        """
        while self._ahead and (len(self._ahead) > _AHEAD or self._ahead[0].done()):
            self._ahead.popleft().result()
        self._ahead.append(self._thread.submit(self._take, files, vectors))

    def __enter__(self) -> Committer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        abandoned = kind is not None and not issubclass(kind, Exception)
        if not abandoned:
            self._commit_soon()
        self._thread.shutdown(cancel_futures=abandoned)
        self._end_timer()
        if kind is None:  # else that is the one to report; of those that follow from it nobody needs to hear
            for one in self._ahead:
                one.result()

    def _commit_soon(self) -> None:
        with suppress(RuntimeError):  # its time comes while the thread ends
            self._ahead.append(self._thread.submit(self._commit))

    def _end_timer(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due.join()

    def _take(self, files: list[PlannedFile], vectors: Vectors) -> None:
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(vectors).all(axis=1))
        if not finite.all():  # one bad row must not cost the batch
            for index in np.flatnonzero(~finite):
                self.tally.fail(files[index].scanned.record.path, "the model gave a vector that is not finite")
            files = [file for file, good in zip(files, finite, strict=True) if good]
            vectors = vectors[finite]
        if files and not self._files:
            self._due = threading.Timer(COMMIT_SECONDS, self._commit_soon)
            self._due.start()
        self._files += files
        self._vectors.append(vectors)
        if len(self._files) >= COMMIT_POINTS:
            self._commit()

    def _commit(self) -> None:
        self._end_timer()
        files, vectors, self._files, self._vectors = self._files, self._vectors, [], []
        if files and not self._failed:
            self._failed = True  # until it is done
            with self.tally.clock.busy("commit"):
                write(self.gallery, files, np.concatenate(vectors), self.tally)
            self._failed = False

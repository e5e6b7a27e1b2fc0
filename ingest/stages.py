"""What the stages of an ingest share: clocks and counts, a thread that runs ahead, a collector that keeps quiet.

The clocks say how long each stage was busy, and which of them holds up the rest.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from ingest.summary import STAGES, IngestSummary, Progress, Stage

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
    """The counts of a running ingest. Its threads add to them; the calling one reports them.

    total: number of images, where it is known before the scan ends.
    """

    def __init__(self, summary: IngestSummary, total: int | None, progress: Callable[[Progress], None] | None) -> None:
        self.summary, self.clock = summary, Clock()
        self.scanned = False
        self.total = total
        self._progress = progress
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
            seen, embedded, failed = one.seen, one.embedded, one.failed
            done = one.new + one.changed + one.moved + one.unchanged + failed
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

    An exception of the iterator is raised here, after the items before it. Closing the generator ends the thread with
    its current item.
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

"""embed_images(): images become vectors, batch by batch. The one loop that decodes and embeds.

A few threads decode the next batches into buffers that are used again while the model works on this one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from siamese_search.errors import ImageError
from siamese_search.io.decoding import BatchDecoder, DecodedPixels, ImageSource, PendingPixels
from siamese_search.io.location import FileStamp
from siamese_search.model.calibration import FIGURES, Looks, figures_of
from siamese_search.model.embedder import Embedder, Started, begin, centred

T = TypeVar("T")

BATCH = 64
#: Threads that decode where nobody says how many; more only fight the model for the cores.
THREADS = 2
#: Images whose looks are measured; more tell nothing new.
_MOST_LOOKS = 512


class Stop(Protocol):
    """Whether to end after the batch in hand: a :class:`threading.Event`, or what looks like one."""

    def is_set(self) -> bool: ...


@dataclass(slots=True)
class Embedded(Generic[T]):
    """What became of one batch.

    items: the n whose images could be read, in order, and their vectors, float32 [n, d]. failures: the others, each
    with why. decoding: busy seconds of the decoding threads, added up; embedding: seconds that the model took.
    """

    items: list[T]
    failures: list[tuple[T, ImageError]]
    decoding: float
    embedding: float = 0.0
    vectors: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))


def batches_of(items: Sequence[T], size: int = BATCH) -> Iterator[Sequence[T]]:
    """Slices of at most ``size``; of a ``range``, ranges."""
    return (items[start : start + size] for start in range(0, len(items), size))


def embed_images(
    batches: Iterable[Sequence[T]],
    embedder: Embedder,
    image_of: Callable[[T], ImageSource],
    *,
    stamp_of: Callable[[T], FileStamp | None] | None = None,
    camera_of: Callable[[T], str | None] | None = None,
    threads: int = THREADS,
    ahead: int = 1,
    stop: Stop | None = None,
) -> Generator[Embedded[T], None, None]:
    """Decode and embed batches of whatever has an image, in order; one that cannot be read costs no other.

    image_of: an item's file, or its image in memory. stamp_of: the state that its file was seen in; one that has been
    written since is a failure. camera_of: its camera, for a model with centres. ahead: batches decoded before they are
    asked for. stop: looked at between two batches. Where a device computes by itself
    (:func:`~siamese_search.model.embedder.begin`), a batch is handed out when the next one has been started.
    """
    running: tuple[Embedded[T], Started] | None = None

    def finished(found: Embedded[T], started: Started) -> Embedded[T]:
        """The batch with its vectors; waits for a device that has been started."""
        began = time.perf_counter()
        vectors = started() if callable(started) else started
        found.vectors = centred(embedder, vectors, None if camera_of is None else list(map(camera_of, found.items)))
        found.embedding += time.perf_counter() - began
        return found

    try:
        for batch, decoded in _decoded(batches, embedder.input_size, image_of, stamp_of, threads, ahead, stop):
            with decoded:
                found = Embedded(
                    [batch[row] for row in decoded.rows],
                    [(batch[row], error) for row, error in decoded.failures],
                    decoded.seconds,
                    vectors=np.empty((0, embedder.dim), np.float32),
                )
                began = time.perf_counter()
                started: Started = begin(embedder, decoded.pixels) if found.items else found.vectors
                found.embedding = time.perf_counter() - began
            before, running = running, (found, started)
            if before is not None:
                yield finished(*before)
            if not callable(started):
                running = None
                yield finished(found, started)
    except Exception:
        if running is not None:
            with suppress(Exception):  # the first error is the one to report
                yield finished(*running)
        raise
    if running is not None:
        yield finished(*running)


def _decoded(
    batches: Iterable[Sequence[T]],
    size: tuple[int, int],
    image_of: Callable[[T], ImageSource],
    stamp_of: Callable[[T], FileStamp | None] | None,
    threads: int,
    ahead: int,
    stop: Stop | None,
) -> Iterator[tuple[Sequence[T], DecodedPixels]]:
    """Each batch with its pixels."""
    waiting: deque[tuple[Sequence[T], PendingPixels]] = deque()
    with BatchDecoder(size, threads) as decoder:
        for batch in batches:
            if stop is not None and stop.is_set():
                return
            stamps = None if stamp_of is None else list(map(stamp_of, batch))
            waiting.append((batch, decoder.submit(list(map(image_of, batch)), stamps)))
            if len(waiting) > ahead:
                batch, pending = waiting.popleft()
                yield batch, pending.result()
            if stop is not None and stop.is_set():
                return
        while waiting and not (stop is not None and stop.is_set()):
            batch, pending = waiting.popleft()
            yield batch, pending.result()


def looks_of(images: Sequence[Path], size: tuple[int, int]) -> Looks | None:
    """Of at most 512 files spread among these, decoded to ``size``; what is elsewhere or cannot be read is left out."""
    here = [image for image in images if isinstance(image, Path)]  # not what stands for one
    rows = np.linspace(0, len(here) - 1, min(len(here), _MOST_LOOKS)).round().astype(int)
    found = [np.empty((0, FIGURES), np.float32)]
    batches = batches_of([here[row] for row in rows])
    for _, decoded in _decoded(batches, size, lambda image: image, None, THREADS, 1, None):
        with decoded:
            found.append(figures_of(decoded.pixels))
    return Looks.of(np.concatenate(found))

"""BatchDecoder: image files become uint8 batches, by a few threads, in buffers that are used again.

Pillow lets go of the GIL while it decodes. Threads help up to the number of CPUs; the caller bounds how many
batches it submits ahead, and with that the memory: at most one buffer per batch that it holds, and a few idle.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_search.errors import ImageError
from siamese_search.io.images import held_image, read_image
from siamese_search.io.location import FileStamp
from siamese_search.io.resources import Closing

#: A file; or an RGB array, uint8 [H, W, 3] of any size, the bytes of a file, or an image of Pillow's.
ImageSource = str | os.PathLike[str] | NDArray[np.uint8] | bytes | Image.Image

#: Images per task: a small JPEG decodes in 0.2 ms, so one task per image would be mostly hand-over.
_IMAGES_PER_TASK = 8
#: Buffers kept for the next batches; more that come back are let go.
_IDLE_BUFFERS = 4


@dataclass(slots=True)
class DecodedPixels:
    """One decoded batch. Use it as a context manager, or call :meth:`release` when its pixels have been used.

    rows: of each image that could be read, its index, ascending. pixels: uint8 [len(rows), H, W, 3], valid until the
    release. failures: index and error of the others. seconds: busy time of the decoding threads, added up.
    """

    rows: list[int]
    pixels: NDArray[np.uint8]
    failures: list[tuple[int, ImageError]]
    seconds: float
    _buffer: NDArray[np.uint8] | None = field(repr=False)
    _idle: deque[NDArray[np.uint8]] = field(repr=False)

    def release(self) -> None:
        """Give the buffer back. ``pixels`` is empty from now on; a batch never released costs an allocation only."""
        if self._buffer is not None:
            self.pixels = self.pixels[:0]
            self._idle.append(self._buffer)
            self._buffer = None

    def __enter__(self) -> DecodedPixels:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class PendingPixels:
    """A batch that is being decoded."""

    _tasks: Sequence[Future[tuple[list[ImageError | None], float]]]
    _buffer: NDArray[np.uint8]
    _idle: deque[NDArray[np.uint8]]

    def result(self) -> DecodedPixels:
        """Wait for the batch. To be called once."""
        done = [task.result() for task in self._tasks]
        errors = [error for part, _ in done for error in part]
        rows = [row for row, error in enumerate(errors) if error is None]
        failures = [(row, error) for row, error in enumerate(errors) if error is not None]
        if failures:
            self._buffer[: len(rows)] = self._buffer[rows]
        seconds = sum(seconds for _, seconds in done)
        return DecodedPixels(rows, self._buffer[: len(rows)], failures, seconds, self._buffer, self._idle)


class BatchDecoder(Closing):
    """A pool of threads that decode to ``size`` = (height, width). Leaving it ends them after their current image."""

    def __init__(self, size: tuple[int, int], threads: int) -> None:
        self._size, self._threads, self._largest = size, threads, 0
        self._idle: deque[NDArray[np.uint8]] = deque(maxlen=_IDLE_BUFFERS)
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def submit(
        self, images: Sequence[ImageSource], expected: Sequence[FileStamp | None] | None = None
    ) -> PendingPixels:
        """Begin to decode a batch, in order. expected: per file, as for :func:`siamese_search.io.images.read_image`."""
        count = len(images)
        stamps = expected or [None] * count
        buffer = self._take(count)
        step = max(1, min(_IMAGES_PER_TASK, -(-count // self._threads)))
        tasks = [
            self._pool.submit(self._fill, images[start : start + step], stamps[start : start + step], buffer[start:])
            for start in range(0, count, step)
        ]
        return PendingPixels(tasks, buffer, self._idle)

    def _take(self, count: int) -> NDArray[np.uint8]:
        """A buffer for at least ``count`` images: an idle one, or a new one as large as the largest batch so far."""
        self._largest = max(self._largest, count)
        with suppress(IndexError):
            if len(buffer := self._idle.pop()) >= count:
                return buffer
        return np.empty((self._largest, *self._size, 3), np.uint8)

    def _fill(
        self, images: Sequence[ImageSource], expected: Sequence[FileStamp | None], pixels: NDArray[np.uint8]
    ) -> tuple[list[ImageError | None], float]:
        """Fill the first rows of ``pixels``; per file, ``None`` or why it cannot be used; and the seconds taken."""
        started = time.perf_counter()
        errors: list[ImageError | None] = []
        for row, (image, stamp) in enumerate(zip(images, expected, strict=True)):
            if self._closed.is_set():
                break
            try:
                pixels[row] = (
                    read_image(image, self._size, expected=stamp)
                    if isinstance(image, (str, os.PathLike))
                    else held_image(image, self._size)
                )
                errors.append(None)
            except ImageError as error:
                errors.append(error)
        return errors, time.perf_counter() - started

    def close(self) -> None:
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

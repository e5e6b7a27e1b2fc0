"""Decode: files become uint8 batches, by a few threads (Pillow releases the GIL while it decodes)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest.plan import PlannedFile
from siamese_search.errors import ImageError
from siamese_search.images import read_image

#: Images per task: a small JPEG decodes in 0.2 ms, so one task per image would be mostly hand-over.
_IMAGES_PER_TASK = 8


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """files: the n that could be read. pixels: uint8 [n, H, W, 3]. failures: the others, each with why."""

    files: list[PlannedFile]
    pixels: NDArray[np.uint8]
    failures: list[tuple[PlannedFile, str]]


class PendingBatch:
    """A batch that is being decoded."""

    def __init__(
        self,
        files: Sequence[PlannedFile],
        pixels: NDArray[np.uint8],
        tasks: Sequence[Future[list[str | None]]],
    ) -> None:
        self._files = files
        self._pixels = pixels
        self._tasks = tasks

    def result(self) -> DecodedBatch:
        """Wait for the decoded batch."""
        reasons = [reason for task in self._tasks for reason in task.result()]
        failures = [
            (file, reason) for file, reason in zip(self._files, reasons, strict=True) if reason is not None
        ]
        if not failures:
            return DecodedBatch(list(self._files), self._pixels, [])
        good = [index for index, reason in enumerate(reasons) if reason is None]
        return DecodedBatch([self._files[index] for index in good], self._pixels[good], failures)

    def cancel(self) -> None:
        """Drop the tasks that have not begun."""
        for task in self._tasks:
            task.cancel()


class Decoder:
    """A pool of decode threads. Use it as a context manager."""

    def __init__(self, size: tuple[int, int], threads: int) -> None:
        self._size = size
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def submit(self, files: Sequence[PlannedFile]) -> PendingBatch:
        """Begin to decode a batch, in order."""
        pixels = np.empty((len(files), *self._size, 3), np.uint8)
        tasks = [
            self._pool.submit(_decode, files[start : start + _IMAGES_PER_TASK], pixels[start:], self._size)
            for start in range(0, len(files), _IMAGES_PER_TASK)
        ]
        return PendingBatch(files, pixels, tasks)

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _decode(
    files: Sequence[PlannedFile], pixels: NDArray[np.uint8], size: tuple[int, int]
) -> list[str | None]:
    """Fill the first rows of ``pixels``; per file, ``None`` or the reason why it cannot be used."""
    reasons: list[str | None] = []
    for row, file in enumerate(files):
        try:
            pixels[row] = read_image(file.scanned.record.path, size)
            reasons.append(None)
        except ImageError as error:
            reasons.append(error.reason)
    return reasons

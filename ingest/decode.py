"""Decode: planned files become uint8 batches, each file as the scan saw it or named with its reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ingest.plan import PlannedFile
from siamese_search.io.decoding import BatchDecoder, DecodedPixels, PendingPixels
from siamese_search.io.location import FileStamp


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

"""Records become vectors: images decoded by a few threads while the model works on the batch before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import ImageRecord
from siamese_search.decoding import BatchDecoder, DecodedPixels, PendingPixels
from siamese_search.evaluation.report import FailedImage
from siamese_search.model.embedder import Embedder, available_cpus

#: Threads that decode; more only fight the model for the cores.
_MOST_THREADS = 4


@dataclass(frozen=True)
class Embedded:
    """``vectors`` float32 [n, d] of the records that could be read, ``rows`` int64 [n] of where those stand."""

    vectors: NDArray[np.float32]
    rows: NDArray[np.int64]
    failed: list[FailedImage]


def embed_records(
    records: Sequence[ImageRecord],
    embedder: Embedder,
    *,
    batch_size: int = 64,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Embed the images of ``records`` in their order; one that cannot be read is named and left out.

    threads: decoders, 0 = as many as there are CPUs, up to four. progress: called with images done (failures
    included) and their number. Pixels of two batches are in memory at once.
    """
    vectors: list[NDArray[np.float32]] = [np.empty((0, embedder.dim), np.float32)]
    rows: list[int] = []
    failed: list[FailedImage] = []
    done = 0
    for batch, count in _decoded(records, embedder.input_size, batch_size, threads):
        with batch:
            rows += [done + row for row in batch.rows]
            failed += [
                FailedImage(str(records[done + row].path), error.reason) for row, error in batch.failures
            ]
            if batch.rows:
                vectors.append(embedder.embed(batch.pixels))
        done += count
        if progress is not None:
            progress(done, len(records))
    return Embedded(np.concatenate(vectors), np.array(rows, dtype=np.int64), failed)


def _decoded(
    records: Sequence[ImageRecord], size: tuple[int, int], batch_size: int, threads: int
) -> Iterator[tuple[DecodedPixels, int]]:
    """Batches, and of how many records each is; the next one is decoded while one is in use."""
    with BatchDecoder(size, threads or min(_MOST_THREADS, available_cpus())) as decoder:
        waiting: deque[tuple[PendingPixels, int]] = deque()
        for start in range(0, len(records), batch_size):
            paths = [record.path for record in records[start : start + batch_size]]
            waiting.append((decoder.submit(paths), len(paths)))
            if len(waiting) > 1:
                batch, count = waiting.popleft()
                yield batch.result(), count
        for batch, count in waiting:
            yield batch.result(), count

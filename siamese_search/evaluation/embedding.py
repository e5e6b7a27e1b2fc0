"""Records become vectors: images decoded by a few threads while the model works on the batch before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import ImageRecord
from siamese_search.errors import ImageError
from siamese_search.evaluation.report import FailedImage
from siamese_search.images import read_image
from siamese_search.model.embedder import Embedder, available_cpus

#: Threads that decode; more only fight the model for the cores.
_MOST_THREADS = 4

_Decoded = NDArray[np.uint8] | ImageError


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
    for batch in _decoded(records, embedder.input_size, batch_size, threads):
        images: list[NDArray[np.uint8]] = []
        for row, decoded in enumerate(batch, start=done):
            if isinstance(decoded, ImageError):
                failed.append(FailedImage(str(records[row].path), decoded.reason))
            else:
                images.append(decoded)
                rows.append(row)
        if images:
            vectors.append(embedder.embed(np.stack(images)))
        done += len(batch)
        if progress is not None:
            progress(done, len(records))
    return Embedded(np.concatenate(vectors), np.array(rows, dtype=np.int64), failed)


def _decoded(
    records: Sequence[ImageRecord], size: tuple[int, int], batch_size: int, threads: int
) -> Iterator[list[_Decoded]]:
    """Batches of images or of the errors in their stead; the next batch is decoded while one is in use."""

    def decode(record: ImageRecord) -> _Decoded:
        try:
            return read_image(record.path, size)
        except ImageError as error:
            return error

    workers = threads or min(_MOST_THREADS, available_cpus())
    starts = range(0, len(records), batch_size)
    with ThreadPoolExecutor(workers, thread_name_prefix="sss-decode") as pool:
        try:
            waiting: list[Future[_Decoded]] = []
            for start in starts:
                ahead = [pool.submit(decode, record) for record in records[start : start + batch_size]]
                if waiting:
                    yield [future.result() for future in waiting]
                waiting = ahead
            if waiting:
                yield [future.result() for future in waiting]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # on Ctrl-C nobody waits for a queue of images

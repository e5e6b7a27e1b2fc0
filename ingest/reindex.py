"""run_reindex(): the same images in a new model's vectors, read again from where the gallery says they are."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ingest.summary import Failure
from siamese_search.datasets.records import decode_key
from siamese_search.errors import DataError, ImageError, printable
from siamese_search.images import read_image

if TYPE_CHECKING:
    from siamese_search.gallery.base import Gallery, StoredPoint
    from siamese_search.model.embedder import Embedder


@dataclass(slots=True)
class ReindexSummary:
    """What a re-index did. dropped: images that could not be read any more and are gone from the gallery."""

    collection: str
    store: str
    model: str
    former_model: str
    images: int = 0
    dropped: list[Failure] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The JSON contract of ``sss reindex --json``."""
        return {
            "images": self.images,
            "dropped": [{"path": failure.path, "reason": failure.reason} for failure in self.dropped],
            "seconds": round(self.seconds, 3),
            "collection": self.collection,
            "store": self.store,
            "model": self.model,
            "former_model": self.former_model,
        }


def run_reindex(
    old: Gallery,
    fresh: Gallery,
    embedder: Embedder,
    *,
    batch_size: int = 64,
    drop_missing: bool = False,
    progress: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
) -> ReindexSummary:
    """Embed the images of ``old`` with another model into ``fresh``, payloads unchanged. ``old`` is only read.

    progress: called with images done and their number. drop_missing: leave out images that cannot be read any
    more; without it the first of them raises DataError, so that nobody loses points by an unmounted disk.
    stop: when set, KeyboardInterrupt is raised after the batch in hand.
    """
    started = time.monotonic()
    summary = ReindexSummary(
        fresh.name,
        fresh.store,
        fresh.model.name or fresh.model.fingerprint,
        old.model.name or old.model.fingerprint,
    )
    total = old.count()
    done = 0
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1), thread_name_prefix="decode") as pool:
        for points in _batches(old.scroll(), batch_size):
            if stop is not None and stop.is_set():
                raise KeyboardInterrupt
            decoded = list(pool.map(lambda point: _read(point, embedder.input_size), points))
            kept: list[StoredPoint] = []
            pixels: list[NDArray[np.uint8]] = []
            for point, image in zip(points, decoded, strict=True):
                if isinstance(image, ImageError):
                    if not drop_missing:
                        raise DataError(
                            f"{image}: nothing was changed; bring the file back, or leave such images out"
                            " with --drop-missing"
                        )
                    summary.dropped.append(Failure(printable(image.path), image.reason))
                else:
                    kept.append(point)
                    pixels.append(image)
            if kept:
                payloads = [{name: v for name, v in point.payload.items() if name != "crc"} for point in kept]
                fresh.upsert([point.id for point in kept], embedder.embed(np.stack(pixels)), payloads)
            summary.images += len(kept)
            done += len(points)
            if progress is not None:
                progress(done, max(total, done))
    fresh.flush()
    if summary.dropped and not summary.images:
        raise DataError(
            f"none of the {len(summary.dropped)} images can be read, the first: {summary.dropped[0].path}:"
            f" {summary.dropped[0].reason}; nothing was changed"
        )
    summary.seconds = time.monotonic() - started
    return summary


def _batches(points: Iterator[StoredPoint], size: int) -> Iterator[Sequence[StoredPoint]]:
    while batch := list(islice(points, size)):
        yield batch


def _read(point: StoredPoint, size: tuple[int, int]) -> NDArray[np.uint8] | ImageError:
    path = decode_key(str(point.payload.get("path", "")))
    try:
        return read_image(path, size)
    except ImageError as error:
        return error

"""run_reindex(): a new generation of a gallery from its images, checked, then published in one step.

The former generation answers searches throughout. Each pass compares the two by point id and embeds what the
new one lacks, so an interrupted re-index goes on where it was, and what is ingested or deleted meanwhile is
brought over by the next pass; the last one runs while nobody else writes, right before the swap.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import Failure, decode_key
from siamese_search.errors import DataError, ImageError, StoreError, printable
from siamese_search.gallery.checks import LEAST_RECALL, sampled_recall, sound_points
from siamese_search.gallery.fields import same_payload
from siamese_search.io.decoding import BatchDecoder, DecodedPixels, PendingPixels
from siamese_search.io.location import located
from siamese_search.maintenance.copy import paired
from siamese_search.maintenance.options import ReindexOptions
from siamese_search.model.inputs import available_cpus
from siamese_search.options import request

if TYPE_CHECKING:
    from siamese_search.gallery.contract import Gallery, ModelRef, Store, StoredPoint
    from siamese_search.gallery.storage import Storage
    from siamese_search.model.embedder import Embedder

#: Passes before the last one: an ingest that runs all the time leaves a few points to each.
_MOST_PASSES = 8
#: Points deleted per call.
_DELETE = 1000
#: Threads that decode; more only fight the model for the cores.
_DECODE_THREADS = 2
#: The swap waits for the users of the former generation at least this long.
_SWAP_WAIT = 60.0


@dataclass(slots=True)
class ReindexSummary:
    """What a re-index did.

    images: points of the new generation. embedded: those of them that this run made (the others were there
    from an interrupted one). dropped: images that could not be read any more and are gone from the gallery.
    recall: share of the exact nearest neighbours that the new index finds, by sample; None for an empty gallery.
    """

    collection: str
    store: str
    model: str
    former_model: str
    images: int = 0
    embedded: int = 0
    dropped: list[Failure] = field(default_factory=list)
    recall: float | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The JSON contract of ``sss reindex --json``."""
        return {
            "images": self.images,
            "embedded": self.embedded,
            "dropped": [{"path": failure.path, "reason": failure.reason} for failure in self.dropped],
            "recall": None if self.recall is None else round(self.recall, 4),
            "seconds": round(self.seconds, 3),
            "collection": self.collection,
            "store": self.store,
            "model": self.model,
            "former_model": self.former_model,
        }


@request(ReindexOptions)
def run_reindex(
    store: Store,
    name: str,
    model: ModelRef,
    embedder: Embedder | None,
    *,
    options: ReindexOptions,
    storage: Storage | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
) -> ReindexSummary:
    """Build a generation of gallery ``name`` by ``model``, payloads unchanged, check it, and publish it.

    embedder: of that model; None copies the vectors instead (the same model, new storage settings).
    drop_missing: leave out images that cannot be read any more; without it the first of them raises DataError,
    so that nobody loses points by an unmounted disk. storage: of the new generation; None keeps what there is.
    wait: seconds to queue for a store in use.
    progress: called with images done and their number. stop: when set, KeyboardInterrupt is raised after the
    batch in hand. Whatever is raised, the gallery is as it was, and the next call goes on.

    Raises StoreError when the new generation does not pass its checks: as many points as the former one has
    (less those dropped), each sampled point nearest to itself, and the index as good as an exact search.
    """
    started = time.monotonic()
    batch_size, wait = options.batch_size or 64, options.wait
    former = store.generations(name).current
    summary = ReindexSummary(
        name, store.location, model.name or model.fingerprint, former.name or former.fingerprint
    )
    with store.build(name, model, storage=storage, wait=wait) as fresh:
        run = _Reindex(fresh, embedder, batch_size, options.drop_missing, summary, progress, stop)
        with store.open(name, wait=wait) as old:
            for _ in range(_MOST_PASSES):
                if run.bring_over(old) <= batch_size:
                    break
                run.progress = None
        fresh.optimise()
        run.check()

        def settle(current: Gallery) -> None:
            run.progress = run.stop = None
            # Searches wait meanwhile, so nothing is compared that nobody can have changed.
            if run.seen is None or current.write_mark() != run.seen:
                run.bring_over(current)
            fresh.flush()
            run.check_count(current)
            fresh.close()

        store.publish_settled(name, settle, wait=max(wait, _SWAP_WAIT))
    summary.seconds = time.monotonic() - started
    return summary


class _Reindex:
    """The state of one re-index: the new generation, and what could not be brought over."""

    def __init__(
        self,
        fresh: Gallery,
        embedder: Embedder | None,
        batch_size: int,
        drop_missing: bool,
        summary: ReindexSummary,
        progress: Callable[[int, int], None] | None,
        stop: threading.Event | None,
    ) -> None:
        self.fresh, self.embedder = fresh, embedder
        self.batch_size, self.drop_missing, self.summary = batch_size, drop_missing, summary
        self.progress, self.stop = progress, stop
        self.seen: str | None = None
        self._dropped: dict[str, dict[str, Any]] = {}
        self._absent = 0

    def bring_over(self, source: Gallery) -> int:
        """One pass: make the new generation hold what ``source`` holds; how many points differed."""
        self.seen = source.write_mark()
        changed = 0
        pending: deque[tuple[Sequence[StoredPoint], PendingPixels | None]] = deque()
        with self._decoder() as decoder:
            for points in _batches(self._lacking(source), self.batch_size):
                changed += len(points)
                paths = [_path(point) for point in points]
                pending.append((points, None if decoder is None else decoder.submit(paths)))
                if len(pending) > 1:  # one batch is decoded while the one before is embedded
                    self._write(source, *pending.popleft())
                self._look_for_stop()
            while pending:
                self._write(source, *pending.popleft())
        return changed

    def check(self) -> None:
        """By sample: every point finds itself, and the index finds what an exact search does."""
        try:
            recall = self.summary.recall = sampled_recall(self.fresh)
        except StoreError as error:
            raise StoreError(
                f"the re-indexed gallery failed its check, nothing was published: {error}"
            ) from None
        if recall is not None and recall < LEAST_RECALL:
            raise StoreError(
                f"the re-indexed gallery failed its check, nothing was published: its index finds {recall:.1%} of the"
                f" nearest neighbours, and {LEAST_RECALL:.0%} are asked for; delete it with: sss reindex --drop-old"
            )

    def check_count(self, current: Gallery) -> None:
        """As many points as the current generation, less those dropped."""
        self.summary.images = self.fresh.count()
        expected = current.count() - self._absent
        if self.summary.images != expected:
            raise StoreError(
                f"the re-indexed gallery failed its check, nothing was published: it has {self.summary.images:,} points"
                f" and should have {expected:,}; run the command again"
            )
        if self._absent and not self.summary.images:
            first = self.summary.dropped[0]
            raise DataError(
                f"none of the {len(self._dropped)} images can be read, the first: {first.path}: {first.reason};"
                " nothing was changed"
            )

    def _lacking(self, source: Gallery) -> Iterator[StoredPoint]:
        """Points of ``source`` that the new generation has not, or with another payload. Deletes what is too many."""
        # The vectors are other ones by another model, and so are their checksums.
        ignore = () if self.embedder is None else ("crc",)
        total = source.count() if self.progress is not None else 0
        done = self._absent = 0
        surplus: list[str] = []
        for ours, theirs in paired(source, self.fresh, vectors=self.embedder is None):
            if ours is None:
                assert theirs is not None
                surplus.append(theirs.id)
                if len(surplus) == _DELETE:
                    self.fresh.delete(surplus)
                    surplus = []
                continue
            done += 1
            if self.progress is not None and done % self.batch_size == 0:
                self.progress(done, max(total, done))
            if theirs is not None and same_payload(ours.payload, theirs.payload, ignore):
                continue
            if self._dropped.get(ours.id) == ours.payload:
                self._absent += 1
                if theirs is not None:
                    surplus.append(ours.id)
                continue
            yield ours
        if surplus:
            self.fresh.delete(surplus)
        if self.progress is not None:
            self.progress(done, max(total, done))

    def _decoder(self) -> BatchDecoder | nullcontext[None]:
        if self.embedder is None:
            return nullcontext()
        return BatchDecoder(self.embedder.input_size, min(_DECODE_THREADS, available_cpus()))

    def _write(self, source: Gallery, points: Sequence[StoredPoint], images: PendingPixels | None) -> None:
        if self.embedder is None or images is None:
            kept, rows = [], []
            for point, row in sound_points(source, [point.id for point in points]):
                kept.append(point)
                rows.append(row)
        else:
            with images.result() as decoded:
                kept, rows = self._embed(self.embedder, points, decoded)
        if kept:
            payloads = [{name: v for name, v in point.payload.items() if name != "crc"} for point in kept]
            self.fresh.upsert([point.id for point in kept], np.stack(rows), payloads)
            self.summary.embedded += len(kept)

    def _embed(
        self, embedder: Embedder, points: Sequence[StoredPoint], images: DecodedPixels
    ) -> tuple[list[StoredPoint], list[NDArray[np.float32]]]:
        for index, error in images.failures:
            self._drop(points[index], error)
        if not images.rows:
            return [], []
        vectors = embedder.embed(images.pixels)
        kept, rows = [], []
        for index, row in zip(images.rows, vectors, strict=True):
            if np.isfinite(row).all():
                kept.append(points[index])
                rows.append(row)
            else:
                error = ImageError(_path(points[index]), "the model gave a vector that is not finite")
                self._drop(points[index], error)
        return kept, rows

    def _drop(self, point: StoredPoint, error: ImageError) -> None:
        if not self.drop_missing:
            raise DataError(
                f"{error}: nothing was changed; bring the file back, or leave such images out with --drop-missing"
            )
        self._dropped[point.id] = point.payload
        self._absent += 1
        self.summary.dropped.append(Failure(printable(error.path), error.reason))
        self.fresh.delete([point.id])  # there from an interrupted run, perhaps, when the file was

    def _look_for_stop(self) -> None:
        if self.stop is not None and self.stop.is_set():
            self.fresh.flush()
            raise KeyboardInterrupt


def _batches(points: Iterator[StoredPoint], size: int) -> Iterator[Sequence[StoredPoint]]:
    while batch := list(islice(points, size)):
        yield batch


def _path(point: StoredPoint) -> Path:
    return located(decode_key(str(point.payload.get("path", ""))))

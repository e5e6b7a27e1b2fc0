"""run_reindex(): a new generation of a gallery from its images, checked, then published in one step.

Each pass compares the two generations by point id and embeds what the new one lacks; the last one runs while nobody
else writes, right before the swap.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import compress, islice
from typing import Any

import numpy as np

from siamese_search.datasets.records import Failure
from siamese_search.embedding import THREADS, embed_images
from siamese_search.errors import DataError, ImageError, StoreError, amount
from siamese_search.gallery.checks import LEAST_RECALL, sampled_recall, sound_points
from siamese_search.gallery.contract import Gallery, ModelRef, Store, StoredPoint, Vectors
from siamese_search.gallery.fields import same_payload
from siamese_search.gallery.storage import Storage
from siamese_search.io.resources import available_cpus
from siamese_search.maintenance.copy import paired, write_points
from siamese_search.maintenance.options import ReindexOptions
from siamese_search.model.embedder import Embedder
from siamese_search.options import Progress, request
from siamese_search.retrieval.judging import gallery_calibration, hand_over

#: Passes before the last one: an ingest that runs all the time leaves a few points to each.
_MOST_PASSES = 8
#: The swap waits for the users of the former generation at least this long.
_SWAP_WAIT = 60.0
_FAILED = "the re-indexed gallery failed its check, nothing was published"


@dataclass(slots=True, kw_only=True)
class ReindexSummary:
    """What a re-index did, in the order of the JSON.

    images: points of the new generation. embedded: those that this run made. dropped: images that could not be read any
    more and are gone from the gallery. calibration: what became of the gallery's own: ``"kept"``, ``"dropped"``, or
    ``None`` where it had none. recall: of the new index, by sample; None for an empty gallery.
    """

    images: int = 0
    embedded: int = 0
    dropped: list[Failure] = field(default_factory=list)
    recall: float | None = None
    calibration: str | None = None
    seconds: float = 0.0
    collection: str
    store: str
    model: str
    former_model: str

    def to_json(self) -> dict[str, Any]:
        """The JSON contract of ``sss reindex --json``."""
        recall = None if self.recall is None else round(self.recall, 4)
        return asdict(self) | {"recall": recall, "seconds": round(self.seconds, 3)}


@request(ReindexOptions)
def run_reindex(
    store: Store,
    name: str,
    model: ModelRef,
    embedder: Embedder | None,
    *,
    options: ReindexOptions,
    storage: Storage | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> ReindexSummary:
    """Build a generation of gallery ``name`` by ``model``, payloads unchanged, check it, and publish it.

    embedder: of that model; None copies the vectors instead (the same model, new storage settings). Without
    ``drop_missing`` the first image that cannot be read raises DataError, so that nobody loses points by an unmounted
    disk. storage: of the new generation; None keeps what there is. progress: called with images done and their number.
    stop: when set, KeyboardInterrupt is raised after the batch in hand. Whatever is raised, the gallery is as it was,
    and the next call goes on.

    Raises StoreError when the new generation does not pass its checks: as many points as the former one has (less those
    dropped), each sampled point nearest to itself, and the index as good as an exact search.
    """
    started = time.monotonic()
    batch_size, wait = options.batch_size or 64, options.wait
    former = store.generations(name).current
    summary = ReindexSummary(
        collection=name,
        store=store.location,
        model=model.name or model.fingerprint,
        former_model=former.name or former.fingerprint,
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
            if gallery_calibration(current) is not None:
                summary.calibration = "dropped"
                if current.model.fingerprint == fresh.model.fingerprint:
                    hand_over(current, fresh)
                    summary.calibration = "kept"
            fresh.close()

        store.publish(name, settle, wait=max(wait, _SWAP_WAIT))
    summary.seconds = time.monotonic() - started
    return summary


@dataclass
class _Reindex:
    """The state of one re-index: the new generation, and what could not be brought over."""

    fresh: Gallery
    embedder: Embedder | None
    batch_size: int
    drop_missing: bool
    summary: ReindexSummary
    progress: Progress | None
    stop: threading.Event | None
    seen: str | None = None
    _dropped: dict[str, dict[str, Any]] = field(default_factory=dict)
    _absent: int = 0

    def bring_over(self, source: Gallery) -> int:
        """One pass: make the new generation hold what ``source`` holds; how many points differed."""
        self.seen = source.write_mark()
        return sum(self._written(source, self._batches(source)))

    def check(self) -> None:
        """By sample: every point finds itself, and the index finds what an exact search does."""
        try:
            recall = self.summary.recall = sampled_recall(self.fresh)
        except StoreError as error:
            raise StoreError(f"{_FAILED}: {error}") from None
        if recall is not None and recall < LEAST_RECALL:
            raise StoreError(
                f"{_FAILED}: its index finds {recall:.1%} of the nearest neighbours, and {LEAST_RECALL:.0%} are asked"
                " for; delete it with: sss reindex --drop-old"
            )

    def check_count(self, current: Gallery) -> None:
        """As many points as the current generation, less those dropped."""
        self.summary.images = self.fresh.count()
        expected = current.count() - self._absent
        if self.summary.images != expected:
            points = f"{self.summary.images:,} points and should have {expected:,}"
            raise StoreError(f"{_FAILED}: it has {points}; run the command again")
        if self._absent and not self.summary.images:
            first = self.summary.dropped[0]
            raise DataError(
                f"none of {amount(len(self._dropped), 'image')} can be read, the first: {first.path}: {first.reason};"
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

    def _batches(self, source: Gallery) -> Iterator[Sequence[StoredPoint]]:
        """What the new generation lacks, until somebody asks to stop."""
        lacking = self._lacking(source)
        while batch := list(islice(lacking, self.batch_size)):
            if self.stop is not None and self.stop.is_set():
                self.fresh.flush()
                raise KeyboardInterrupt
            yield batch

    def _written(self, source: Gallery, batches: Iterable[Sequence[StoredPoint]]) -> Iterator[int]:
        """Write these points into the new generation; of each batch, how many it was."""
        if self.embedder is None:
            for points in batches:
                sound = list(sound_points(source, [point.id for point in points]))
                self._upsert([point for point, _ in sound], [row for _, row in sound])
                yield len(points)
            return
        threads = min(THREADS, available_cpus())
        for found in embed_images(
            batches, self.embedder, lambda point: point.path, camera_of=lambda point: point.camera, threads=threads
        ):
            for point, error in found.failures:
                self._drop(point, error)
            finite = np.asarray(np.isfinite(found.vectors).all(axis=1))
            for point in compress(found.items, (~finite).tolist()):
                self._drop(point, ImageError(point.path, "the model gave a vector that is not finite"))
            self._upsert(list(compress(found.items, finite.tolist())), found.vectors[finite])
            yield len(found.items) + len(found.failures)

    def _upsert(self, points: Sequence[StoredPoint], vectors: Sequence[Vectors] | Vectors) -> None:
        if points:
            write_points(self.fresh, points, vectors)
            self.summary.embedded += len(points)

    def _drop(self, point: StoredPoint, error: ImageError) -> None:
        if not self.drop_missing:
            raise DataError(
                f"{error}: nothing was changed; bring the file back, or leave such images out with --drop-missing"
            )
        self._dropped[point.id] = point.payload
        self._absent += 1
        self.summary.dropped.append(Failure.of(error.path, error.reason))
        self.fresh.delete([point.id])  # there from an interrupted run, perhaps, when the file was

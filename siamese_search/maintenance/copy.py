"""Copying a gallery from one store to another, whatever their engines: resumable, and checked at the end.

Points of both are read by ascending id, side by side (a merge join), so that memory stays bounded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from itertools import groupby
from operator import itemgetter

import numpy as np

from siamese_search.errors import StoreError, printable
from siamese_search.gallery.checks import check_same_vectors, sound_points, vector_crc
from siamese_search.gallery.contract import Gallery, Payload, StoredPoint, Vectors
from siamese_search.gallery.fields import same_payload
from siamese_search.gallery.payload import with_labels
from siamese_search.options import Progress
from siamese_search.retrieval.judging import hand_over

#: Points per read and write.
_BATCH = 1000
#: Passes over both galleries; more than two are only needed where the source changes meanwhile.
_MOST_PASSES = 5


@dataclass(slots=True)
class CopyReport:
    """What a copy did, in counts of points.

    points: in the source. copied: sent now. kept: were there already, the same. extra: in the target only
    (they stay). verified: vectors compared bit by bit. calibrated: whether it got the source's calibration.
    """

    points: int = 0
    copied: int = 0
    kept: int = 0
    extra: int = 0
    verified: int = 0
    calibrated: bool = False


def copy_gallery(
    source: Gallery, target: Gallery, *, progress: Progress | None = None, stop: threading.Event | None = None
) -> CopyReport:
    """Make ``target`` (open for writing, of the same model) hold every point of ``source``, payload and vector.

    Labels that were set by hand in the target alone stay. progress: called with points done and their number. stop:
    when set, KeyboardInterrupt is raised after the batch in hand; a repeated call goes on. Raises StoreError for a
    damaged vector in the source, and when the target does not hold the same afterwards.
    """
    if not source.model.same_as(target.model):
        raise ValueError("the two galleries are of different models")
    report = CopyReport()
    for number in range(_MOST_PASSES):
        if number:
            progress = None
        total = 0 if progress is None else source.count()
        points = extra = sent = 0
        missing: dict[str, Payload] = {}  # id -> what the target has of it
        for ours, theirs in paired(source, target, vectors=True):
            if ours is None:
                extra += 1
                continue
            points += 1
            there = {} if theirs is None else theirs.payload
            if theirs is None or not same_payload(with_labels(ours.payload, there), there):
                missing[ours.id] = there
                if len(missing) == _BATCH:
                    sent += _send(source, target, missing)
                    missing = {}
            if points % _BATCH == 0:
                if progress is not None:
                    progress(points, max(total, points))
                if stop is not None and stop.is_set():
                    target.flush()
                    raise KeyboardInterrupt
        sent += _send(source, target, missing)
        if progress is not None:
            progress(points, max(total, points))
        if not number:
            report.kept = points - sent
        report.points, report.extra = points, extra
        report.copied += sent
        if not sent:
            break
    else:
        raise StoreError(
            f"{source.what} changes faster than it can be copied; run the command again when nothing is ingested"
        )
    target.flush()
    if report.copied:
        target.optimise()
    held = target.count()
    if held < report.points:
        raise StoreError(
            f"{target.what} holds {held:,} points after the copy, fewer than the"
            f" {report.points:,} of {printable(source.store)}; run the command again"
        )
    report.verified = check_same_vectors(source, target)
    report.calibrated = hand_over(source, target)
    return report


def paired(
    source: Gallery, target: Gallery, *, vectors: bool
) -> Iterator[tuple[StoredPoint | None, StoredPoint | None]]:
    """All points of both galleries by ascending id: those of one id together, without vectors.

    vectors: those of the source are what the target is to hold, so where it rounds them, the checksums are those of the
    rounding. Points up to the pair in hand may be written or deleted meanwhile: neither scroll looks back.
    """
    rounds = vectors and source.storage.vectors != target.storage.vectors == "float16"
    ours = ((point.id, 0, point) for point in (_rounded(source, target) if rounds else source.scroll()))
    theirs = ((point.id, 1, point) for point in target.scroll())
    for _, group in groupby(merge(ours, theirs, key=itemgetter(0, 1)), itemgetter(0)):
        pair = {side: point for _, side, point in group}
        yield pair.get(0), pair.get(1)


def _rounded(source: Gallery, target: Gallery) -> Iterator[StoredPoint]:
    """The source's points with the checksums that they have in the target."""
    for point in source.scroll(with_vectors=True):
        payload = dict(point.payload)
        if point.vector is not None and vector_crc(point.vector) == payload.get("crc"):
            payload["crc"] = vector_crc(target.storage.rounded(point.vector))
        yield StoredPoint(point.id, payload)


def write_points(target: Gallery, points: Sequence[StoredPoint], vectors: Sequence[Vectors] | Vectors) -> None:
    """Store points as they are, less their old checksums, with these vectors, float32 [n, d]."""
    payloads = [{name: v for name, v in point.payload.items() if name != "crc"} for point in points]
    target.upsert([point.id for point in points], np.asarray(vectors), payloads)


def _send(source: Gallery, target: Gallery, wanted: Mapping[str, Payload]) -> int:
    """Copy the points of these ids that are (still) there; how many. wanted: a batch, with what the target has."""
    sound = list(sound_points(source, list(wanted)))
    if sound:
        merged = [replace(point, payload=with_labels(point.payload, wanted[point.id])) for point, _ in sound]
        write_points(target, merged, [vector for _, vector in sound])
    return len(sound)

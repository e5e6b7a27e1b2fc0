"""Checks of a gallery: checksums of its vectors, which every engine writes as ``crc`` at upsert, and samples."""

from __future__ import annotations

import hashlib
import heapq
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from siamese_search.errors import StoreError, printable
from siamese_search.gallery.contract import Gallery, Hit, StoredPoint, Vectors
from siamese_search.gallery.fields import UNINDEXED
from siamese_search.gallery.filters import ORDERINGS, RawCondition, Where

#: Points looked at, and results compared for each.
SAMPLE = 64
DEPTH = 10
#: The index must find at least this share of the exact nearest: a wrong one finds far fewer, quantised ones do.
LEAST_RECALL = 0.9

_ROUNDING = 1e-4

#: Values of a field that are listed where a filter names others.
_VALUES = 10


def vector_crc(row: Vectors) -> int:
    """CRC-32 of a vector's float32 little-endian bytes, float32 [d]: what the payload's ``crc`` holds."""
    return zlib.crc32(np.ascontiguousarray(row, "<f4").data)


def is_sound(point: StoredPoint, dim: int) -> bool:
    """Whether a point's vector is the one that was stored."""
    vector = point.vector
    return (
        vector is not None
        and vector.shape == (dim,)
        and bool(np.isfinite(vector).all())
        and vector_crc(vector) == point.payload.get("crc")
    )


def why_nothing(gallery: Gallery, asked: Sequence[RawCondition], bound: Where) -> str:
    """Which of the conditions no point meets, and what there is instead; "" where some points meet them all.

    asked: the same conditions as they were written.
    """
    if gallery.count(bound):
        return ""
    for written, condition in zip(asked, bound, strict=True):
        if gallery.count([condition]) == 0:
            if written.operator == "absent":
                return f"every image has {printable(written.field)}"
            return f"no image has {printable(str(written))}{instead(gallery, written)}"
    return f"no image has {' and '.join(printable(str(written)) for written in asked)} at the same time"


def instead(gallery: Gallery, written: RawCondition) -> str:
    """The values that the field of a condition has, the most frequent of many."""
    if written.field in UNINDEXED or written.operator not in ("=", *ORDERINGS):
        return ""
    counts = gallery.facet(written.field, limit=_VALUES + 1)
    if not counts:
        return f"; no image has {printable(written.field)} at all"
    texts = [str(value).lower() if isinstance(value, bool) else str(value) for value in list(counts)[:_VALUES]]
    shown = sorted(texts, key=lambda text: (len(text), text))  # 2 before 10
    more = ", …" if len(counts) > _VALUES else ""
    are = "is" if len(counts) == 1 else "are"
    return f"; there {are} {', '.join(map(printable, shown))}{more}"


def vector_of(gallery: Gallery, point: StoredPoint) -> Vectors:
    """The vector of a point that was asked for with it. Raises StoreError where the storage has lost it."""
    if point.vector is None:
        raise StoreError(
            f"{gallery.what} is damaged: {point.key or point.id!r} has no vector; embed"
            " the images again with: sss ingest --reembed DIR"
        )
    return point.vector


def sample_ids(gallery: Gallery, n: int = SAMPLE, seed: int = 0) -> list[str]:
    """The ids of a :func:`sample` of all points, ascending."""
    return [point.id for point in sample(gallery, limit=n, seed=seed).points]


def sound_points(gallery: Gallery, ids: list[str]) -> Iterator[tuple[StoredPoint, Vectors]]:
    """The points of these ids that there are, with their vectors; StoreError for a vector that has changed."""
    for point in gallery.retrieve(ids, with_vectors=True):
        if point is None:
            continue
        if point.vector is None or not is_sound(point, gallery.dim):
            key = point.key or point.id
            raise StoreError(
                f"{gallery.what}: the stored vector of {key!r} is damaged; ingest that"
                " image again with `sss ingest --reembed`"
            )
        yield point, point.vector


def sampled_recall(gallery: Gallery) -> float | None:
    """Share of the exact :data:`DEPTH` nearest of :data:`SAMPLE` stored vectors that the index finds; None if empty.

    A result counts when it is as close as the exact one of the last place: equal scores are interchangeable.
    Raises StoreError for a damaged vector, and for one whose exact nearest neighbour is not itself.
    """
    sampled = list(sound_points(gallery, sample_ids(gallery)))
    if not sampled:
        return None
    rows = np.stack([vector for _, vector in sampled])
    exact = gallery.query_batch(rows, DEPTH, with_payload=False, exact=True)
    found = gallery.query_batch(rows, DEPTH, with_payload=False)
    for (point, row), best in zip(sampled, exact, strict=True):
        # Not simply 1: a vector that was rounded to float16 is a little longer or shorter.
        itself = min(1.0, float(row @ row))
        near = [hit for hit in best if hit.score >= itself - _ROUNDING]
        # Among many copies of one image it may be none of the first ten.
        if not near or (point.id not in [hit.id for hit in near] and len(near) < len(best)):
            raise StoreError(
                f"{gallery.what}: the nearest neighbour of the stored vector of {point.key or point.id!r} is not itself"
            )
    return _share_found(exact, found)


def recall_under(gallery: Gallery, rows: Vectors, where: Where, depth: int = DEPTH) -> float | None:
    """Share of the exact nearest that meet the conditions which a search finds; None where nothing meets them.

    rows: float32 [n, d]. Any result as close as the exact one of the last place counts.
    """
    exact = gallery.query_batch(rows, depth, where, with_payload=False, exact=True)
    found = gallery.query_batch(rows, depth, where, with_payload=False)
    return _share_found(exact, found)


def _share_found(exact: list[list[Hit]], found: list[list[Hit]]) -> float | None:
    """The share of the exact results that were found, or others as close; None where there are none."""
    wanted = sum(map(len, exact))
    hits = sum(
        sum(hit.score >= best[-1].score - _ROUNDING for hit in ranked[: len(best)])
        for best, ranked in zip(exact, found, strict=True)
        if best
    )
    return hits / wanted if wanted else None


def check_same_vectors(source: Gallery, target: Gallery) -> int:
    """Compare the vectors of :data:`SAMPLE` points bit by bit, as the target stores them; how many were compared.

    Raises StoreError naming the first point whose vector is missing or differs in the target.
    """
    ids = sample_ids(source)
    compared = 0
    there = {point.id: vector for point, vector in sound_points(target, ids)}
    for point, vector in sound_points(source, ids):
        if point.id not in there or there[point.id].tobytes() != target.storage.rounded(vector).tobytes():
            key = point.key or point.id
            raise StoreError(
                f"{target.what}: the vector of {key!r} is not the one in {source.store}; run the command again"
            )
        compared += 1
    return compared


@dataclass(frozen=True)
class Sample:
    """points: by ascending id, with vectors. total: how many there were to choose from."""

    points: list[StoredPoint]
    total: int


def sample(gallery: Gallery, where: Where = (), limit: int = 2000, seed: int = 0) -> Sample:
    """At most ``limit`` (from 1) of the points that meet the conditions, all with the same chance.

    Those whose ids have the smallest keyed hashes (bottom-k sampling): one pass over the ids, the same sample from any
    engine, and a point more or less changes it by at most one.
    """
    total = gallery.count(where)
    if total <= limit:
        points = list(gallery.scroll(where, with_vectors=True))
        return Sample(points, len(points))
    key = seed.to_bytes(8, "little", signed=True)

    def rank(point: StoredPoint) -> bytes:
        return hashlib.blake2b(point.id.encode(), digest_size=16, key=key).digest()

    chosen = heapq.nsmallest(limit, gallery.scroll(where, fields=()), key=rank)
    ids = sorted(point.id for point in chosen)
    # What was deleted meanwhile is no part of it.
    return Sample([point for point in gallery.retrieve(ids, with_vectors=True) if point is not None], total)

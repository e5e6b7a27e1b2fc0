"""sample(): a fair choice of a gallery's points with their vectors, the same on every engine."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from siamese_search.gallery.contract import Gallery, StoredPoint
from siamese_search.gallery.filters import Condition

_AT_ONCE = 500


@dataclass(frozen=True)
class Sample:
    """points: by ascending id, with vectors. total: how many there were to choose from."""

    points: list[StoredPoint]
    total: int


def sample(gallery: Gallery, where: Sequence[Condition] = (), limit: int = 2000, seed: int = 0) -> Sample:
    """At most ``limit`` (from 1) of the points that meet the conditions, all with the same chance.

    Those whose ids have the smallest keyed hashes (bottom-k sampling): it takes one pass over the ids, in memory for
    ``limit`` of them, and the same gallery gives the same sample from any engine; a point more or less changes it by at
    most one.
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
    found: list[StoredPoint] = []
    for start in range(0, len(ids), _AT_ONCE):
        part = gallery.retrieve(ids[start : start + _AT_ONCE], with_vectors=True)
        found += [point for point in part if point is not None]  # what was deleted meanwhile is no part of it
    return Sample(found, total)

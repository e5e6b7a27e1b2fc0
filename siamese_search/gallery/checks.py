"""Checks of a gallery by a sample: does it find what it holds, and does it hold what another one does?"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np

from siamese_search.errors import StoreError
from siamese_search.gallery.checksums import vector_crc
from siamese_search.gallery.contract import Gallery, StoredPoint, Vectors

#: Points looked at, and results compared for each.
SAMPLE = 64
DEPTH = 10
#: The index must find at least this share of the exact nearest: a wrong one finds far fewer, quantised ones do.
LEAST_RECALL = 0.9

_ROUNDING = 1e-4


def sample_ids(gallery: Gallery, n: int = SAMPLE, seed: int = 0) -> list[str]:
    """n ids (all, where there are fewer), each point as likely as any other; ascending.

    A reservoir: memory stays bounded. J. S. Vitter, Random sampling with a reservoir, ACM TOMS 11 (1985), algorithm R.
    """
    draw = random.Random(seed)
    kept: list[str] = []
    for index, point in enumerate(gallery.scroll(fields=[])):
        if index < n:
            kept.append(point.id)
        elif (place := draw.randrange(index + 1)) < n:
            kept[place] = point.id
    return sorted(kept)


def sound_points(gallery: Gallery, ids: list[str]) -> Iterator[tuple[StoredPoint, Vectors]]:
    """The points of these ids that there are, with their vectors; StoreError for a vector that has changed."""
    for point in gallery.retrieve(ids, with_vectors=True):
        if point is None:
            continue
        if point.vector is None or vector_crc(point.vector) != point.payload.get("crc"):
            key = point.payload.get("key", point.id)
            raise StoreError(
                f"gallery {gallery.name!r} in {gallery.store}: the stored vector of {key!r} is damaged; ingest that"
                " image again with `sss ingest --reembed`"
            )
        yield point, point.vector


def sampled_recall(gallery: Gallery, n: int = SAMPLE, seed: int = 0) -> float | None:
    """Share of the exact :data:`DEPTH` nearest of n stored vectors that the gallery's index finds; None if empty.

    A result counts when it is as close as the exact one of the last place: equal scores are interchangeable.
    Raises StoreError for a damaged vector, and for one whose exact nearest neighbour is not itself.
    """
    sampled = list(sound_points(gallery, sample_ids(gallery, n, seed)))
    if not sampled:
        return None
    rows = np.stack([vector for _, vector in sampled])
    exact = gallery.query_batch(rows, DEPTH, with_payload=False, exact=True)
    found = gallery.query_batch(rows, DEPTH, with_payload=False)
    wanted = hits = 0
    for (point, row), best, ranked in zip(sampled, exact, found, strict=True):
        # Not simply 1: a vector that was rounded to float16 is a little longer or shorter.
        itself = min(1.0, float(row @ row))
        near = [hit for hit in best if hit.score >= itself - _ROUNDING]
        # Among many copies of one image it may be none of the first ten.
        if not near or (point.id not in [hit.id for hit in near] and len(near) < len(best)):
            raise StoreError(
                f"gallery {gallery.name!r} in {gallery.store}: the nearest neighbour of the stored vector of"
                f" {point.payload.get('key', point.id)!r} is not itself"
            )
        wanted += len(best)
        hits += sum(hit.score >= best[-1].score - _ROUNDING for hit in ranked[: len(best)])
    return hits / wanted


def check_same_vectors(source: Gallery, target: Gallery, n: int = SAMPLE, seed: int = 0) -> int:
    """Compare the vectors of n sampled points bit by bit, as the target stores them; how many were compared.

    Raises StoreError naming the first point whose vector is missing or differs in the target.
    """
    ids = sample_ids(source, n, seed)
    compared = 0
    there = {point.id: vector for point, vector in sound_points(target, ids)}
    for point, vector in sound_points(source, ids):
        if point.id not in there or there[point.id].tobytes() != target.storage.rounded(vector).tobytes():
            key = point.payload.get("key", point.id)
            raise StoreError(
                f"gallery {target.name!r} in {target.store}: the vector of {key!r} is not the one in {source.store};"
                " run the command again"
            )
        compared += 1
    return compared

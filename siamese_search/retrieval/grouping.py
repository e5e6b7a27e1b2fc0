"""Grouping by identity: the best shot of each, and how often and where each was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import DISTRACTOR_IDENTITY, JUNK_IDENTITY
from siamese_search.gallery.contract import Gallery, Hit
from siamese_search.gallery.filters import Condition


@dataclass(slots=True)
class Group:
    """One identity's best hit. sightings: its images in the gallery; ``None`` where not counted.

    reranked: the best hit's re-ranked similarity, where it was re-ranked.
    """

    best: Hit
    sightings: int | None = None
    cameras: tuple[str, ...] = ()
    reranked: float | None = None


def rank_groups(
    gallery: Gallery,
    vector: NDArray[np.float32],
    hits: Sequence[Hit],
    fetched: int,
    k: int,
    where: Sequence[Condition],
    keep: Callable[[Hit], bool],
) -> list[Group]:
    """The k identities whose best images rank highest, in that order.

    vector: float32 [d]. hits: the first ``fetched`` of its ranking. keep: which hits may appear at all.

    Where the hits hold fewer than k identities, the gallery is asked again without those already found:
    each round finds at least one more or the end, so that an identity with a million images costs no more
    than one with ten. An image without identity is a group of its own, and so is each of the reserved identities
    of Market-1501 (``-1`` junk, ``0000`` distractors): they are many people, not one.
    """
    groups: dict[str, Group] = {}
    dropped: set[str] = set()
    while True:
        for hit in hits:
            if not keep(hit):
                dropped.add(hit.id)
            else:
                groups.setdefault(group_key(hit), Group(hit))
        if len(groups) >= k or len(hits) < fetched:
            return list(groups.values())[:k]
        named = sorted(
            {str(group.best.payload["identity"]) for group in groups.values() if _named(group.best)}
        )
        found_again = sum(not _named(group.best) for group in groups.values()) + len(dropped)
        fetched = 2 * (k - len(groups)) + found_again
        rest = [*where, Condition("identity", "!=", tuple(named))] if named else where
        hits = gallery.query(vector, fetched, rest)


def count_sightings(
    gallery: Gallery,
    where: Sequence[Condition],
    ranked: Sequence[Sequence[Group]],
    left_out: Sequence[Iterable[Hit]],
) -> None:
    """Fill in ``sightings`` and ``cameras`` of all groups, in one pass over the points of their identities.

    ranked, left_out: per query its groups, and the hits that do not count for it (the query itself).
    """
    groups = [group for query in ranked for group in query]
    names = sorted({str(group.best.payload["identity"]) for group in groups if _named(group.best)})
    seen: dict[str, Counter[str | None]] = {name: Counter() for name in names}
    if names:
        condition = Condition("identity", "=", tuple(names))
        for point in gallery.scroll([*where, condition], fields=("identity", "camera")):
            seen[str(point.payload["identity"])][_camera(point.payload)] += 1
    for query, excluded in zip(ranked, left_out, strict=True):
        minus = Counter((str(hit.payload.get("identity")), _camera(hit.payload)) for hit in excluded)
        for group in query:
            if _named(group.best):
                name = str(group.best.payload["identity"])
                cameras = Counter(
                    {camera: count - minus[name, camera] for camera, count in seen[name].items()}
                )
            else:
                cameras = Counter([_camera(group.best.payload)])
            cameras = +cameras
            group.sightings = cameras.total()
            group.cameras = tuple(sorted((c for c in cameras if c is not None), key=natural))


def _named(hit: Hit) -> bool:
    return is_somebody(hit.payload.get("identity"))


def is_somebody(identity: object) -> bool:
    """Whether an identity is one of its own: not unknown, and not one that stands for many."""
    return identity is not None and identity not in (JUNK_IDENTITY, DISTRACTOR_IDENTITY)


def group_key(hit: Hit) -> str:
    """What the hits of one identity have in common, and no others."""
    # Point ids are uuids and identities are anything, so the two need different first characters.
    return f"={hit.payload['identity']}" if _named(hit) else f"#{hit.id}"


def _camera(payload: dict[str, object]) -> str | None:
    camera = payload.get("camera")
    return None if camera is None else str(camera)


def natural(camera: str) -> tuple[int, int, str]:
    """Camera 10 after camera 9, names after numbers."""
    return (0, int(camera), camera) if camera.isdecimal() and len(camera) < 10 else (1, 0, camera)

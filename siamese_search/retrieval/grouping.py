"""Grouping by identity: the best shot of each, and how often and where each was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from siamese_search.datasets.records import DISTRACTOR_IDENTITY, JUNK_IDENTITY
from siamese_search.gallery.contract import Gallery, Hit
from siamese_search.gallery.filters import Condition
from siamese_search.retrieval.query import Copies, Probe
from siamese_search.retrieval.ranking import SPARE, may_appear, until_enough

#: Results fetched per group wanted, at first: identities have several images each.
_FETCH = 8


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
    probes: Sequence[Probe],
    k: int,
    where: Sequence[Condition],
    leaves_out: Callable[[Probe], bool],
) -> list[tuple[list[Group], Copies]]:
    """Per probe the k identities whose best images rank highest, in that order, and the copies of the probe seen.

    leaves_out: whether copies of the probe may not appear. Where the hits hold fewer than k identities, the gallery is
    asked again without those already found, so that an identity with a million images costs no more than one with ten.
    An image without identity is a group of its own, and so is each of Market-1501's junk and distractors.
    """
    size = gallery.count()
    vectors = [probe.vector for probe in probes]
    copies = [probe.judge.among([]) for probe in probes]
    groups: list[dict[str, Group]] = [{} for _ in probes]
    dropped: list[set[str]] = [set() for _ in probes]

    def ask(queries: list[int], depth: int) -> list[list[Hit]]:
        if not any(groups[query] for query in queries):
            return gallery.query_batch(np.stack([vectors[query] for query in queries]), depth, where)
        return [
            gallery.query(vectors[query], depth, [*where, *_others(groups[query].values())])
            for query in queries
        ]

    def more(query: int, hits: list[Hit], depth: int) -> int:
        copies[query] |= probes[query].judge.among(hits)
        kept = may_appear(hits, copies[query], leaves_out(probes[query]))
        dropped[query].update({hit.id for hit in hits} - {hit.id for hit in kept})
        for hit in kept:
            groups[query].setdefault(group_key(hit), Group(hit))
        found = groups[query].values()
        if len(found) >= k or len(hits) < depth:
            return 0
        return 2 * (k - len(found)) + sum(not _named(one.best) for one in found) + len(dropped[query])

    until_enough([min(max(_FETCH * k, k + SPARE), size)] * len(probes), ask, more)
    return [(list(one.values())[:k], seen) for one, seen in zip(groups, copies, strict=True)]


def _others(groups: Iterable[Group]) -> list[Condition]:
    """The condition that leaves all these identities out."""
    named = tuple(_names(groups))
    return [Condition("identity", "!=", named)] if named else []


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
    names = _names(groups)
    seen: dict[str, Counter[str | None]] = {name: Counter() for name in names}
    if names:
        condition = Condition("identity", "=", tuple(names))
        for point in gallery.scroll([*where, condition], fields=("identity", "camera")):
            seen[str(point.identity)][point.camera] += 1
    for query, excluded in zip(ranked, left_out, strict=True):
        minus = Counter((str(hit.identity), hit.camera) for hit in excluded)
        for group in query:
            if _named(group.best):
                name = str(group.best.identity)
                cameras = Counter(
                    {camera: count - minus[name, camera] for camera, count in seen[name].items()}
                )
            else:
                cameras = Counter([group.best.camera])
            cameras = +cameras
            group.sightings = cameras.total()
            group.cameras = tuple(sorted((c for c in cameras if c is not None), key=natural))


def _named(hit: Hit) -> bool:
    return is_somebody(hit.identity)


def _names(groups: Iterable[Group]) -> list[str]:
    """The identities of these groups that are one each, sorted."""
    return sorted({str(group.best.identity) for group in groups if _named(group.best)})


def is_somebody(identity: object) -> bool:
    """Whether an identity is one of its own: not unknown, and not one that stands for many."""
    return identity is not None and identity not in (JUNK_IDENTITY, DISTRACTOR_IDENTITY)


def group_key(hit: Hit) -> str:
    """What the hits of one identity have in common, and no others."""
    # Point ids are uuids and identities are anything, so the two need different first characters.
    return f"={hit.identity}" if _named(hit) else f"#{hit.id}"


def natural(camera: str) -> tuple[int, int, str]:
    """Camera 10 after camera 9, names after numbers."""
    return (0, int(camera), camera) if camera.isdecimal() and len(camera) < 10 else (1, 0, camera)

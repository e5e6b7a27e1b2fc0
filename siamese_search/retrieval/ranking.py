"""The first hits of each probe that may appear, however many lie before them that may not: plain, grouped, re-ranked.

Grouped by identity each is the best shot of one, with how often and where it was seen. Re-ranked are the first N of the
ranking (:mod:`~siamese_search.vectors.k_reciprocal`). N bounds the cost, which grows with N² whatever the gallery's
size; neighbours beyond are not seen, so the order comes closer to that of re-ranking the whole gallery as N grows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from siamese_search.datasets.records import RESERVED_IDENTITIES
from siamese_search.gallery.contract import Gallery, Hit, StoredPoint
from siamese_search.gallery.filters import Condition, Where
from siamese_search.retrieval.options import SearchOptions
from siamese_search.retrieval.query import Copies, Probe
from siamese_search.vectors.k_reciprocal import rerank

Answer = TypeVar("Answer")

#: Results held at once: queries are asked in groups of HITS_AT_ONCE / results per query.
HITS_AT_ONCE = 100_000
#: How many times more is fetched where the last answer did not suffice.
GROWTH = 4


def until_enough(
    depths: Sequence[int], ask: Callable[[list[int], int], Sequence[Answer]], more: Callable[[int, Answer, int], int]
) -> None:
    """Ask every query for its first results, and again for more until it has enough.

    depths: of each query, how many results to fetch at first. ask: queries, and results for each → an answer each.
    more: is told a query, its answer and how many results that was asked to have, at least as many as were wanted; it
    keeps what it needs and says how many to fetch next, 0 for enough.
    """
    wanted = dict(enumerate(depths))
    while wanted:
        again: dict[int, int] = {}
        for queries in _groups(wanted):
            depth = wanted[queries[-1]]
            for query, answer in zip(queries, ask(queries, depth), strict=True):
                if deeper := more(query, answer, depth):
                    again[query] = deeper
        wanted = again


def _groups(wanted: Mapping[int, int]) -> Iterator[list[int]]:
    """The queries by ascending depth, in groups that fetch at most :data:`HITS_AT_ONCE` results together.

    A group is fetched as deep as its last query needs.
    """
    group: list[int] = []
    for query in sorted(wanted, key=lambda one: wanted[one]):
        if group and (len(group) + 1) * wanted[query] > HITS_AT_ONCE:
            yield group
            group = []
        group.append(query)
    if group:
        yield group


#: Results fetched beyond k where some may be dropped: the query itself and a few copies of it.
SPARE = 8
#: Results fetched per group wanted, at first: identities have several images each.
_FETCH = 8


@dataclass(slots=True)
class Group:
    """One result: a hit, or the best hit of an identity. sightings: its images in the gallery; ``None`` if not counted.

    reranked: the hit's re-ranked similarity in [0, 1], where it was re-ranked.
    """

    best: Hit
    sightings: int | None = None
    cameras: tuple[str, ...] = ()
    reranked: float | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """groups: the first that may appear. copies: those among all hits that were seen which show the probe itself.

    best: the highest score of them, which re-ranking may put further down than is shown.
    """

    groups: list[Group]
    copies: Copies
    best: float | None = None


def _kept(probe: Probe, hits: Sequence[Hit], copies: Copies, options: SearchOptions) -> list[Hit]:
    """The hits that may appear: not the copies of the query where those are left out."""
    return [hit for hit in hits if not (probe.left_out(options) and hit.id in copies.hits)]


def rank_hits(
    gallery: Gallery,
    probes: Sequence[Probe],
    k: int,
    where: Where,
    options: SearchOptions,
    *,
    with_vectors: bool = False,
) -> list[Ranking]:
    """Per probe its first k hits that may appear, by score, then point id; beyond ``min_score`` perhaps fewer."""
    size = gallery.count()
    found = [Ranking([], probe.judge([])) for probe in probes]

    def ask(queries: list[int], depth: int) -> list[list[Hit]]:
        vectors = np.stack([probes[query].vector for query in queries])
        return gallery.query_batch(vectors, depth, where, with_vectors=with_vectors)

    def more(query: int, hits: list[Hit], depth: int) -> int:
        probe = probes[query]
        copies = probe.judge(hits)
        groups = [Group(hit) for hit in _kept(probe, hits, copies, options)[:k]]
        found[query] = Ranking(groups, copies)
        if len(groups) == k or len(hits) < depth or depth >= size:
            return 0
        return 0 if probe.below(hits[-1], options) else min(GROWTH * depth, size)

    until_enough([min(k + SPARE * probe.left_out(options), size) for probe in probes], ask, more)
    return found


def rank_groups(
    gallery: Gallery, probes: Sequence[Probe], k: int, where: Where, options: SearchOptions
) -> list[Ranking]:
    """Per probe the k identities whose best images rank highest, in that order.

    Where the hits hold fewer than k identities, the gallery is asked again without those already found, so that an
    identity with a million images costs no more than one with ten. An image without identity is a group of its own, and
    so is each of Market-1501's junk and distractors.
    """
    size = gallery.count()
    vectors = [probe.vector for probe in probes]
    copies = [probe.judge([]) for probe in probes]
    groups: list[dict[str, Group]] = [{} for _ in probes]
    dropped: list[set[str]] = [set() for _ in probes]

    def ask(queries: list[int], depth: int) -> list[list[Hit]]:
        if not any(groups[query] for query in queries):
            return gallery.query_batch(np.stack([vectors[query] for query in queries]), depth, where)
        return [gallery.query(vectors[query], depth, [*where, *_others(groups[query].values())]) for query in queries]

    def more(query: int, hits: list[Hit], depth: int) -> int:
        copies[query] |= probes[query].judge(hits)
        kept = _kept(probes[query], hits, copies[query], options)
        dropped[query].update({hit.id for hit in hits} - {hit.id for hit in kept})
        for hit in kept:
            groups[query].setdefault(group_key(hit), Group(hit))
        found = groups[query].values()
        if len(found) >= k or len(hits) < depth:
            return 0
        return 2 * (k - len(found)) + sum(not one.best.is_somebody for one in found) + len(dropped[query])

    until_enough([min(max(_FETCH * k, k + SPARE), size)] * len(probes), ask, more)
    return [Ranking(list(one.values())[:k], seen) for one, seen in zip(groups, copies, strict=True)]


def _others(groups: Iterable[Group]) -> list[Condition]:
    """The condition that leaves all these identities out."""
    named = tuple(_names(groups))
    return [Condition("identity", "!=", named)] if named else []


def count_sightings(
    gallery: Gallery, where: Where, ranked: Sequence[Sequence[Group]], left_out: Sequence[Iterable[Hit]]
) -> None:
    """Fill in ``sightings`` and ``cameras`` of all groups, in one pass over the points of their identities.

    ranked, left_out: per query its groups, and the hits that do not count for it (the query itself).
    """
    groups = [group for query in ranked for group in query]
    names = _names(groups)
    seen: dict[str, Counter[str | None]] = {name: Counter() for name in names}
    if names:
        condition = Condition("identity", "=", tuple(names))
        telling = ("key",) if RESERVED_IDENTITIES.intersection(names) else ()
        for point in gallery.scroll([*where, condition], fields=("identity", "camera", *telling)):
            seen[str(point.identity)][point.camera] += point.is_somebody
    for query, excluded in zip(ranked, left_out, strict=True):
        minus = Counter((str(hit.identity), hit.camera) for hit in excluded)
        for group in query:
            if group.best.is_somebody:
                name = str(group.best.identity)
                cameras = Counter({camera: count - minus[name, camera] for camera, count in seen[name].items()})
            else:
                cameras = Counter([group.best.camera])
            cameras = +cameras
            group.sightings = cameras.total()
            group.cameras = tuple(sorted((c for c in cameras if c is not None), key=natural))


def people_of(gallery: Gallery, identities: Iterable[object]) -> list[Any]:
    """Those of a gallery's identities that are one person each, in order."""

    def has_people(name: object) -> bool:
        points = gallery.scroll([Condition("identity", "=", (str(name),))], fields=("identity", "key"))
        return any(point.is_somebody for point in points)

    return [one for one in identities if one not in RESERVED_IDENTITIES or has_people(one)]


def _names(groups: Iterable[Group]) -> list[str]:
    """The identities of these groups that are one each, sorted."""
    return sorted({str(group.best.identity) for group in groups if group.best.is_somebody})


def group_key(hit: Hit | StoredPoint) -> str:
    """What the hits of one identity have in common, and no others."""
    # Point ids are uuids and identities are anything, so the two need different first characters.
    return f"={hit.identity}" if hit.is_somebody else f"#{hit.id}"


def natural(camera: str) -> tuple[int, int, str]:
    """Camera 10 after camera 9, names after numbers."""
    return (0, int(camera), camera) if camera.isdecimal() and len(camera) < 10 else (1, 0, camera)


#: Values of vectors held at once, in float32 (64 MB).
_VALUES_AT_ONCE = 1 << 24
#: From this similarity on a copy of the query in the gallery has its vector: both are one image.
_SAME_VECTOR = 0.9999


def rerank_top(gallery: Gallery, probes: Sequence[Probe], where: Where, options: SearchOptions) -> Iterator[Ranking]:
    """Per probe, in order, its first ``candidates`` hits that may appear, whatever their score, in their new order.

    Hits that re-ranking holds equal stay in the order of the ranking. Each probe is re-ranked alone. A copy of the
    query that stays among the candidates is one image with the query, not two.
    """
    options = replace(options, min_score=None)
    at_once = max(1, _VALUES_AT_ONCE // (min(gallery.count(), options.candidates) * gallery.dim))
    for start in range(0, len(probes), at_once):
        asked = probes[start : start + at_once]
        found = rank_hits(gallery, asked, options.candidates, where, options, with_vectors=True)
        for probe, one in zip(asked, found, strict=True):
            yield Ranking(_reranked(probe, one), one.copies)


def _reranked(probe: Probe, ranking: Ranking) -> list[Group]:
    hits = [group.best for group in ranking.groups]
    if not hits:
        return []
    vectors = np.stack([hit.vector for hit in hits if hit.vector is not None])  # [n, d]
    own = -1
    if probe.pairwise and probe.scale == 1.0:  # else the probe is no image that a copy could be the same as
        copies = (hit.id in ranking.copies.hits and hit.score >= _SAME_VECTOR for hit in hits)
        own = next((place for place, copy in enumerate(copies) if copy), -1)
    scores = rerank(probe.vector[None], vectors, same_image=np.array([own], np.int64))[0]  # [n]
    order = np.argsort(-scores, kind="stable")
    return [Group(replace(hits[place], vector=None), reranked=float(scores[place])) for place in order]

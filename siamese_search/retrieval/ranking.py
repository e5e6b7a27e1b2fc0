"""The first hits of each probe that may appear, however many lie before them that may not; and k-reciprocal re-ranking.

Re-ranked are the first N of the ranking (:mod:`~siamese_search.vectors.k_reciprocal`). N bounds the cost, which grows
with N² whatever the gallery's size; neighbours beyond are not seen, so the order comes closer to that of re-ranking the
whole gallery as N grows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from siamese_search.gallery.contract import Gallery, Hit
from siamese_search.gallery.filters import Condition
from siamese_search.retrieval.query import Copies, Probe
from siamese_search.vectors.k_reciprocal import rerank

Answer = TypeVar("Answer")

#: Results held at once: queries are asked in groups of HITS_AT_ONCE / results per query.
HITS_AT_ONCE = 100_000
#: How many times more is fetched where the last answer did not suffice.
GROWTH = 4


def until_enough(
    depths: Sequence[int],
    ask: Callable[[list[int], int], Sequence[Answer]],
    more: Callable[[int, Answer, int], int],
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


@dataclass(frozen=True, slots=True)
class Ranking:
    """hits: the first that may appear. copies: those among all that were fetched which show the probe itself."""

    hits: list[Hit]
    copies: Copies


def may_appear(hits: Sequence[Hit], copies: Copies, leaves_out: bool) -> list[Hit]:
    """The hits, less the copies of the query where those are left out."""
    return [hit for hit in hits if not (leaves_out and hit.id in copies.hits)]


def ranked(
    gallery: Gallery,
    probes: Sequence[Probe],
    k: int,
    where: Sequence[Condition],
    leaves_out: Callable[[Probe], bool],
    *,
    below: Callable[[Hit, Probe], bool] | None = None,
    with_vectors: bool = False,
) -> list[Ranking]:
    """Per probe its first k hits that may appear, by score, then point id.

    leaves_out: whether copies of the probe may not appear. below: from which hit on nothing is wanted.
    """
    size = gallery.count()
    found = [Ranking([], probe.judge.among([])) for probe in probes]

    def ask(queries: list[int], depth: int) -> list[list[Hit]]:
        vectors = np.stack([probes[query].vector for query in queries])
        return gallery.query_batch(vectors, depth, where, with_vectors=with_vectors)

    def more(query: int, hits: list[Hit], depth: int) -> int:
        probe = probes[query]
        copies = probe.judge.among(hits)
        kept = may_appear(hits, copies, leaves_out(probe))[:k]
        found[query] = Ranking(kept, copies)
        if len(kept) == k or len(hits) < depth or depth >= size:
            return 0
        return 0 if below is not None and below(hits[-1], probe) else min(GROWTH * depth, size)

    until_enough([min(k + SPARE * leaves_out(probe), size) for probe in probes], ask, more)
    return found


#: Values of vectors held at once, in float32 (64 MB).
_VALUES_AT_ONCE = 1 << 24
#: From this similarity on a copy of the query in the gallery has its vector: both are one image.
_SAME_VECTOR = 0.9999

#: Hits by re-ranked similarity in [0, 1], highest first, with it; without vectors.
Reranked = list[tuple[Hit, float]]


def rerank_top(
    gallery: Gallery,
    probes: Sequence[Probe],
    candidates: int,
    where: Sequence[Condition],
    leaves_out: Callable[[Probe], bool],
) -> Iterator[tuple[Reranked, Copies]]:
    """Per probe, in order, its first ``candidates`` hits that may appear, in their new order; and its copies seen.

    leaves_out: whether copies of a probe may not appear. Hits that re-ranking holds equal stay in the order of the
    ranking. Each probe is re-ranked alone. A copy of the query that stays among the candidates is one image with the
    query, not two.
    """
    at_once = max(1, _VALUES_AT_ONCE // (min(gallery.count(), candidates) * gallery.dim))
    for start in range(0, len(probes), at_once):
        asked = probes[start : start + at_once]
        found = ranked(gallery, asked, candidates, where, leaves_out, with_vectors=True)
        for probe, one in zip(asked, found, strict=True):
            yield _reranked(probe, one), one.copies


def _reranked(probe: Probe, ranking: Ranking) -> Reranked:
    hits = ranking.hits
    if not hits:
        return []
    vectors = np.stack([hit.vector for hit in hits if hit.vector is not None])  # [n, d]
    own = -1
    if probe.pairwise and probe.scale == 1.0:  # else the probe is no image that a copy could be the same as
        copies = (
            place
            for place, hit in enumerate(hits)
            if hit.id in ranking.copies.hits and hit.score >= _SAME_VECTOR
        )
        own = next(copies, -1)
    scores = rerank(probe.vector[None], vectors, same_image=np.array([own], np.int64))[0]  # [n]
    order = np.argsort(-scores, kind="stable")
    return [(replace(hits[place], vector=None), float(scores[place])) for place in order]

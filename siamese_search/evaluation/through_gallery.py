"""Rankings as the database gives them: fetched deep enough, excluded from after fetching, measured."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from siamese_search.evaluation.protocol import Protocol
from siamese_search.evaluation.retrieval import HitMetrics, RankingMetrics, metrics_from_hit_ranks, summarise
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.filters import Condition

#: Results held at once: queries are asked in groups of _HITS_AT_ONCE / results per query.
_HITS_AT_ONCE = 100_000
#: Fewest results fetched per query, and how many times more where a match is still missing.
_FIRST_FETCH = 128
_FETCH_GROWTH = 4
#: Exact scores held at once, in float32.
_SCORES_AT_ONCE = 8_000_000
#: Results per query that recall compares, and that a report keeps to show.
TOP = 10
#: Scores closer than this are ties: engines add up a dot product in different orders.
_TIE = 1e-6


@dataclass(frozen=True)
class DatabaseRanking:
    """Figures from the database's answers; ``top`` int64 [≤ 10] per query; ``recall`` of the exact ten nearest."""

    metrics: RankingMetrics
    top: list[NDArray[np.int64]]
    recall: float


def rank_through(
    gallery: Gallery,
    plan: Protocol,
    query_vectors: NDArray[np.float32],
    gallery_vectors: NDArray[np.float32],
    places: Mapping[str, int],
    *,
    where: Sequence[Condition] = (),
    depth: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DatabaseRanking:
    """Ask the gallery for each query and measure its own order of results.

    query_vectors: float32 [q, d], rows as ``plan.queries``; gallery_vectors: float32 [g, d], rows as
    ``plan.gallery``, for the exact answer that recall needs. places: point id → place in ``plan.gallery``; a
    point that is not in it (junk, unlabelled) leaves the ranking. depth: most results fetched per query,
    counted before any exclusion; ``None`` goes on until every match has come, through the whole gallery if
    need be, so that the figures are those of full rankings. progress: called with queries done and in all.
    """
    everything = max(1, gallery.count(where))
    most = everything if depth is None else min(depth, everything)
    rules = _Rules(plan)
    count = len(plan.queries)
    matches = [rules.matches(query) for query in range(count)]
    by_number = {uuid.UUID(point).int: place for point, place in places.items()}
    # The gallery may hold points that are not ranked; they come in between.
    share = len(plan.gallery) / everything
    depths = np.ceil(_depths(rules, query_vectors, gallery_vectors) / max(share, 1e-9))
    depths = np.minimum(np.maximum(depths, _FIRST_FETCH), most).astype(np.int64)
    per_query: list[HitMetrics | None] = [None] * count
    top: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * count
    found = wanted = done = 0
    unsettled: list[int] = list(range(count))
    while unsettled:
        again: list[int] = []
        for queries in _groups(unsettled, depths):
            fetched = int(depths[queries[-1]])
            vectors = query_vectors[queries]
            answers = gallery.query_ids(vectors, fetched, where)
            exact = vectors @ gallery_vectors.T  # [group, g]
            for query, ids, scores in zip(queries, answers, exact):
                answer = np.array([by_number.get(one, -1) for one in ids], np.int64)
                answer = answer[answer >= 0]
                ranked = answer[~rules.excluded(query, answer)]
                ranks = np.flatnonzero(rules.gallery_codes[ranked] == rules.query_codes[query]) + 1
                # Behind the last match the order changes no figure; until there, fetch on.
                if fetched < most and (ranks.size < matches[query] or ranked.size < TOP):
                    again.append(query)
                    depths[query] = min(fetched * _FETCH_GROWTH, most)
                    continue
                if matches[query]:
                    per_query[query] = metrics_from_hit_ranks(ranks.astype(np.int64), matches[query])
                top[query] = ranked[:TOP]
                found_here, wanted_here = _recalled(answer, scores, most)
                found, wanted, done = found + found_here, wanted + wanted_here, done + 1
            if progress is not None:
                progress(done, count)
        unsettled = again
    metrics = summarise(per_query, matches, gallery=len(plan.gallery))
    return DatabaseRanking(metrics, top, found / wanted if wanted else float("nan"))


def _groups(queries: Sequence[int], depths: NDArray[np.int64]) -> Iterator[list[int]]:
    """The queries by ascending depth, in groups that fetch at most :data:`_HITS_AT_ONCE` results together.

    A group is fetched as deep as its last query needs.
    """
    group: list[int] = []
    for query in sorted(queries, key=lambda one: int(depths[one])):
        if group and (len(group) + 1) * int(depths[query]) > _HITS_AT_ONCE:
            yield group
            group = []
        group.append(query)
    if group:
        yield group


def _depths(
    rules: _Rules, query_vectors: NDArray[np.float32], gallery_vectors: NDArray[np.float32]
) -> NDArray[np.int64]:
    """How deep each query's last match and tenth result lie in the exact ranking of the gallery, int64 [q].

    Only a forecast of how much to fetch: what counts is what the database answers, and where that holds
    fewer matches, more is fetched.
    """
    depths = np.empty(len(query_vectors), np.int64)
    block = max(1, _SCORES_AT_ONCE // max(1, len(gallery_vectors)))
    for start in range(0, len(query_vectors), block):
        exact = query_vectors[start : start + block] @ gallery_vectors.T  # [block, g]
        for query, scores in enumerate(exact, start):
            members = rules.members(query)
            leaves = rules.excluded(query, members)
            matches = scores[members[~leaves]]
            deepest = int((scores >= matches.min() - _TIE).sum()) if matches.size else 0
            depths[query] = max(deepest, TOP) + leaves.sum()
    return depths


def _recalled(answer: NDArray[np.int64], exact: NDArray[np.float32], most: int) -> tuple[int, int]:
    """How many of the exact nearest are among the first answers, and how many there are to find.

    Any answer as close as the last of the exact nearest counts, so that ties cost nothing.
    """
    wanted = min(TOP, exact.size, most)
    if wanted == 0:
        return 0, 0
    bound = np.partition(exact, exact.size - wanted)[exact.size - wanted] - _TIE
    return int((exact[answer[:wanted]] >= bound).sum()), wanted


class _Rules:
    """The protocol's labels as numbers, for fast comparison of a whole result list."""

    def __init__(self, plan: Protocol) -> None:
        codes: dict[str, int] = {}
        for label in (*plan.query_ids, *plan.gallery_ids):
            codes.setdefault(label, len(codes))
        self.query_codes = np.array([codes[label] for label in plan.query_ids], np.int64)
        self.gallery_codes = np.array([codes[label] for label in plan.gallery_ids], np.int64)
        cameras: dict[str | None, int] = {None: -1}
        query_cameras = plan.query_cameras or [None] * len(plan.queries)
        gallery_cameras = plan.gallery_cameras or [None] * len(plan.gallery)
        for camera in (*query_cameras, *gallery_cameras):
            cameras.setdefault(camera, len(cameras) - 1)
        self.query_cameras = np.array([cameras[camera] for camera in query_cameras], np.int64)
        self.gallery_cameras = np.array([cameras[camera] for camera in gallery_cameras], np.int64)
        self.same_image = plan.same_image
        # Places of each identity, so that a query's matches need no pass over the gallery.
        order = np.argsort(self.gallery_codes, kind="stable")
        starts = np.searchsorted(self.gallery_codes[order], np.arange(len(codes) + 1))
        self._members = [order[a:b] for a, b in pairwise(starts)]

    def excluded(self, query: int, answer: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which places of an answer leave the ranking of this query, bool [n]."""
        leaves = answer == self.same_image[query]
        if self.query_cameras[query] >= 0:
            leaves |= (self.gallery_codes[answer] == self.query_codes[query]) & (
                self.gallery_cameras[answer] == self.query_cameras[query]
            )
        return np.asarray(leaves, dtype=bool)

    def members(self, query: int) -> NDArray[np.int64]:
        """The places of this query's identity, int64 [n]."""
        found: NDArray[np.int64] = self._members[self.query_codes[query]]
        return found

    def matches(self, query: int) -> int:
        """How many places match this query after the exclusions."""
        members = self.members(query)
        return int(members.size - self.excluded(query, members).sum())

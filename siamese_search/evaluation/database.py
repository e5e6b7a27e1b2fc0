"""Rankings as the database gives them: fetched deep enough, excluded from after fetching, measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from siamese_search.evaluation.protocol import Protocol
from siamese_search.evaluation.ranking import HitMetrics, RankingMetrics, metrics_from_hit_ranks, summarise
from siamese_search.gallery.base import Gallery
from siamese_search.gallery.filters import Condition

#: Results held at once: queries are asked in groups of _HITS_AT_ONCE / results per query.
_HITS_AT_ONCE = 100_000
#: Results first fetched per query, and how many times more where a match is still missing.
_FIRST_FETCH = 128
_FETCH_GROWTH = 4
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
    per_query: list[HitMetrics | None] = [None] * count
    top: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * count
    found = wanted = done = 0
    unsettled = list(range(count))
    fetched = min(_FIRST_FETCH, most)
    while unsettled:
        group = max(1, _HITS_AT_ONCE // fetched)
        again: list[int] = []
        for start in range(0, len(unsettled), group):
            queries = unsettled[start : start + group]
            vectors = query_vectors[queries]
            answers = gallery.query_batch(vectors, fetched, where, with_payload=False)
            exact = vectors @ gallery_vectors.T  # [group, g]
            for query, hits, scores in zip(queries, answers, exact):
                answer = np.fromiter((places.get(hit.id, -1) for hit in hits), np.int64, len(hits))
                answer = answer[answer >= 0]
                ranked = answer[~rules.excluded(query, answer)]
                ranks = np.flatnonzero(rules.gallery_codes[ranked] == rules.query_codes[query]) + 1
                # Behind the last match the order changes no figure; until there, fetch on.
                if fetched < most and (ranks.size < matches[query] or ranked.size < TOP):
                    again.append(query)
                    continue
                if matches[query]:
                    per_query[query] = metrics_from_hit_ranks(ranks.astype(np.int64), matches[query])
                top[query] = ranked[:TOP]
                found_here, wanted_here = _recalled(answer, scores, most)
                found, wanted, done = found + found_here, wanted + wanted_here, done + 1
            if progress is not None:
                progress(done, count)
        unsettled = again
        fetched = min(fetched * _FETCH_GROWTH, most)
    metrics = summarise(per_query, matches, gallery=len(plan.gallery))
    return DatabaseRanking(metrics, top, found / wanted if wanted else float("nan"))


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

    def matches(self, query: int) -> int:
        """How many places match this query after the exclusions."""
        members = self._members[self.query_codes[query]]
        return int(members.size - self.excluded(query, members).sum())

"""Rankings as the database gives them: full result lists, exclusions applied after fetching, then figures."""

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

#: Results held at once: queries are asked in groups of _HITS_AT_ONCE / depth.
_HITS_AT_ONCE = 250_000
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
    point that is not in it (junk, unlabelled) leaves the ranking. depth: results fetched per query before any
    exclusion, ``None`` for the whole gallery. progress: called with queries done and their number.
    """
    fetched = max(1, gallery.count(where) if depth is None else depth)
    group = max(1, _HITS_AT_ONCE // fetched)
    rules = _Rules(plan)
    per_query: list[HitMetrics | None] = []
    positives: list[int] = []
    top: list[NDArray[np.int64]] = []
    found = wanted = 0
    for start in range(0, len(query_vectors), group):
        vectors = query_vectors[start : start + group]
        exact = vectors @ gallery_vectors.T  # [group, g]
        answers = gallery.query_batch(vectors, fetched, where)
        for offset, hits in enumerate(answers):
            query = start + offset
            answer = np.fromiter((places.get(hit.id, -1) for hit in hits), np.int64, len(hits))
            answer = answer[answer >= 0]
            found_here, wanted_here = _recalled(answer, exact[offset])
            found, wanted = found + found_here, wanted + wanted_here
            ranked = answer[~rules.excluded(query, answer)]
            ranks = np.flatnonzero(rules.gallery_codes[ranked] == rules.query_codes[query]) + 1
            matches = rules.matches(query)
            positives.append(matches)
            per_query.append(metrics_from_hit_ranks(ranks.astype(np.int64), matches) if matches else None)
            top.append(ranked[:TOP])
        if progress is not None:
            progress(min(start + group, len(query_vectors)), len(query_vectors))
    metrics = summarise(per_query, positives, gallery=len(plan.gallery))
    return DatabaseRanking(metrics, top, found / wanted if wanted else float("nan"))


def _recalled(answer: NDArray[np.int64], exact: NDArray[np.float32]) -> tuple[int, int]:
    """How many of the exact nearest are among the first answers, and how many there are to find.

    Any answer as close as the last of the exact nearest counts, so that ties cost nothing.
    """
    wanted = min(TOP, exact.size)
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

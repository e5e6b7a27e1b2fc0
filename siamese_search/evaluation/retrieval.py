"""Ranking metrics of re-identification: CMC (rank-k), mAP and mINP, exact and in bounded memory; and open-set rates.

Per query, the gallery is ordered by score descending, then by gallery index ascending, so that ties are
stable. Before that some items leave the ranking:

* the query itself, where it is part of the gallery;
* junk (identity ``-1``), for every query;
* items of the *same identity and same camera* as the query, where both cameras are known.

Distractors (identity ``0000``) and all other identities stay as negatives. A query without any positive
left is *invalid*: it is counted, and it is not part of any mean.

With hit ranks ``r_1 < … < r_n`` (1-based, among the items that stayed):

* average precision: ``AP = 1/n · Σ i / r_i``, the mean of the precision at the hits; the field's default
  (torchreid, FastReID);
* its trapezoidal form, as in the evaluation code of the Market-1501 authors (Zheng et al., ICCV 2015):
  ``1/n · Σ (p(r_i - 1) + p(r_i)) / 2`` with precision ``p(r)`` and ``p(0) = 1``; up to a point lower;
* inverse negative penalty: ``INP = n / r_n`` (Ye et al., TPAMI 2021): how far down the hardest match is.

Open-set identification asks what happens when the target is not in the gallery at all. Every query is asked twice. With
its identity in the gallery, it is a miss where no valid match reaches the threshold; the share of misses is the false
negative identification rate (FNIR). With all images of its identity taken out of the gallery, it is a false alarm where
anything reaches the threshold; their share is the false positive identification rate (FPIR). The terms are those of
ISO/IEC 19795-1; unlike a false match rate, FPIR grows with the gallery.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siamese_search.evaluation.protocol import JUNK, Labels, check_length


@dataclass(frozen=True, slots=True)
class HitMetrics:
    """The figures of one ranked list. ``first_hit_rank`` is 1-based, 0 where there is no hit."""

    average_precision: float
    average_precision_trapezoid: float
    inverse_negative_penalty: float
    first_hit_rank: int


@dataclass(frozen=True)
class RankingMetrics:
    """Means over the valid queries, as fractions in [0, 1] (NaN without a valid query), and the parts.

    ``queries`` counts all queries, ``invalid_queries`` those with no positive left. The arrays have one
    entry per query [q]: averages are NaN and ranks 0 for invalid queries.
    """

    queries: int
    gallery: int
    invalid_queries: int
    rank1: float
    rank5: float
    rank10: float
    mAP: float  # noqa: N815 - the field's name, and a key of the JSON contract
    mAP_trapezoid: float  # noqa: N815
    mINP: float  # noqa: N815
    average_precision: NDArray[np.float64]
    average_precision_trapezoid: NDArray[np.float64]
    inverse_negative_penalty: NDArray[np.float64]
    first_hit_rank: NDArray[np.int64]

    @property
    def valid_queries(self) -> int:
        return self.queries - self.invalid_queries

    def to_json(self) -> dict[str, float]:
        """The means."""
        names = ("rank1", "rank5", "rank10", "mAP", "mAP_trapezoid", "mINP")
        return {name: getattr(self, name) for name in names}

    def cmc_curve(self, top: int = 50) -> NDArray[np.float64]:
        """Cumulative match characteristic at ranks 1…top, float64 [top]."""
        first = self.first_hit_rank[self.first_hit_rank > 0]
        if first.size == 0:
            return np.full(top, np.nan)
        counts = np.bincount(np.minimum(first, top + 1), minlength=top + 2)
        return np.asarray(np.cumsum(counts)[1 : top + 1] / self.valid_queries, dtype=np.float64)


def metrics_from_hit_ranks(ranks: NDArray[np.int64], positives: int | None = None) -> HitMetrics:
    """AP, trapezoidal AP and INP from the 1-based, ascending ranks of the hits, int64 [n].

    positives: how many matches exist, where the list was cut off and some are missing from it; the
    averages are then AP@k (a missing match counts 0) and INP is 0. Without hits everything is 0.
    """
    found = int(ranks.size)
    total = found if positives is None else positives
    if total < found:
        raise ValueError(f"{found} hits but only {total} positives")
    if found == 0:
        return HitMetrics(0.0, 0.0, 0.0, 0)
    order = np.arange(1, found + 1, dtype=np.float64)
    precision = order / ranks
    # Precision one rank above each hit: i - 1 hits among r_i - 1 items, and 1 by definition at rank 0.
    before = np.where(ranks > 1, (order - 1) / np.maximum(ranks - 1, 1), 1.0)
    return HitMetrics(
        average_precision=float(precision.sum() / total),
        average_precision_trapezoid=float((precision + before).sum() / 2 / total),
        inverse_negative_penalty=float(found / ranks[-1]) if found == total else 0.0,
        first_hit_rank=int(ranks[0]),
    )


def summarise(per_query: Sequence[HitMetrics | None], *, gallery: int) -> RankingMetrics:
    """Means over queries; ``None`` marks an invalid query."""

    def column(name: str) -> NDArray[np.float64]:
        return np.array([np.nan if m is None else getattr(m, name) for m in per_query], dtype=np.float64)

    precision, trapezoid = column("average_precision"), column("average_precision_trapezoid")
    penalty = column("inverse_negative_penalty")
    first = np.array([0 if m is None else m.first_hit_rank for m in per_query], dtype=np.int64)
    valid = np.array([m is not None for m in per_query], dtype=bool)

    def mean(values: NDArray[np.float64]) -> float:
        return float(values[valid].mean()) if valid.any() else float("nan")

    rank1, rank5, rank10 = (mean(((first > 0) & (first <= k)).astype(np.float64)) for k in (1, 5, 10))
    return RankingMetrics(
        queries=len(per_query),
        gallery=gallery,
        invalid_queries=int((~valid).sum()),
        rank1=rank1,
        rank5=rank5,
        rank10=rank10,
        mAP=mean(precision),
        mAP_trapezoid=mean(trapezoid),
        mINP=mean(penalty),
        average_precision=precision,
        average_precision_trapezoid=trapezoid,
        inverse_negative_penalty=penalty,
        first_hit_rank=first,
    )


def retrieval_metrics(
    query_embeddings: NDArray[np.float32], gallery_embeddings: NDArray[np.float32], labels: Labels, *, chunk: int = 512
) -> RankingMetrics:
    """Rank every gallery item for every query by dot product and measure (rules: see the module).

    query_embeddings: float32 [q, d]; gallery_embeddings: float32 [g, d]; unit rows give cosine similarity.
    labels: a :class:`~siamese_search.evaluation.protocol.Protocol`, or the labels alone.
    chunk: queries scored at once; memory is about ``chunk · g · 4`` bytes beside the inputs.

    Queries of identity ``-1`` or ``0000`` have no positives and are invalid. Raises ValueError for shapes
    that do not fit and for values that are not finite.
    """
    queries = _checked(query_embeddings, "query_embeddings")
    gallery = _checked(gallery_embeddings, "gallery_embeddings")
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} dimensions, the gallery has {gallery.shape[1]}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, not {chunk}")
    check_length(labels.query_identity, len(queries), "query_ids")
    check_length(labels.gallery_identity, len(gallery), "gallery_ids")
    blocks = (queries[start : start + chunk] @ gallery.T for start in range(0, len(queries), chunk))
    return metrics_from_scores(blocks, labels)


def metrics_from_scores(scores: Iterable[NDArray[np.float32]], labels: Labels) -> RankingMetrics:
    """The figures of scores that are already there, higher is closer; otherwise as :func:`retrieval_metrics`.

    scores: float32 [b, g] blocks, whose rows are all the queries in order. They are overwritten.
    Raises ValueError for blocks that do not add up to the queries.
    """
    count, size = len(labels.query_identity), len(labels.gallery_identity)
    junk = labels.gallery_identity == JUNK
    per_query: list[HitMetrics | None] = []
    for block in scores:
        if block.shape[1] != size or len(per_query) + len(block) > count:
            raise ValueError(f"scores must be [{count}, {size}] in blocks of rows")
        block[:, junk] = -np.inf
        for query, row in enumerate(block, len(per_query)):
            same = labels.members(query)
            leave = labels.left_out(query, same)
            row[same[leave]] = -np.inf
            if labels.same_image[query] >= 0:
                row[labels.same_image[query]] = -np.inf
            hits = same[~leave]
            per_query.append(metrics_from_hit_ranks(_ranks_of(row, hits)) if hits.size else None)
    if len(per_query) < count:
        raise ValueError(f"scores of {len(per_query)} queries for {count}")
    return summarise(per_query, gallery=size)


def _ranks_of(row: NDArray[np.float32], hits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ascending 1-based ranks of ``hits`` in one row of scores [g]; what has left the ranking is -inf.

    Sorting values alone is several times faster than an argsort (numpy vectorises it); positions are only
    needed where another item has exactly the same score as a hit.
    """
    values = row[hits]
    ordered = np.sort(row)
    above = row.size - np.searchsorted(ordered, values, side="right")
    level = row.size - above - np.searchsorted(ordered, values, side="left")
    for i in np.flatnonzero(level > 1):
        above[i] += np.count_nonzero(row[: hits[i]] == values[i])
    return np.sort(above).astype(np.int64) + 1


def _checked(embeddings: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    matrix = np.asarray(embeddings, dtype=np.float32)
    if matrix.ndim != 2:
        raise ValueError(f"{name} must be [n, d], not {list(matrix.shape)}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} holds values that are not finite")
    return matrix


#: False positive identification rates of the report, with the names that they have in its JSON.
RATES = {"1e-1": 1e-1, "1e-2": 1e-2}

#: Scores held at once (16 MB as float32).
_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class OpenSetPoint:
    """Searches whose best score is at least ``threshold`` say "in the gallery"."""

    threshold: float
    fpir: float
    fnir: float


@dataclass(frozen=True)
class OpenSet:
    """Per query [q], float32: its best score among valid matches (NaN without one), and among other identities
    (-inf where the gallery has no other).
    """

    best_match: NDArray[np.float32]
    best_other: NDArray[np.float32]

    @property
    def searches(self) -> int:
        """Queries that have a valid match; the others take no part."""
        return int((~np.isnan(self.best_match)).sum())

    def at(self, threshold: float) -> OpenSetPoint | None:
        """The two rates at a threshold; ``None`` without a valid query."""
        valid = ~np.isnan(self.best_match)
        if not valid.any():
            return None
        alarms = float((self.best_other[valid] >= threshold).mean())
        misses = float((self.best_match[valid] < threshold).mean())
        return OpenSetPoint(threshold, alarms, misses)

    def at_fpir(self, rate: float) -> OpenSetPoint | None:
        """At the lowest threshold whose FPIR is at most ``rate``; ``None`` with fewer than 1 / rate valid queries."""
        others = np.sort(self.best_other[~np.isnan(self.best_match)])[::-1]
        allowed = int(rate * others.size * (1 + 1e-12))
        if allowed < 1:
            return None
        if allowed >= others.size:
            return self.at(-1.0)
        # Just above the first score that may not pass; so ties with it do not pass either.
        return self.at(float(np.nextafter(others[allowed], np.float32(np.inf))))


def open_set(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], labels: Labels, *, block: int = _BLOCK
) -> OpenSet:
    """The two best scores of every query, in bounded memory.

    queries: float32 [q, d], gallery: float32 [g, d], unit rows. A valid match has the query's identity, another camera
    (where both are known) and is not the query itself, as in :mod:`siamese_search.evaluation.retrieval`.
    block: scores held at once.
    """
    own, theirs = labels.query_camera, labels.gallery_camera
    best_match = np.full(len(queries), np.nan, np.float32)
    best_other = np.full(len(queries), -np.inf, np.float32)
    rows = max(1, block // max(1, len(gallery)))
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        scores = queries[part] @ gallery.T
        same = labels.query_identity[part, None] == labels.gallery_identity[None, :]
        if len(gallery):
            best_other[part] = np.where(same, -np.inf, scores).max(axis=1)
        valid = same & ~((own[part, None] == theirs[None, :]) & (own[part, None] >= 0))
        itself = labels.same_image[part]
        there = np.flatnonzero(itself >= 0)
        valid[there, itself[there]] = False
        found = valid.any(axis=1)
        best = np.where(valid, scores, -np.inf).max(axis=1, initial=-np.inf)
        best_match[part] = np.where(found, best, np.nan)
    return OpenSet(best_match, best_other)

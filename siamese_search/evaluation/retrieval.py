"""Ranking metrics of re-identification: CMC (rank-k), mAP and mINP, exact and in bounded memory.

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
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siamese_search.evaluation.labels import JUNK, Labels, check_length


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
    cmc: dict[int, float]
    average_precision: NDArray[np.float64]
    average_precision_trapezoid: NDArray[np.float64]
    inverse_negative_penalty: NDArray[np.float64]
    first_hit_rank: NDArray[np.int64]
    positives: NDArray[np.int64]

    @property
    def valid_queries(self) -> int:
        return self.queries - self.invalid_queries

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


def summarise(
    per_query: Sequence[HitMetrics | None],
    positives: Sequence[int],
    *,
    gallery: int,
    ranks: Sequence[int] = (1, 5, 10),
) -> RankingMetrics:
    """Means over queries; ``None`` marks an invalid query. positives: matches that each query has, [q]."""

    def column(name: str) -> NDArray[np.float64]:
        return np.array([np.nan if m is None else getattr(m, name) for m in per_query], dtype=np.float64)

    precision, trapezoid = column("average_precision"), column("average_precision_trapezoid")
    penalty = column("inverse_negative_penalty")
    first = np.array([0 if m is None else m.first_hit_rank for m in per_query], dtype=np.int64)
    valid = np.array([m is not None for m in per_query], dtype=bool)

    def mean(values: NDArray[np.float64]) -> float:
        return float(values[valid].mean()) if valid.any() else float("nan")

    cmc = {k: mean(((first > 0) & (first <= k)).astype(np.float64)) for k in sorted({1, 5, 10, *ranks})}
    return RankingMetrics(
        queries=len(per_query),
        gallery=gallery,
        invalid_queries=int((~valid).sum()),
        rank1=cmc[1],
        rank5=cmc[5],
        rank10=cmc[10],
        mAP=mean(precision),
        mAP_trapezoid=mean(trapezoid),
        mINP=mean(penalty),
        cmc=cmc,
        average_precision=precision,
        average_precision_trapezoid=trapezoid,
        inverse_negative_penalty=penalty,
        first_hit_rank=first,
        positives=np.asarray(positives, dtype=np.int64),
    )


def retrieval_metrics(
    query_embeddings: NDArray[np.float32],
    gallery_embeddings: NDArray[np.float32],
    labels: Labels,
    *,
    ranks: Sequence[int] = (1, 5, 10),
    chunk: int = 512,
) -> RankingMetrics:
    """Rank every gallery item for every query by dot product and measure (rules: see the module).

    query_embeddings: float32 [q, d]; gallery_embeddings: float32 [g, d]; unit rows give cosine similarity.
    labels: a :class:`~siamese_search.evaluation.protocol.Protocol`, or the labels alone.
    ranks: further k for ``cmc`` (1, 5 and 10 are always there). chunk: queries scored at once; memory is
    about ``chunk · g · 4`` bytes beside the inputs.

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
    return metrics_from_scores(blocks, labels, ranks=ranks)


def metrics_from_scores(
    scores: Iterable[NDArray[np.float32]], labels: Labels, *, ranks: Sequence[int] = (1, 5, 10)
) -> RankingMetrics:
    """The figures of scores that are already there, higher is closer; otherwise as :func:`retrieval_metrics`.

    scores: float32 [b, g] blocks, whose rows are all the queries in order. They are overwritten.
    Raises ValueError for blocks that do not add up to the queries.
    """
    count, size = len(labels.query_identity), len(labels.gallery_identity)
    junk = labels.gallery_identity == JUNK
    per_query: list[HitMetrics | None] = []
    positives: list[int] = []
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
            positives.append(int(hits.size))
            per_query.append(metrics_from_hit_ranks(_ranks_of(row, hits)) if hits.size else None)
    if len(per_query) < count:
        raise ValueError(f"scores of {len(per_query)} queries for {count}")
    return summarise(per_query, positives, gallery=size, ranks=ranks)


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

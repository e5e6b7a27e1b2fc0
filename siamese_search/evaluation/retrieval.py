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

# Market-1501's reserved identities. They stand here as well as in datasets.records so that this module
# needs nothing but numpy; a test holds the two equal.
JUNK = "-1"
DISTRACTOR = "0000"


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


def metrics_from_ranked_hits(
    hits: Sequence[bool] | NDArray[np.bool_], positives: int | None = None
) -> HitMetrics:
    """The figures of one query whose ranking is already known: ``hits[i]`` says whether item i matches.

    Excluded items must have left the list. positives: see :func:`metrics_from_hit_ranks`.
    """
    return metrics_from_hit_ranks(
        np.flatnonzero(np.asarray(hits, dtype=bool)).astype(np.int64) + 1, positives
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
    query_ids: Sequence[str],
    gallery_ids: Sequence[str],
    query_cameras: Sequence[str | None] | None = None,
    gallery_cameras: Sequence[str | None] | None = None,
    *,
    same_image: NDArray[np.int64] | None = None,
    ranks: Sequence[int] = (1, 5, 10),
    chunk: int = 512,
) -> RankingMetrics:
    """Rank every gallery item for every query by dot product and measure (rules: see the module).

    query_embeddings: float32 [q, d]; gallery_embeddings: float32 [g, d]; unit rows give cosine similarity.
    query_ids [q], gallery_ids [g]: identities. query_cameras, gallery_cameras: cameras, or ``None`` to have
    no same-camera rule; a ``None`` entry is an unknown camera, which never excludes anything.
    same_image: int [q], for each query its own index in the gallery, or -1.
    ranks: further k for ``cmc`` (1, 5 and 10 are always there). chunk: queries scored at once; memory is
    about ``chunk · g · 4`` bytes beside the inputs.

    Queries of identity ``-1`` or ``0000`` have no positives and are invalid. Raises ValueError for shapes
    that do not fit, for values that are not finite and for an index outside the gallery.
    """
    queries = _checked(query_embeddings, "query_embeddings")
    gallery = _checked(gallery_embeddings, "gallery_embeddings")
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} dimensions, the gallery has {gallery.shape[1]}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, not {chunk}")
    _check_length(query_ids, len(queries), "query_ids")
    _check_length(gallery_ids, len(gallery), "gallery_ids")
    return metrics_from_scores(
        (queries[start : start + chunk] @ gallery.T for start in range(0, len(queries), chunk)),
        query_ids,
        gallery_ids,
        query_cameras,
        gallery_cameras,
        same_image=same_image,
        ranks=ranks,
    )


def metrics_from_scores(
    scores: Iterable[NDArray[np.float32]],
    query_ids: Sequence[str],
    gallery_ids: Sequence[str],
    query_cameras: Sequence[str | None] | None = None,
    gallery_cameras: Sequence[str | None] | None = None,
    *,
    same_image: NDArray[np.int64] | None = None,
    ranks: Sequence[int] = (1, 5, 10),
) -> RankingMetrics:
    """The figures of scores that are already there, higher is closer; otherwise as :func:`retrieval_metrics`.

    scores: float32 [b, g] blocks, whose rows are all the queries in order. They are overwritten.
    Raises ValueError for blocks that do not add up to the queries and for an index outside the gallery.
    """
    count, size = len(query_ids), len(gallery_ids)
    query_camera, gallery_camera = camera_codes(query_cameras, gallery_cameras, count, size)
    own = np.full(count, -1, np.int64) if same_image is None else np.asarray(same_image, np.int64)
    _check_length(own, count, "same_image")
    if own.size and (own.min() < -1 or own.max() >= size):
        raise ValueError(f"same_image must lie between -1 and {size - 1}")

    junk = np.array([identity == JUNK for identity in gallery_ids], dtype=bool)
    members = _members(gallery_ids)
    nobody = np.empty(0, np.int64)
    per_query: list[HitMetrics | None] = []
    positive_counts: list[int] = []
    for block in scores:
        if block.shape[1] != size or len(per_query) + len(block) > count:
            raise ValueError(f"scores must be [{count}, {size}] in blocks of rows")
        block[:, junk] = -np.inf
        for query, row in enumerate(block, len(per_query)):
            same = members.get(query_ids[query], nobody)
            shared_camera = (gallery_camera[same] == query_camera[query]) & (query_camera[query] >= 0)
            leave = shared_camera | (same == own[query])
            row[same[leave]] = -np.inf
            if own[query] >= 0:
                row[own[query]] = -np.inf
            hits = same[~leave]
            positive_counts.append(int(hits.size))
            per_query.append(metrics_from_hit_ranks(_ranks_of(row, hits)) if hits.size else None)
    if len(per_query) < count:
        raise ValueError(f"scores of {len(per_query)} queries for {count}")
    return summarise(per_query, positive_counts, gallery=size, ranks=ranks)


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


def _members(identities: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """The ascending gallery indices of each identity that can be a positive."""
    lists: dict[str, list[int]] = {}
    for index, identity in enumerate(identities):
        if identity not in (JUNK, DISTRACTOR):
            lists.setdefault(identity, []).append(index)
    return {identity: np.array(indices, np.int64) for identity, indices in lists.items()}


def camera_codes(
    query_cameras: Sequence[str | None] | None,
    gallery_cameras: Sequence[str | None] | None,
    queries: int,
    gallery: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cameras as non-negative numbers, -1 where unknown; both all -1 where either side has none."""
    if query_cameras is None or gallery_cameras is None:
        return np.full(queries, -1, np.int64), np.full(gallery, -1, np.int64)
    _check_length(query_cameras, queries, "query_cameras")
    _check_length(gallery_cameras, gallery, "gallery_cameras")
    codes: dict[str | None, int] = {None: -1}
    for camera in (*query_cameras, *gallery_cameras):
        codes.setdefault(camera, len(codes) - 1)
    return (
        np.array([codes[camera] for camera in query_cameras], dtype=np.int64),
        np.array([codes[camera] for camera in gallery_cameras], dtype=np.int64),
    )


def _checked(embeddings: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    matrix = np.asarray(embeddings, dtype=np.float32)
    if matrix.ndim != 2:
        raise ValueError(f"{name} must be [n, d], not {list(matrix.shape)}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} holds values that are not finite")
    return matrix


def _check_length(values: Sequence[object] | NDArray[np.int64], expected: int, name: str) -> None:
    if len(values) != expected:
        raise ValueError(f"{name} has {len(values)} entries, not {expected}")

"""Where a model fails: its worst identities and queries, and every pair of cameras. Pure functions over a report.

Also whether the difference of two models on the same queries is more than luck: paired differences with bootstrap
confidence intervals, over identities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import ImageRecord
from siamese_search.errors import DataError
from siamese_search.evaluation.report import EvaluationReport
from siamese_search.evaluation.retrieval import RankingMetrics, retrieval_metrics
from siamese_search.retrieval.ranking import natural


@dataclass(frozen=True, slots=True)
class IdentityFigures:
    """Means over the valid queries of one identity."""

    identity: str
    queries: int
    rank1: float
    mAP: float  # noqa: N815 - the field's name


@dataclass(frozen=True, slots=True)
class CameraPair:
    """Queries of one camera against the images of another one alone."""

    query_camera: str
    gallery_camera: str
    queries: int
    rank1: float
    mAP: float  # noqa: N815


@dataclass(frozen=True)
class BadQuery:
    """A query (its place among the report's queries), and the first places of its ranking in the gallery."""

    query: int
    average_precision: float
    first_hit_rank: int
    top: NDArray[np.int64]
    correct: list[bool]


def worst_identities(report: EvaluationReport, count: int = 20) -> list[IdentityFigures]:
    """The identities with the lowest mAP, worst first; by name where equal."""
    ranking = report.ranking
    rows: dict[str, list[int]] = {}
    for row, identity in enumerate(report.plan.query_ids):
        if not np.isnan(ranking.average_precision[row]):
            rows.setdefault(identity, []).append(row)
    found = [
        IdentityFigures(
            identity,
            len(own),
            float((ranking.first_hit_rank[own] == 1).mean()),
            float(ranking.average_precision[own].mean()),
        )
        for identity, own in rows.items()
    ]
    return sorted(found, key=lambda one: (one.mAP, one.identity))[:count]


def worst_queries(report: EvaluationReport, count: int = 20) -> list[BadQuery]:
    """The valid queries with the lowest average precision, worst first, with what came before their matches."""
    ranking, plan = report.ranking, report.plan
    valid = np.flatnonzero(~np.isnan(ranking.average_precision))
    order = valid[np.argsort(ranking.average_precision[valid], kind="stable")][:count]
    return [
        BadQuery(
            query,
            float(ranking.average_precision[query]),
            int(ranking.first_hit_rank[query]),
            report.top[query],
            (plan.gallery_identity[report.top[query]] == plan.query_identity[query]).tolist(),
        )
        for query in order.tolist()
    ]


def camera_pairs(report: EvaluationReport) -> list[CameraPair]:
    """Exact figures for every pair of cameras in which some query has a match; empty where no cameras count."""
    plan = report.plan
    found: list[CameraPair] = []
    if not plan.use_cameras:
        return found
    sides = product(_by_camera(plan.queries), _by_camera(plan.gallery))
    for (own, rows), (other, columns) in sides:
        if own != other:
            vectors = report.query_vectors[rows], report.gallery_vectors[columns]
            metrics = retrieval_metrics(*vectors, plan.between(rows, columns))
            if metrics.valid_queries:
                found.append(CameraPair(own, other, metrics.valid_queries, metrics.rank1, metrics.mAP))
    return found


def _by_camera(records: Sequence[ImageRecord]) -> list[tuple[str, NDArray[np.int64]]]:
    """Each known camera, in order, and the places of its images."""
    cameras = sorted({one.camera for one in records if one.camera is not None}, key=natural)
    return [(name, np.array([i for i, one in enumerate(records) if one.camera == name])) for name in cameras]


CONFIDENCE = 0.95
RESAMPLES = 10_000
#: Resamples in memory at once, per identity.
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class Difference:
    """B less A of one figure, over the same queries.

    low, high: the confidence interval (percentile bootstrap; Efron & Tibshirani, 1993). better: share of the
    resamples in which B is ahead, ties one half.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    better: float

    @property
    def clear(self) -> bool:
        """Whether the interval excludes no difference at all."""
        return self.low > 0 or self.high < 0


def paired_difference(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    identities: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The difference of the means of a figure per query, float64 [q] each, of two models on the same queries.

    Queries of one identity stand or fall together, so identities are drawn, with replacement, and with each all its
    queries. NaN marks a query that is invalid for both. Raises DataError with fewer than two identities, ValueError
    where the two disagree about which queries are valid.
    """
    valid = ~np.isnan(a)
    if len(a) != len(b) or len(a) != len(identities) or (valid != ~np.isnan(b)).any():
        raise ValueError("paired figures need the same queries, valid or not for both models")
    names, group = np.unique(np.asarray(identities, dtype=object)[valid].astype(str), return_inverse=True)
    if len(names) < 2:
        raise DataError(f"{len(names)} identity is too few to say how sure a difference is; at least 2 are needed")
    gained = np.bincount(group, weights=(b - a)[valid], minlength=len(names))
    queries = np.bincount(group, minlength=len(names)).astype(np.float64)
    rng = np.random.default_rng(seed)
    found: list[NDArray[np.float64]] = []
    step = max(1, _CHUNK // len(names))
    even = np.full(len(names), 1 / len(names))
    for start in range(0, resamples, step):
        drawn = rng.multinomial(len(names), even, size=min(step, resamples - start))  # [chunk, identities]
        found.append((drawn @ gained) / (drawn @ queries))
    differences = np.concatenate(found)
    low, high = np.quantile(differences, [(1 - CONFIDENCE) / 2, 1 - (1 - CONFIDENCE) / 2])
    return Difference(
        a=float(a[valid].mean()),
        b=float(b[valid].mean()),
        difference=float((b - a)[valid].mean()),
        low=float(low),
        high=float(high),
        better=float((differences > 0).mean() + (differences == 0).mean() / 2),
    )


@dataclass(frozen=True)
class PairedReport:
    """``differences`` are B less A, of rank1, mAP and mINP."""

    a: EvaluationReport
    b: EvaluationReport
    differences: dict[str, Difference]

    def to_json(self) -> dict[str, Any]:
        """The documented JSON object (docs/cli-json.md)."""
        return {
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "differences": {name: asdict(found) for name, found in self.differences.items()},
        }


def compare_reports(a: EvaluationReport, b: EvaluationReport) -> PairedReport:
    """Pair two reports over the same queries, by the databases' rankings. Raises DataError where they differ."""
    if [query.key for query in a.plan.queries] != [query.key for query in b.plan.queries]:
        raise DataError(
            "the two models were not asked the same queries (an image became unreadable in between?): run it again"
        )
    identities = a.plan.query_ids
    of_a, of_b = _per_query(a.ranking), _per_query(b.ranking)
    return PairedReport(a, b, {name: paired_difference(of_a[name], of_b[name], identities) for name in of_a})


def _per_query(ranking: RankingMetrics) -> dict[str, NDArray[np.float64]]:
    """Each figure per query, float64 [q], NaN for invalid queries."""
    valid = ~np.isnan(ranking.average_precision)
    return {
        "rank1": np.where(valid, (ranking.first_hit_rank == 1).astype(np.float64), np.nan),
        "mAP": ranking.average_precision,
        "mINP": ranking.inverse_negative_penalty,
    }

"""Where a model fails: its worst identities and queries, and every pair of cameras. Pure functions over a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siamese_search.evaluation.report import EvaluationReport
from siamese_search.evaluation.retrieval import retrieval_metrics


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
    gallery_ids, query_ids = plan.gallery_ids, plan.query_ids
    return [
        BadQuery(
            int(query),
            float(ranking.average_precision[query]),
            int(ranking.first_hit_rank[query]),
            report.top[query],
            [gallery_ids[place] == query_ids[query] for place in report.top[query]],
        )
        for query in order.tolist()
    ]


def camera_pairs(report: EvaluationReport) -> list[CameraPair]:
    """Exact figures for every pair of cameras in which some query has a match; empty where no cameras count."""
    plan = report.plan
    asked, there = plan.query_cameras, plan.gallery_cameras
    if asked is None or there is None:
        return []
    found: list[CameraPair] = []
    for own in _named(asked):
        rows = np.array([i for i, camera in enumerate(asked) if camera == own], np.int64)
        for other in _named(there):
            if own == other:
                continue
            columns = np.array([i for i, camera in enumerate(there) if camera == other], np.int64)
            metrics = retrieval_metrics(
                report.query_vectors[rows], report.gallery_vectors[columns], plan.between(rows, columns)
            )
            if metrics.valid_queries:
                found.append(CameraPair(own, other, metrics.valid_queries, metrics.rank1, metrics.mAP))
    return found


def _named(cameras: Sequence[str | None]) -> list[str]:
    """The cameras, 2 before 10."""
    known = {camera for camera in cameras if camera is not None}
    return sorted(known, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))

"""Two models on the same queries: what each reaches, and whether the difference is more than luck."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.errors import DataError
from siamese_search.evaluation.bootstrap import Difference, paired_difference
from siamese_search.evaluation.report import EvaluationReport
from siamese_search.evaluation.retrieval import RankingMetrics


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
            "differences": {name: found.to_json() for name, found in self.differences.items()},
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

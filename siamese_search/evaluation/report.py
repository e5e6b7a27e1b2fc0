"""EvaluationReport: everything that an evaluation found out, and its JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import Failure
from siamese_search.errors import UsageError, amount
from siamese_search.evaluation.protocol import Protocol
from siamese_search.evaluation.retrieval import RATES, OpenSet, OpenSetPoint, RankingMetrics
from siamese_search.evaluation.through_gallery import Quantised
from siamese_search.evaluation.verification import OperatingPoint, PairScores, VerificationMetrics
from siamese_search.model.calibration import ADAPT, Calibration
from siamese_search.vectors.k_reciprocal import KReciprocal

if TYPE_CHECKING:
    from pandas import DataFrame

#: False match rates whose calibrated thresholds are shown.
CALIBRATED_RATES = (0.1, 0.01, 0.001)
#: The rate by which a calibration is said to hold or not, and the false pairs (meant or found) that it takes to say so.
_JUDGED, _LEAST_EXPECTED = 0.01, 20


@dataclass(frozen=True)
class Reranked:
    """The ranking figures after k-reciprocal re-ranking, and its parameters."""

    how: KReciprocal
    metrics: RankingMetrics

    def to_json(self) -> dict[str, Any]:
        how = self.how
        return {"k1": how.k1, "k2": how.k2, "lambda": how.weight, **self.metrics.to_json()}


@dataclass(frozen=True)
class EvaluationReport:
    """The figures of one evaluation. Rates are fractions; NaN and ``None`` become ``null`` in the JSON.

    ``ranking`` comes from the database's own answers, ``exact`` from comparing every vector with every other: equal
    figures show that the index loses nothing. ``ann_recall`` is the share of each query's exact ten nearest that the
    database returned, ``filtered_recall`` the lowest of those under a filter by camera, ``None`` where there are no
    two. ``depth`` is how many ranks per query count, after the exclusions, ``None`` for all; with a depth, matches
    beyond it count as missed and mAP is mAP@depth. ``reranked``, where it was asked for, re-ranks the exact
    similarities of the whole gallery: no database has part in it, neither ``depth`` nor ``ann_recall`` concerns it, and
    verification knows no re-ranking. ``quantised``, where it was asked for, says what searching in fewer bits costs; no
    other figure is touched by it. ``calibration``, where it was asked for, was fitted to ``pairs`` and kept in
    ``calibrated_place``; ``kept`` is the one that the model came with. ``warning`` says in one line why the figures may
    flatter the model; empty where nothing is known against them. ``flip`` says that all vectors are means over an image
    and its mirror image. ``query_vectors`` [q, d] and ``gallery_vectors`` [g, d] are what was measured, in the plan's
    order. ``data_fingerprint`` covers content and labels of the images (:func:`.evaluate.data_fingerprint`); ``None``
    where only vectors were seen. ``top`` holds each query's first ranked places in ``plan.gallery`` after the
    exclusions, int64 [≤ 10].
    """

    plan: Protocol
    ranking: RankingMetrics
    exact: RankingMetrics
    reranked: Reranked | None
    flip: bool
    verification: VerificationMetrics
    pairs: PairScores
    open_set: OpenSet
    ann_recall: float
    depth: int | None
    top: Sequence[NDArray[np.int64]]
    model: str
    model_name: str
    data: str
    data_fingerprint: str | None
    failed: Sequence[Failure]
    seconds: float
    query_vectors: NDArray[np.float32]
    gallery_vectors: NDArray[np.float32]
    calibration: Calibration | None = None
    quantised: Sequence[Quantised] = ()
    calibrated_place: str = ""
    kept: Calibration | None = None
    warning: str = ""
    filtered_recall: float | None = None

    @property
    def rank1(self) -> float:
        return self.ranking.rank1

    @property
    def rank5(self) -> float:
        return self.ranking.rank5

    @property
    def rank10(self) -> float:
        return self.ranking.rank10

    @property
    def mAP(self) -> float:  # noqa: N802 - the field's name
        return self.ranking.mAP

    @property
    def mINP(self) -> float:  # noqa: N802
        return self.ranking.mINP

    def __repr__(self) -> str:
        return f"<report on {self.data} by {self.model_name}: rank-1 {self.rank1:.1%}, mAP {self.mAP:.1%}>"

    def open_set_points(self) -> dict[str, OpenSetPoint | None]:
        """What searches for identities that are in the gallery, and for ones that are not, would say."""
        return {name: self.open_set.at_fpir(rate) for name, rate in RATES.items()}

    def kept_points(self) -> dict[float, OperatingPoint]:
        """What the thresholds that the model came with do here, by the false match rates that they are meant for."""
        found: dict[float, OperatingPoint] = {}
        for rate in CALIBRATED_RATES:
            try:
                point = None if self.kept is None else self.pairs.at_threshold(self.kept.threshold(rate))
            except UsageError:  # below what it was fitted on can tell
                continue
            if point is not None:
                found[rate] = point
        return found

    def notes(self) -> list[str]:
        """Lines for people: what the rules left out, what could not be read, how far the figures reach."""
        lines = [*([self.warning] if self.warning else []), *self._misfit(), *self.plan.explain()]
        if self.pairs.impostor_pairs == 0:
            lines.insert(0, "all images are of one identity: nobody could be mistaken, so this tells nothing")
        if self.failed:
            lines.append(f"{amount(len(self.failed), 'image')} could not be read and took no part")
        if self.depth is not None:
            lines.append(f"rankings cut off at {self.depth:,}: mAP is mAP@{self.depth}")
        if self.flip:
            lines.append("flip at test time: each vector is the mean with the mirror image's; so no thresholds")
        if self.reranked is not None:
            how = self.reranked.how
            lines.append(
                f"re-ranked figures (k-reciprocal, k1 {how.k1}, k2 {how.k2}, lambda {how.weight:g}) come from exact "
                "similarities of all images, queries included, not from the database; all others are without it"
            )
        return lines

    def to_frame(self) -> DataFrame:
        """One row, a column per figure of the JSON (``mAP``, ``verification.auc``, …). A pandas DataFrame.

        ``pandas.concat(report.to_frame() for report in reports)`` compares models.
        """
        from pandas import json_normalize

        return json_normalize(self.to_json())

    def _misfit(self) -> list[str]:
        """Whether the thresholds that the model came with let something else pass here than they are meant for."""
        point, expected = self.kept_points().get(_JUDGED), _JUDGED * self.pairs.impostor_pairs
        if point is None or self.calibration is not None or max(expected, point.false_accepts) < _LEAST_EXPECTED:
            return []
        if _JUDGED / 2 <= point.false_accept_rate <= 2 * _JUDGED:
            return []
        return [
            f"the calibration does not hold here: {point.false_accept_rate:.2%} of different pairs pass, not"
            f" {_JUDGED:.0%}; --calibrate measures it anew; better scores: {ADAPT}"
        ]

    def to_json(self) -> dict[str, Any]:
        """The documented JSON object (docs/cli-json.md); plain types, no NaN."""
        ranking, verification = self.ranking, self.verification
        kept: dict[str, Any] | None = None
        if self.kept is not None:
            points = self.kept_points()
            kept = _points({f"{rate:g}": points.get(rate) for rate in CALIBRATED_RATES})
        shape = {
            "protocol": self.plan.name,
            "cameras": self.plan.use_cameras,
            "flip": self.flip,
            "queries": ranking.queries,
            "gallery": ranking.gallery,
            "invalid_queries": ranking.invalid_queries,
            **ranking.to_json(),
            "verification": {
                "auc": verification.auc,
                "eer": verification.eer,
                "tar_at_far": verification.tar_at_far,
                "at_far": _points(verification.at_far),
                "threshold": verification.threshold,
                "false_match_rate": verification.false_match_rate,
                "genuine_pairs": verification.genuine,
                "impostor_pairs": verification.impostor,
            },
            "open_set": {"searches": self.open_set.searches, "at_fpir": _points(self.open_set_points())},
            "ann_recall": self.ann_recall,
            "filtered_recall": self.filtered_recall,
            "exact": {"rank1": self.exact.rank1, "mAP": self.exact.mAP},
            "reranked": None if self.reranked is None else self.reranked.to_json(),
            "quantised": [one.to_json() for one in self.quantised],
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "calibrated_in": self.calibrated_place or None,
            "kept_calibration": kept,
            "depth": self.depth,
            "model": self.model,
            "model_name": self.model_name,
            "data": self.data,
            "data_fingerprint": self.data_fingerprint,
            "excluded": asdict(self.plan.excluded),
            "failed": [failure.to_json() for failure in self.failed],
            "notes": self.notes(),
            "seconds": round(self.seconds, 3),
        }
        without_nan: dict[str, Any] = _without_nan(shape)
        return without_nan


def _points(found: Mapping[str, OperatingPoint | OpenSetPoint | None]) -> dict[str, Any]:
    return {name: None if point is None else asdict(point) for name, point in found.items()}


def _without_nan(value: Any) -> Any:
    """NaN is no JSON: it becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return value

"""Calibration: what a model's scores mean. From a similarity to match or no match, and to a probability.

Fitted by :mod:`siamese_search.evaluation.calibrate`. Plain Python: a search must not pay for it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from siamese_search.errors import UsageError

#: False match rate at which two images are told apart where nobody asks for another one.
DEFAULT_FMR = 0.01
#: What makes scores better where a calibration does not hold, without a label.
ADAPT = "sss adapt DIR --epochs 0 (a minute), then sss reindex --model RUN"


@dataclass(frozen=True, slots=True)
class Calibration:
    """A model's scores against the two rates that matter, measured on labelled pairs.

    rates, thresholds: the false match rate (share of pairs of different identities with ``score >= threshold``) at
    rising thresholds, so that ``rates`` fall; each rate has at least one pair behind it. slope, offset: P(same |
    score) = 1 / (1 + exp(-(slope · score + offset))) where same and different are equally likely beforehand (Platt,
    "Probabilistic Outputs for Support Vector Machines", 1999). genuine, impostor: pairs that it was fitted on.
    data: where they came from, for people.
    """

    rates: tuple[float, ...]
    thresholds: tuple[float, ...]
    slope: float
    offset: float
    genuine: int
    impostor: int
    data: str = ""

    def threshold(self, false_match_rate: float = DEFAULT_FMR) -> float:
        """The score from which on two images count as the same identity.

        Between two measured rates the stricter threshold is taken. Raises UsageError for a rate that is not in
        (0, 1], or below what the pairs can tell.
        """
        if not 0 < false_match_rate <= 1:
            raise UsageError(f"a false match rate lies in (0, 1], not {false_match_rate:g}")
        wanted = false_match_rate * (1 + 1e-9)  # a stored rate asked for by its own printed value is that rate
        found = bisect_left(self.rates, -wanted, key=lambda rate: -rate)
        if found == len(self.rates):
            raise UsageError(
                f"a false match rate of {false_match_rate:g} is below what this model's calibration on"
                f" {self.impostor:,} pairs can tell, {self.rates[-1]:g}: ask for more, or calibrate on more identities"
            )
        return self.thresholds[found]

    def false_match_rate(self, score: float) -> float:
        """The share of pairs of different identities with at least this score: the nearest measured rate above it."""
        at = bisect_left(self.thresholds, score)
        if at < len(self.thresholds) and self.thresholds[at] == score:
            return self.rates[at]
        return self.rates[at - 1] if at else 1.0

    def probability(self, score: float, prior: float = 0.5) -> float:
        """P(same identity | score) by Bayes' rule, where it is ``prior`` in (0, 1) before the score is known."""
        log_odds = self.slope * score + self.offset + _logit(prior)
        return 1.0 / (1.0 + math.exp(min(-log_odds, 700.0)))

    def even_score(self, prior: float = 0.5) -> float:
        """The score at which :meth:`probability` is one half; it may lie outside [-1, 1]."""
        return -(self.offset + _logit(prior)) / self.slope

    def to_json(self) -> dict[str, Any]:
        return {
            "false_match_rates": list(self.rates),
            "thresholds": list(self.thresholds),
            "slope": self.slope,
            "offset": self.offset,
            "genuine_pairs": self.genuine,
            "impostor_pairs": self.impostor,
            "data": self.data,
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Calibration:
        """The inverse of :meth:`to_json`. Raises ValueError, KeyError or TypeError for what is no calibration."""
        found = cls(
            tuple(float(rate) for rate in saved["false_match_rates"]),
            tuple(float(threshold) for threshold in saved["thresholds"]),
            float(saved["slope"]),
            float(saved["offset"]),
            int(saved["genuine_pairs"]),
            int(saved["impostor_pairs"]),
            str(saved.get("data", "")),
        )
        numbers = (*found.rates, *found.thresholds, found.slope, found.offset)
        falling = all(a > b for a, b in zip(found.rates, found.rates[1:]))
        rising = all(a < b for a, b in zip(found.thresholds, found.thresholds[1:]))
        if not found.rates or len(found.rates) != len(found.thresholds) or not (falling and rising):
            raise ValueError("rates and thresholds do not agree")
        if not all(map(math.isfinite, numbers)) or found.slope <= 0:
            raise ValueError("not finite numbers, or a slope that is not positive")
        return found


def _logit(probability: float) -> float:
    return math.log(probability) - math.log1p(-probability)


def any_false_match(false_match_rate: float, comparisons: int) -> float:
    """The chance that at least one of so many images of other identities passes: 1 - (1 - f)^n.

    It takes the comparisons as independent; images of one identity are not, so it is an upper estimate.
    """
    if false_match_rate >= 1:
        return 1.0 if comparisons else 0.0
    return -math.expm1(comparisons * math.log1p(-false_match_rate))

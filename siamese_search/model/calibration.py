"""Calibration: what a model's scores mean. From a similarity to match or no match, and to a probability.

Fitted by :mod:`siamese_search.evaluation.calibrate`. It knows the looks of the images that it was measured on, too: a
query that shows no such object at all (one colour, a chart, a face among people) has a nearest image like any other,
and its vector lies among theirs. Its pixels do not: docs/matching.md says what each measure that was tried finds.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from siamese_search.errors import UsageError

if TYPE_CHECKING:  # a command that knows only what scores mean does not wait for numpy
    import numpy as np
    from numpy.typing import NDArray

#: False match rate at which two images are told apart where nobody asks for another one.
DEFAULT_FMR = 0.01
#: What makes scores better where a calibration does not hold, without a label.
ADAPT = "sss adapt DIR --epochs 0 (a minute), then sss reindex --model RUN"

#: What is measured of an image.
FIGURES = 26
#: Fewer images do not tell what is usual.
LEAST_LOOKS = 64
_LEVELS = 4
#: The share of the images themselves that may look strange, the least deviation of a figure, and more than all numbers.
_STRANGE, _NARROWEST, _HUGE = 0.01, 0.05, 1e30

Figures: TypeAlias = "NDArray[np.float32]"


@dataclass(frozen=True, slots=True)
class Looks:
    """Of each of the :data:`FIGURES` its mean and deviation, and how many deviations from it are nothing strange."""

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    limit: float

    @classmethod
    def of(cls, figures: Figures) -> Looks | None:
        """Of images, float32 [n, 26]; ``None`` where they are too few."""
        import numpy as np

        if len(figures) < LEAST_LOOKS:
            return None
        means, deviations = figures.mean(0), np.maximum(figures.std(0), _NARROWEST)
        farthest = (np.abs(figures - means) / deviations).max(1)
        limit = float(np.quantile(farthest, 1 - _STRANGE, method="higher"))
        return cls(_rounded(means), _rounded(deviations), *_rounded([limit]))

    def strange(self, figures: Figures) -> NDArray[np.bool_]:
        """Which of the images, float32 [n, 26], have a figure that is not usual here; bool [n]."""
        import numpy as np

        means, deviations = (np.array(values, np.float32) for values in (self.means, self.deviations))
        farthest = (np.abs(figures - means) / deviations).max(1)
        return np.asarray(farthest > self.limit)

    def to_json(self) -> dict[str, Any]:
        return {"means": list(self.means), "deviations": list(self.deviations), "limit": self.limit}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Looks:
        """The inverse of :meth:`to_json`. Raises ValueError, KeyError or TypeError for what is none."""
        means, deviations = (tuple(map(float, saved[name])) for name in ("means", "deviations"))
        limit = float(saved["limit"])
        whole = len(means) == len(deviations) == FIGURES and min(deviations) >= _NARROWEST and limit > 0
        if not whole or not all(abs(value) < _HUGE for value in (*means, *deviations, limit)):
            raise ValueError(f"not {FIGURES} finite means and deviations of {_NARROWEST} or more")
        return cls(means, deviations, limit)


def _rounded(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(f"{value:.5g}") for value in values)


def figures_of(images: NDArray[np.uint8]) -> Figures:
    """Of RGB images, uint8 [n, h, w, 3], at the size that the network takes: float32 [n, 26].

    Means and contrasts of light and of two differences of colours, and the share of pixels just like their
    neighbour; at five sizes, each half of the last, how strong edges are, at four of them also how uneven.
    """
    import numpy as np

    red, green, blue = np.ascontiguousarray(images.transpose(3, 0, 1, 2)).astype(np.float32)
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = np.stack((light, red - green, blue - light))
    found = [*(planes.mean((2, 3)) / 32), *np.log(planes.std((2, 3)) + 1)]
    for level in range(_LEVELS + 1):
        if level and min(light.shape[1:]) >= 4:
            height, width = (side // 2 * 2 for side in light.shape[1:])
            lines = light[:, :height:2] + light[:, 1:height:2]
            light = (lines[..., :width:2] + lines[..., 1:width:2]) / 4
        for steps in (np.diff(light, axis=2), np.diff(light, axis=1)):
            edges = np.abs(steps)
            mean = edges.mean((1, 2)) + 0.5
            found.append(np.log(mean))
            root = np.sqrt((edges**2).mean((1, 2))) + 0.5
            found.append(np.log(root / mean) if level else (edges < 1).mean((1, 2)))
    return np.stack(found, axis=1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A model's scores against the two rates that matter, measured on labelled pairs.

    rates, thresholds: the false match rate (share of pairs of different identities with ``score >= threshold``) at
    rising thresholds, so that ``rates`` fall; each rate has at least one pair behind it. slope, offset: P(same |
    score) = 1 / (1 + exp(-(slope · score + offset))) where same and different are equally likely beforehand (Platt,
    "Probabilistic Outputs for Support Vector Machines", 1999). genuine, impostor: pairs that it was fitted on.
    data: where they came from, for people. looks: of their images; ``None`` where nobody measured it.
    """

    rates: tuple[float, ...]
    thresholds: tuple[float, ...]
    slope: float
    offset: float
    genuine: int
    impostor: int
    data: str = ""
    looks: Looks | None = None

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
        at = bisect_right(self.thresholds, score)
        return self.rates[at - 1] if at else 1.0

    def probability(self, score: float, prior: float = 0.5) -> float:
        """P(same identity | score) by Bayes' rule, where it is ``prior`` in (0, 1) before the score is known."""
        log_odds = self.slope * score + self.offset + _logit(prior)
        return 1.0 / (1.0 + math.exp(min(-log_odds, 700.0)))

    def even_score(self, prior: float = 0.5) -> float:
        """The score at which :meth:`probability` is one half; it may lie outside [-1, 1]."""
        return -(self.offset + _logit(prior)) / self.slope

    def strange(self, figures: Figures) -> NDArray[np.bool_]:
        """Which of the images, float32 [n, 26], look like none that it was measured on, if it knows those; bool [n]."""
        import numpy as np

        return np.zeros(len(figures), bool) if self.looks is None else self.looks.strange(figures)

    def to_json(self) -> dict[str, Any]:
        return {
            "false_match_rates": list(self.rates),
            "thresholds": list(self.thresholds),
            "slope": self.slope,
            "offset": self.offset,
            "genuine_pairs": self.genuine,
            "impostor_pairs": self.impostor,
            "data": self.data,
            **({} if self.looks is None else {"looks": self.looks.to_json()}),
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
            None if (looks := saved.get("looks")) is None else Looks.from_json(looks),
        )
        numbers = (*found.rates, *found.thresholds, found.slope, found.offset)
        falling = all(a > b for a, b in zip(found.rates, found.rates[1:]))
        rising = all(a < b for a, b in zip(found.thresholds, found.thresholds[1:]))
        paired = falling and rising and len(found.rates) == len(found.thresholds) > 0
        if not paired or not 0 < found.rates[-1] <= found.rates[0] <= 1:
            raise ValueError("rates and thresholds do not agree")
        if not all(abs(number) < _HUGE for number in numbers) or found.slope < 1 / _HUGE:
            raise ValueError("numbers beyond all bounds, or a slope that is not positive")
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

"""Same or different? The images of one side against those of another, by their scores alone: no gallery needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import Failure
from siamese_search.errors import DataError, ImageError, UsageError, amount, printable
from siamese_search.model.embedder import Embedder
from siamese_search.retrieval.judging import NOBODY, STRANGE, Judge
from siamese_search.retrieval.query import Seen, embed_each

#: Scores in one answer; more is what a gallery is for.
MAX_PAIRS = 4_000_000


@dataclass(frozen=True)
class Comparison:
    """Every image of the left side against every one of the right.

    left, right: n and m images. scores: float32 [n, m], cosine similarities, higher is closer. threshold: from it on
    two images count as the same identity; ``None`` where neither calibration nor caller gave one.
    false_match_rate: what the threshold was chosen for, else what was measured there, ``None`` where it was given.
    probabilities: float64 [n, m] of being the same identity; ``None`` without calibration. judge: what both rest on.
    failed: images that could not be read, with the reason.
    """

    left: list[Path]
    right: list[Path]
    scores: NDArray[np.float32]
    threshold: float | None
    false_match_rate: float | None
    probabilities: NDArray[np.float64] | None
    failed: list[Failure]
    model: str
    judge: Judge = NOBODY

    @property
    def same(self) -> NDArray[np.bool_] | None:
        """bool [n, m]; ``None`` without a threshold."""
        return None if self.threshold is None else self.scores >= self.threshold

    @property
    def any_same(self) -> bool | None:
        """Whether at least one pair is the same identity; ``None`` without a threshold."""
        return None if self.same is None else bool(self.same.any())

    def nearest(self, rows: int, columns: int) -> Comparison:
        """Of a side with more images than that those with the highest scores, highest first."""
        best = zip(self.scores.shape, (rows, columns), (self.scores.max(1), self.scores.max(0)), strict=True)
        kept = [np.argsort(-top, kind="stable")[:most] if n > most else np.arange(n) for n, most, top in best]
        left, right = ([side[n] for n in some] for side, some in zip((self.left, self.right), kept, strict=True))
        return replace(self, left=left, right=right, scores=self.scores[np.ix_(*kept)], probabilities=None)

    def to_json(self) -> dict[str, Any]:
        """The documented JSON object (docs/cli-json.md)."""
        same, chances = self.same, self.probabilities
        return {
            "model": self.model,
            "threshold": None if self.threshold is None else round(self.threshold, 6),
            "false_match_rate": self.false_match_rate,
            "prior": None if chances is None else float(f"{self.judge.prior:.6g}"),
            "calibration": None if chances is None else self.judge.origin,
            **({"no_verdict": self.judge.why} if self.judge.why else {}),
            **({"doubt": self.judge.doubt} if self.judge.doubt else {}),
            "same": self.any_same,
            "pairs": [
                {
                    "a": str(a),
                    "b": str(b),
                    "score": round(float(self.scores[i, j]), 6),
                    "probability": None if chances is None else round(float(chances[i, j]), 6),
                    "same": None if same is None else bool(same[i, j]),
                }
                for i, a in enumerate(self.left)
                for j, b in enumerate(self.right)
            ],
            "failed": [failure.to_json() for failure in self.failed],
        }


def compare(
    left: Sequence[Path],
    right: Sequence[Path],
    embedder: Embedder,
    judge: Callable[[NDArray[np.float32]], Judge] = lambda _vectors: NOBODY,
    *,
    threshold: float | None = None,
    false_match_rate: float | None = None,
) -> Comparison:
    """Embed both sides, each image once, and score every pair.

    judge: of all the images, by their vectors. threshold: instead of that for ``false_match_rate``, by default the
    score from which two images are likelier the same than not, as in a search. An image that cannot be read is named in
    ``failed`` and left out. Raises DataError where a side has no image left, ImageError where that was its only one,
    UsageError for more than :data:`MAX_PAIRS` pairs and for a rate that the calibration cannot give.
    """
    if len(left) * len(right) > MAX_PAIRS:
        raise UsageError(
            f"{len(left):,} × {len(right):,} pairs are too many to compare one by one: ingest one side and search for"
            " the other"
        )
    seen: dict[Path, Seen] = {}
    failed: dict[Path, ImageError] = {}
    paths = list(dict.fromkeys([*left, *right]))
    for path, found in zip(paths, embed_each(paths, embedder), strict=True):
        if isinstance(found, ImageError):
            failed[path] = found
        else:
            seen[path] = found
    sides = [[path for path in side if path in seen] for side in (left, right)]
    for side, readable in zip((left, right), sides, strict=True):
        if not readable:
            error = failed[side[0]]
            none = f"none of the {amount(len(side), 'image')} can be read; {error}"
            raise error if len(side) == 1 else DataError(none)
    vectors = {path: vector for path, (vector, _) in seen.items()}
    asked = _looked_at(judge(np.stack(list(vectors.values()))), seen, sides)
    calibration, rate = asked.calibration, None
    if threshold is None and calibration is not None:
        if false_match_rate is not None:
            rate, threshold = false_match_rate, calibration.threshold(false_match_rate)
        else:
            threshold = calibration.even_score(asked.prior)
            rate = calibration.false_match_rate(threshold)
    a, b = (np.stack([vectors[path] for path in side]) for side in sides)
    scores = np.clip(a @ b.T, -1.0, 1.0).astype(np.float32)
    chances = None
    if calibration is not None:
        chances = np.array([[calibration.probability(float(s), asked.prior) for s in row] for row in scores])
    named = [Failure.of(path, error.reason) for path, error in failed.items()]
    return Comparison(sides[0], sides[1], scores, threshold, rate, chances, named, embedder.fingerprint, asked)


def _looked_at(judge: Judge, seen: Mapping[Path, Seen], sides: Sequence[Sequence[Path]]) -> Judge:
    """The judge, without a calibration where all of a side look like none it was measured on; in doubt if some."""
    if judge.calibration is None:
        return judge
    unlike = judge.calibration.strange(np.stack([looks for _, looks in seen.values()]))
    strange = {path for path, one in zip(seen, unlike, strict=True) if one}
    for side in sides:
        if strange.issuperset(side):
            return replace(judge, calibration=None, why=f"{printable(side[0])}: {STRANGE}")
    some = f"{amount(len(strange), 'image')} of {len(seen)}: {STRANGE}"
    return replace(judge, doubt="; ".join(filter(None, [judge.doubt, some]))) if strange else judge

"""Same or different? The images of one side against those of another, by their scores alone: no gallery needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import Failure
from siamese_search.embedding import batches_of, embed_images
from siamese_search.errors import DataError, ImageError, UsageError, printable
from siamese_search.model.calibration import DEFAULT_FMR, Calibration
from siamese_search.retrieval.results import json_path

if TYPE_CHECKING:
    from siamese_search.model.embedder import Embedder

#: Scores in one answer; more is what a gallery is for.
MAX_PAIRS = 4_000_000


@dataclass(frozen=True)
class Comparison:
    """Every image of the left side against every one of the right.

    left, right: n and m images. scores: float32 [n, m], cosine similarities, higher is closer. threshold: from it on
    two images count as the same identity; ``None`` where neither calibration nor caller gave one.
    false_match_rate: what the threshold was chosen for, ``None`` where it was given. probabilities: float64 [n, m] of
    being the same identity, both cases equally likely beforehand; ``None`` without calibration. failed: images that
    could not be read, with the reason.
    """

    left: list[Path]
    right: list[Path]
    scores: NDArray[np.float32]
    threshold: float | None
    false_match_rate: float | None
    probabilities: NDArray[np.float64] | None
    failed: list[Failure]
    model: str

    @property
    def same(self) -> NDArray[np.bool_] | None:
        """bool [n, m]; ``None`` without a threshold."""
        return None if self.threshold is None else self.scores >= self.threshold

    @property
    def any_same(self) -> bool | None:
        """Whether at least one pair is the same identity; ``None`` without a threshold."""
        return None if self.same is None else bool(self.same.any())

    def to_json(self) -> dict[str, Any]:
        """The documented JSON object (docs/cli-json.md)."""
        same, chances = self.same, self.probabilities
        return {
            "model": self.model,
            "threshold": None if self.threshold is None else round(self.threshold, 6),
            "false_match_rate": self.false_match_rate,
            "same": self.any_same,
            "pairs": [
                {
                    "a": json_path(a),
                    "b": json_path(b),
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
    calibration: Calibration | None = None,
    *,
    threshold: float | None = None,
    false_match_rate: float | None = None,
) -> Comparison:
    """Embed both sides, each image once, and score every pair.

    threshold: instead of the calibration's for ``false_match_rate`` (0.01). An image that cannot be read is named in
    ``failed`` and left out. Raises DataError where a side has no image left, ImageError where that was its only one,
    UsageError for more than :data:`MAX_PAIRS` pairs and for a rate that the calibration cannot give.
    """
    if len(left) * len(right) > MAX_PAIRS:
        raise UsageError(
            f"{len(left):,} × {len(right):,} pairs are too many to compare one by one: ingest one side and search for"
            " the other"
        )
    rate = None
    if threshold is None and calibration is not None:
        rate = DEFAULT_FMR if false_match_rate is None else false_match_rate
        threshold = calibration.threshold(rate)
    vectors, failed = _embed(dict.fromkeys([*left, *right]), embedder)
    sides = []
    for side in (left, right):
        readable = [path for path in side if path in vectors]
        if not readable:
            reason = failed[side[0]]
            if len(side) == 1:
                raise ImageError(side[0], reason)
            raise DataError(f"none of the {len(side)} images can be read; {printable(side[0])}: {reason}")
        sides.append(readable)
    a, b = (np.stack([vectors[path] for path in side]) for side in sides)
    scores = np.clip(a @ b.T, -1.0, 1.0).astype(np.float32)
    chances = None
    if calibration is not None:
        chances = np.array([[calibration.probability(float(s)) for s in row] for row in scores])
    named = [Failure.of(path, reason) for path, reason in failed.items()]
    return Comparison(sides[0], sides[1], scores, threshold, rate, chances, named, embedder.fingerprint)


def _embed(
    paths: dict[Path, None], embedder: Embedder
) -> tuple[dict[Path, NDArray[np.float32]], dict[Path, str]]:
    """The vector of each image that can be read, and the reason of each that cannot."""
    vectors: dict[Path, NDArray[np.float32]] = {}
    failed: dict[Path, str] = {}
    for found in embed_images(batches_of(list(paths)), embedder, lambda path: path):
        vectors |= zip(found.items, found.vectors, strict=True)
        failed |= {path: error.reason for path, error in found.failures}
    return vectors, failed

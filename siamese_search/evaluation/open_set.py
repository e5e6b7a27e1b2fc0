"""Open-set identification: what happens when the target is not in the gallery at all?

Every query is asked twice. With its identity in the gallery, it is a miss where no valid match reaches the threshold;
the share of misses is the false negative identification rate (FNIR). With all images of its identity taken out of the
gallery, it is a false alarm where anything reaches the threshold; their share is the false positive identification
rate (FPIR). The terms are those of ISO/IEC 19795-1; unlike a false match rate, FPIR grows with the gallery.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siamese_search.evaluation.labels import Labels

#: False positive identification rates of the report, with the names that they have in its JSON.
RATES = {"1e-1": 1e-1, "1e-2": 1e-2}

#: Scores held at once (16 MB as float32).
_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class OpenSetPoint:
    """Searches whose best score is at least ``threshold`` say "in the gallery"."""

    threshold: float
    fpir: float
    fnir: float


@dataclass(frozen=True)
class OpenSet:
    """Per query [q], float32: its best score among valid matches (NaN without one), and among other identities
    (-inf where the gallery has no other).
    """

    best_match: NDArray[np.float32]
    best_other: NDArray[np.float32]

    @property
    def searches(self) -> int:
        """Queries that have a valid match; the others take no part."""
        return int((~np.isnan(self.best_match)).sum())

    def at(self, threshold: float) -> OpenSetPoint | None:
        """The two rates at a threshold; ``None`` without a valid query."""
        valid = ~np.isnan(self.best_match)
        if not valid.any():
            return None
        alarms = float((self.best_other[valid] >= threshold).mean())
        misses = float((self.best_match[valid] < threshold).mean())
        return OpenSetPoint(threshold, alarms, misses)

    def at_fpir(self, rate: float) -> OpenSetPoint | None:
        """At the lowest threshold whose FPIR is at most ``rate``; ``None`` with fewer than 1 / rate valid queries."""
        others = np.sort(self.best_other[~np.isnan(self.best_match)])[::-1]
        allowed = int(rate * others.size * (1 + 1e-12))
        if allowed < 1:
            return None
        if allowed >= others.size:
            return self.at(-1.0)
        # Just above the first score that may not pass; so ties with it do not pass either.
        return self.at(float(np.nextafter(others[allowed], np.float32(np.inf))))


def open_set(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    labels: Labels,
    *,
    block: int = _BLOCK,
) -> OpenSet:
    """The two best scores of every query, in bounded memory.

    queries: float32 [q, d], gallery: float32 [g, d], unit rows. A valid match has the query's identity, another camera
    (where both are known) and is not the query itself, as in :mod:`siamese_search.evaluation.retrieval`.
    block: scores held at once.
    """
    own, theirs = labels.query_camera, labels.gallery_camera
    best_match = np.full(len(queries), np.nan, np.float32)
    best_other = np.full(len(queries), -np.inf, np.float32)
    rows = max(1, block // max(1, len(gallery)))
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        scores = queries[part] @ gallery.T
        same = labels.query_identity[part, None] == labels.gallery_identity[None, :]
        if len(gallery):
            best_other[part] = np.where(same, -np.inf, scores).max(axis=1)
        valid = same & ~((own[part, None] == theirs[None, :]) & (own[part, None] >= 0))
        itself = labels.same_image[part]
        there = np.flatnonzero(itself >= 0)
        valid[there, itself[there]] = False
        found = valid.any(axis=1)
        best = np.where(valid, scores, -np.inf).max(axis=1, initial=-np.inf)
        best_match[part] = np.where(found, best, np.nan)
    return OpenSet(best_match, best_other)

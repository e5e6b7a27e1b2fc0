"""What a Qdrant server answers, in this project's own terms and order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from qdrant_client import models

from siamese_search.gallery.contract import StoredPoint
from siamese_search.gallery.qdrant.points import to_payload, to_vector


def ranked_points(points: Sequence[models.ScoredPoint]) -> list[tuple[models.ScoredPoint, float]]:
    """Points with their scores, by score descending, then id ascending (as text, whose order is the same)."""
    # Clipped before sorting: rounding puts equal vectors at 1.0000001, and a cosine ends at 1.
    scores: list[float] = np.clip([point.score for point in points], -1.0, 1.0).tolist()
    return sorted(zip(points, scores), key=lambda one: (-one[1], str(one[0].id)))


def stored(record: models.Record, floats: Sequence[str]) -> StoredPoint:
    """A point as the gallery gives it. floats: as :func:`~siamese_search.gallery.qdrant.points.to_payload`."""
    return StoredPoint(str(record.id), to_payload(record.payload, floats), to_vector(record.vector))


def most_frequent(counts: dict[Any, int], limit: int) -> dict[Any, int]:
    """The ``limit`` most frequent values, the smaller one first where two are as frequent."""
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:limit])

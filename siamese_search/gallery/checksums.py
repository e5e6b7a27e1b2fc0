"""Verification: do the stored vectors still have the checksums they were stored with?

The engine keeps none of its own; every engine writes ``crc`` into the payload at upsert.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from siamese_search.gallery.contract import Gallery, StoredPoint, Vectors


def vector_crc(row: Vectors) -> int:
    """CRC-32 of a vector's float32 little-endian bytes, float32 [d]: what the payload's ``crc`` holds."""
    return zlib.crc32(np.ascontiguousarray(row, "<f4").data)


def is_sound(point: StoredPoint, dim: int) -> bool:
    """Whether a point's vector is the one that was stored."""
    vector = point.vector
    return (
        vector is not None
        and vector.shape == (dim,)
        and bool(np.isfinite(vector).all())
        and vector_crc(vector) == point.payload.get("crc")
    )


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """``points`` were read; ``damaged`` are the ids whose vector is not the one that was stored."""

    points: int
    damaged: tuple[str, ...]


def verify_vectors(gallery: Gallery) -> VerifyReport:
    """Read every point and compare its vector with its checksum. Streams; 100,000 points take seconds."""
    points, damaged = 0, []
    for point in gallery.scroll(with_vectors=True, fields=["crc"]):
        points += 1
        if not is_sound(point, gallery.dim):
            damaged.append(point.id)
    return VerifyReport(points, tuple(damaged))

"""Verification: do the stored vectors still have the checksums they were stored with?

The engine keeps none of its own; every engine writes ``crc`` into the payload at upsert.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from siamese_search.gallery.base import Gallery, Vectors


def vector_crc(row: Vectors) -> int:
    """CRC-32 of a vector's float32 little-endian bytes, float32 [d]: what the payload's ``crc`` holds."""
    return zlib.crc32(np.ascontiguousarray(row, "<f4").data)


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
        vector = point.vector
        sound = vector is not None and vector.shape == (gallery.dim,) and bool(np.isfinite(vector).all())
        if not sound or vector is None or vector_crc(vector) != point.payload.get("crc"):
            damaged.append(point.id)
    return VerifyReport(points, tuple(damaged))

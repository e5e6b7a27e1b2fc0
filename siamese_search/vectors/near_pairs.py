"""near_pairs(): all pairs of vectors whose cosine similarity reaches a threshold, exactly, without an n×n matrix.

For unit vectors |x - y|² = 2 - 2 x·y, and no rotation or projection makes a distance larger. So the vectors are rotated
onto the principal axes of a sample of them, and two whose first coordinates alone are too far apart need not be
compared in full. 100,000 of 512-D at 0.9 take 24 s of processor time; plain products take 70 s
(``benchmarks/duplicates.py``).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from siamese_search.options import Progress

#: Vectors that are compared with as many others at once: 16 MB of similarities.
BLOCK = 2048
#: Coordinates that are compared first, and vectors that the axes are taken from.
_FIRST, _SAMPLE = 64, 4096
#: Above this share of candidates a block's full product is faster than going through them.
_DENSE = 0.02
#: Rounding of float32 sums.
_SLACK = 1e-4
#: Equal vectors have a similarity of 0.9999999 as often as of 1.
_ROUNDING = 1e-6

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def near_pairs(vectors: NDArray[np.float32], threshold: float, *, progress: Progress | None = None) -> Iterator[Pairs]:
    """Yield (i, j, similarity), i < j, a block at a time: int64 [m], int64 [m], float32 [m], m at most BLOCK².

    vectors: unit rows, float32 [n, d]; a memory map will do. progress: called with blocks done and all. Takes 64
    numbers per vector besides.
    """
    count = len(vectors)
    threshold -= _ROUNDING
    first = _projected(vectors) if vectors.shape[1] >= 2 * _FIRST else None
    # p·q of the projections, less half their squared lengths, is minus half their squared distance.
    reach = threshold - 1 - _SLACK
    half = None if first is None else 0.5 * np.einsum("ij,ij->i", first, first)
    starts = range(0, count, BLOCK)
    total, done = len(starts) * (len(starts) + 1) // 2, 0
    for a in starts:
        left = np.asarray(vectors[a : a + BLOCK])
        for b in range(a, count, BLOCK):
            if first is not None and half is not None:
                near = first[a : a + BLOCK] @ first[b : b + BLOCK].T
                near -= half[a : a + BLOCK, None]
                near -= half[None, b : b + BLOCK]
                rows, columns = np.nonzero(near >= reach)
            if first is None or len(rows) > _DENSE * near.size:
                scores = left @ np.asarray(vectors[b : b + BLOCK]).T
                rows, columns = np.nonzero(scores >= threshold)
                values = scores[rows, columns]
            else:
                values = _dots(left, vectors[b : b + BLOCK], rows, columns)
            good = (values >= threshold) & (a + rows < b + columns)
            if good.any():
                yield a + rows[good], b + columns[good], values[good]
            done += 1
            if progress is not None:
                progress(done, total)


def _projected(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first coordinates on the principal axes of an even sample, float32 [n, 64]."""
    sample = np.asarray(vectors[:: max(1, len(vectors) // _SAMPLE)], np.float64)
    _, axes = np.linalg.eigh(sample.T @ sample)  # ascending; not centred, which distances do not mind
    axes = np.ascontiguousarray(axes[:, -_FIRST:], np.float32)
    out = np.empty((len(vectors), _FIRST), np.float32)
    for start in range(0, len(vectors), BLOCK):
        out[start : start + BLOCK] = vectors[start : start + BLOCK] @ axes
    return out


def _dots(
    left: NDArray[np.float32], right: NDArray[np.float32], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float32]:
    out = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), 4 * BLOCK):
        part = slice(start, start + 4 * BLOCK)
        out[part] = np.einsum("ij,ij->i", left[rows[part]], right[columns[part]])
    return out

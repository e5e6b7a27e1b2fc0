"""k-reciprocal re-ranking: images that are among each other's nearest speak for each other.

Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017. All images, queries
and gallery together, form one set in which each image p has

    d(p, g)    squared Euclidean distance, divided by the largest one from p
    N(p, k)    itself and its k nearest images
    R(p, k)    those g in N(p, k) for which p is in N(g, k): its k-reciprocal neighbours
    R*(p)      R(p, k1), joined by R(c, k1 / 2) of each c in R(p, k1) with at least two thirds of it in R(p, k1)
    V(p)       exp(-d(p, g)) for g in R*(p), else 0, divided by their sum; then, as local query expansion, the
               mean of V over the k2 nearest images of p, itself among them
    J(p, g)    Jaccard distance 1 - Σ min(V(p), V(g)) / Σ max(V(p), V(g))

The re-ranked distance is (1 - λ) · J(p, g) + λ · d(p, g). Here, as everywhere, higher is closer, so what is
handed out is one minus it: a *re-ranked similarity* in [0, 1], no cosine, good for ordering one query's results
and for nothing else; a threshold for cosines does not fit it. The division of d by its maximum and of V by its sum,
and the images that count themselves among their neighbours, are those of the authors' published figures.

Every list is short, so V is kept as sparse rows, and similarities come in blocks: 3,368 queries against 19,732
images of 512-D take 0.65 GB at the peak (vectors and result included; 0.5 GB by :func:`reranked_blocks`) and 15 s
of CPU time. Memory grows with the number of images, time with its square (each is compared with every other).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siamese_search.errors import UsageError

#: Similarities held at once, in float32 (64 MB).
_SCORES_AT_ONCE = 1 << 24

_Vectors = NDArray[np.float32]
_Places = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class KReciprocal:
    """Parameters of the paper, with its values for Market-1501. Raises UsageError for one that cannot work.

    k1: neighbours that must be reciprocal. k2: images that local query expansion averages, 1 for none of it.
    weight: λ, the share of the original distance in the result; 1 keeps the original order.
    """

    k1: int = 20
    k2: int = 6
    weight: float = 0.3

    def __post_init__(self) -> None:
        if self.k1 < 1 or self.k2 < 1:
            raise UsageError(f"re-ranking needs k1 and k2 of at least 1, not {self.k1} and {self.k2}")
        if not 0 <= self.weight <= 1:
            raise UsageError(f"lambda of re-ranking lies between 0 and 1, not {self.weight}")


def rerank(
    queries: _Vectors,
    gallery: _Vectors,
    how: KReciprocal = KReciprocal(),
    *,
    same_image: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Re-ranked similarities float32 [q, g] of queries [q, d] to gallery [g, d], both with unit rows.

    same_image: int64 [q], each query's own place in the gallery or -1; such a query is one image, not two. All queries
    take part in all neighbourhoods, so a query's row depends on the others that are asked with it. Images at the same
    distance rank by place. More neighbours than there are images means all of them. An empty side gives an empty
    result. Raises ValueError for shapes, rows and places that cannot be.
    """
    return np.concatenate(list(reranked_blocks(queries, gallery, how, same_image=same_image)))


def reranked_blocks(
    queries: _Vectors,
    gallery: _Vectors,
    how: KReciprocal = KReciprocal(),
    *,
    same_image: NDArray[np.int64] | None = None,
) -> Iterator[NDArray[np.float32]]:
    """The rows of :func:`rerank` in order, in blocks [b, g], where the whole matrix would not fit into memory."""
    _check(queries, gallery)
    if not len(queries) or not len(gallery):
        yield np.empty((len(queries), len(gallery)), np.float32)
        return
    own = np.full(len(queries), -1, np.int64) if same_image is None else np.asarray(same_image, np.int64)
    if own.shape != (len(queries),) or own.min() < -1 or own.max() >= len(gallery):
        raise ValueError(f"same_image needs {len(queries)} places between -1 and {len(gallery) - 1}")
    strangers = own < 0
    images = np.concatenate((gallery, queries[strangers]))  # [n, d]
    place = own.copy()  # of each query in images
    place[strangers] = len(gallery) + np.arange(strangers.sum())

    nearest, farthest = _nearest(images, max(how.k1 + 1, how.k2))
    rows = _expanded(_encoded(images, nearest[:, : how.k1 + 1], farthest, how.k1), nearest[:, : how.k2])
    columns = _Columns(rows, len(gallery))
    block = max(1, _SCORES_AT_ONCE // len(gallery))
    for start in range(0, len(place), block):
        asked = place[start : start + block]
        scores = _distances(images[asked] @ gallery.T, farthest[asked])  # [block, g]
        scores *= -how.weight
        for score, image in zip(scores, asked.tolist()):
            shared = columns.shared(*rows[image])
            score += how.weight + (1 - how.weight) * shared / (2 - shared)
        yield scores


def jaccard_rows(
    images: _Vectors, how: KReciprocal = KReciprocal(), *, least: float = 0.02, cameras: NDArray[np.int64] | None = None
) -> list[tuple[_Places, NDArray[np.float32]]]:
    """1 - J(p, g) of every image to every other, unit rows [n, d], as sparse rows: places and similarities.

    Similarities below ``least`` are left out, and so is the image itself. Memory grows with n, not with its square.
    cameras: [n], numbers from 0; neighbours are then found as :func:`_advantages` says.
    """
    _check(images, images)
    if not len(images):
        return []
    nearest, farthest = _nearest(images, max(how.k1 + 1, how.k2), cameras)
    rows = _expanded(_encoded(images, nearest[:, : how.k1 + 1], farthest, how.k1), nearest[:, : how.k2])
    columns = _Columns(rows, len(images))
    found: list[tuple[_Places, NDArray[np.float32]]] = []
    for image, row in enumerate(rows):
        shared = columns.shared(*row)
        places = np.flatnonzero(shared).astype(np.int32)
        similar = shared[places] / (2 - shared[places])
        kept = (similar >= least) & (places != image)
        found.append((places[kept], similar[kept]))
    return found


#: A sparse row: places int32 [m], ascending, and their values float32 [m], which add up to 1.
_Row = tuple[_Places, NDArray[np.float32]]


#: Images of a camera, on the mean, below which nearest ones tell nothing of it: then it is rather a track.
_LEAST_BY_CAMERA = 8


def _advantages(images: _Vectors, cameras: NDArray[np.int64]) -> NDArray[np.float32]:
    """Half of how similar the nearest three images of one camera are to those of another, or of its own: [c, c].

    Images by one camera are alike for more than who is on them: without handing back some of it all neighbours would be
    of one's own camera. Half, for the other half is that one camera often sees somebody many times.
    """
    places = [np.flatnonzero(cameras == camera) for camera in range(int(cameras.max()) + 1)]
    found = np.zeros((len(places), len(places)))
    for one, other in np.ndindex(found.shape):
        asked = places[one][:: max(1, len(places[one]) // 400)]  # enough for a mean
        scores = images[asked] @ images[places[other]].T
        scores[asked[:, None] == places[other]] = -1
        if count := min(3, len(places[other]) - (one == other)):
            found[one, other] = np.sort(scores, axis=1)[:, -count:].mean()
    return np.asarray((found + found.T) / 4, np.float32)


def _nearest(
    images: _Vectors, count: int, cameras: NDArray[np.int64] | None = None
) -> tuple[_Places, NDArray[np.float32]]:
    """Each image itself, then its nearest, int32 [n, min(count, n)]; and its largest squared distance, float32 [n].

    Ties are ordered by place, except that no duplicate comes before the image itself.
    """
    total = len(images)
    count = min(count, total)
    told = cameras is not None and 0 < cameras.max() < total // _LEAST_BY_CAMERA
    advantages = _advantages(images, cameras) if cameras is not None and told else None
    nearest = np.empty((total, count), np.int32)
    farthest = np.empty(total, np.float32)
    block = max(1, _SCORES_AT_ONCE // total)
    for start in range(0, total, block):
        scores = images[start : start + block] @ images.T  # [block, n]
        farthest[start : start + block] = 2 - 2 * scores.min(axis=1)
        if advantages is not None and cameras is not None:
            scores -= advantages[cameras[start : start + block]][:, cameras]
        scores[np.arange(len(scores)), np.arange(start, start + len(scores))] = np.inf
        bounds = np.partition(scores, total - count, axis=1)[:, total - count]
        for image, (row, bound) in enumerate(zip(scores, bounds), start):
            candidates = np.flatnonzero(row >= bound)  # more than count where there are ties
            order = np.argsort(-row[candidates], kind="stable")
            nearest[image] = candidates[order[:count]]
    # Only rounding makes a distance of nothing: of an image alone, or among copies of itself.
    return nearest, np.where(farthest > 1e-6, farthest, 1).astype(np.float32)


def _distances(similarities: NDArray[np.float32], farthest: NDArray[np.float32]) -> NDArray[np.float32]:
    """d in [0, 1] from cosine similarities [b, m], whose rows belong to images with these ``farthest`` [b]."""
    squared = np.maximum(2 - 2 * similarities, 0)
    return np.asarray(np.minimum(squared / farthest[:, None], 1), np.float32)


def _reciprocal(nearest: _Places) -> NDArray[np.bool_]:
    """Which of each image's neighbours have it among theirs: bool [n, k], like ``nearest``."""
    images = np.arange(len(nearest))[:, None]
    return np.stack([(nearest[column] == images).any(axis=1) for column in nearest.T], axis=1)


def _encoded(images: _Vectors, nearest: _Places, farthest: NDArray[np.float32], k1: int) -> list[_Row]:
    """V(p) of every image before the expansion. nearest: N(p, k1), int32 [n, ≤ k1 + 1]."""
    mutual = _reciprocal(nearest)
    closest = nearest[:, : (k1 + 1) // 2 + 1]  # N(p, k1 / 2), the half rounded up
    mutual_closest = _reciprocal(closest)
    sizes = mutual_closest.sum(axis=1)
    member = np.zeros(len(images), bool)  # of R(p, k1), for the image in hand
    rows: list[_Row] = []
    for image in range(len(images)):
        core = nearest[image, mutual[image]]
        member[core] = True
        theirs = closest[core]  # [m, half]
        counted = mutual_closest[core]
        common = (member[theirs] & counted).sum(axis=1)
        member[core] = False
        joining = 3 * common >= 2 * sizes[core]
        places = np.unique(np.concatenate((core, theirs[joining][counted[joining]])))
        weights = np.exp(-_distances((images[places] @ images[image])[None], farthest[image : image + 1])[0])
        rows.append((places, weights / weights.sum()))
    return rows


def _expanded(rows: list[_Row], nearest: _Places) -> list[_Row]:
    """The mean of the rows of each image's nearest, int32 [n, k2], itself first."""
    if nearest.shape[1] == 1:
        return rows
    expanded: list[_Row] = []
    for neighbours in nearest.tolist():
        theirs, values = map(np.concatenate, zip(*(rows[one] for one in neighbours)))
        places, position = np.unique(theirs, return_inverse=True)
        expanded.append((places, (np.bincount(position, values) / len(neighbours)).astype(np.float32)))
    return expanded


class _Columns:
    """The first ``size`` rows, stored by column: ``rows`` and ``values`` from ``starts[c]`` to ``starts[c + 1]``."""

    def __init__(self, rows: list[_Row], size: int) -> None:
        places = np.concatenate([places for places, _ in rows[:size]])
        order = np.argsort(places, kind="stable")
        lengths = [len(places) for places, _ in rows[:size]]
        self.size = size
        self.starts = np.searchsorted(places[order], np.arange(len(rows) + 1))
        self.rows = np.repeat(np.arange(size, dtype=np.int32), lengths)[order]
        self.values = np.concatenate([values for _, values in rows[:size]])[order]

    def shared(self, places: _Places, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Σ min(V(p), V(g)) for every g of the gallery, float32 [g], of the sparse row V(p).

        Rows add up to 1, so Σ max is 2 less it.
        """
        first, lengths = self.starts[places], self.starts[places + 1] - self.starts[places]
        # All entries of these columns, one after the other, as one index.
        entries = np.arange(lengths.sum()) + np.repeat(first - (np.cumsum(lengths) - lengths), lengths)
        smaller = np.minimum(self.values[entries], np.repeat(values, lengths))
        return np.bincount(self.rows[entries], smaller, minlength=self.size).astype(np.float32)


def _check(queries: _Vectors, gallery: _Vectors) -> None:
    for name, vectors in (("queries", queries), ("gallery", gallery)):
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise ValueError(f"{name} must be float32 [n, d], not {vectors.dtype} {list(vectors.shape)}")
        # Negated, so that NaN is refused as well.
        if not (np.abs(np.linalg.norm(vectors, axis=1) - 1) <= 1e-3).all():
            raise ValueError(f"{name} must have rows of unit length")
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} dimensions, the gallery has {gallery.shape[1]}")

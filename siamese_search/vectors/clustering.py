"""cluster(): average linkage over k-reciprocal Jaccard similarities, on a sparse graph.

Two images that share many of their reciprocal neighbours are likely one identity, more surely than their cosine alone
says (Zhong et al., CVPR 2017; :mod:`siamese_search.vectors.k_reciprocal`). Clusters are merged, the most similar first,
by the mean of that similarity over all pairs between them (UPGMA), while it is at least ``least``; the mean cosine must
reach its threshold too, where one is given: among strangers somebody is always nearest.

Nearly all pairs have similarity 0 and are not stored, so memory grows with n. Each cluster holds the summed similarity
to others under the names that they had when it was made, and resolves these when it is looked at. A merge can only
lower a mean (it is reducible), so a cluster's best similarity of before is a bound: those are kept in a heap, and the
first whose bound still holds is merged.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from siamese_search.vectors.k_reciprocal import KReciprocal, jaccard_rows

_Vectors = NDArray[np.float32]


def cluster(
    vectors: _Vectors,
    *,
    neighbours: int = 20,
    least: float = 0.25,
    cosine: float | None = None,
    seeds: NDArray[np.int64] | None = None,
    cameras: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """The cluster of each vector, int64 [n]: numbers from 0 in the order of each cluster's first member.

    vectors: unit rows, float32 [n, d]. neighbours: k1, about as many images as an identity has. seeds: [n], the
    identity of each vector where it is known, else -1: those of one are in one cluster, those of two never are.
    cameras: [n], numbers from 0: neighbours are looked for across them too. Deterministic.
    """
    if not len(vectors):
        return np.empty(0, np.int64)
    k2 = max(1, min(6, round(neighbours * 0.3)))
    rows = jaccard_rows(vectors, KReciprocal(k1=neighbours, k2=k2), cameras=cameras)
    known = np.full(len(vectors), -1, np.int64) if seeds is None else seeds
    linked = _Linkage(vectors, rows, least, cosine, known).merged()
    _, first, inverse = np.unique(linked, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse.reshape(-1)]


class _Linkage:
    """Clusters 0 to n - 1 are the images; each merge makes the next number."""

    def __init__(
        self,
        vectors: _Vectors,
        rows: list[tuple[NDArray[np.int32], NDArray[np.float32]]],
        least: float,
        cosine: float | None,
        seeds: NDArray[np.int64],
    ) -> None:
        count = len(vectors)
        self._least, self._cosine, self._count = least, cosine, count
        self._seeds = np.concatenate((seeds, np.full(count, -1, np.int64)))
        self._parent = np.arange(2 * count)
        self._size = np.ones(2 * count)
        # Of the clusters that are still there.
        self._vectors: dict[int, _Vectors] = dict(enumerate(vectors))
        self._places = {one: places.astype(np.int64) for one, (places, _) in enumerate(rows)}
        self._sums = {one: sums.astype(np.float64) for one, (_, sums) in enumerate(rows)}

    def merged(self) -> NDArray[np.int64]:
        """The last cluster that each image is in."""
        new = self._gathered()
        heap = [(-best[0], one) for one in sorted(self._vectors) if (best := self._best(one)) is not None]
        heapq.heapify(heap)
        while heap:
            bound, one = heapq.heappop(heap)
            if one not in self._vectors or (best := self._best(one)) is None:
                continue
            value, other = best
            if value < -bound - 1e-12:
                heapq.heappush(heap, (-value, one))
                continue
            self._merge(one, other, new)
            if (best := self._best(new)) is not None:
                heapq.heappush(heap, (-best[0], new))
            new += 1
        return self._roots(np.arange(self._count))

    def _gathered(self) -> int:
        """Merge the images of each identity that is known; returns the next free number."""
        new = self._count
        for identity in np.unique(self._seeds[self._seeds >= 0]).tolist():
            one, *others = np.flatnonzero(self._seeds[: self._count] == identity).tolist()
            for other in others:
                self._merge(one, other, new)
                one, new = new, new + 1
        return new

    def _merge(self, one: int, other: int, new: int) -> None:
        self._parent[[one, other]] = new
        self._seeds[new] = max(self._seeds[one], self._seeds[other])
        self._size[new] = self._size[one] + self._size[other]
        self._vectors[new] = self._vectors.pop(one) + self._vectors.pop(other)
        self._places[new] = np.concatenate((self._places.pop(one), self._places.pop(other)))
        self._sums[new] = np.concatenate((self._sums.pop(one), self._sums.pop(other)))

    def _best(self, one: int) -> tuple[float, int] | None:
        """The most similar cluster that it may be merged with, and how similar; the lowest of equals."""
        places = self._roots(self._places[one])
        outside = places != one
        others, at = np.unique(places[outside], return_inverse=True)
        sums = np.bincount(at.reshape(-1), self._sums[one][outside], minlength=len(others))
        self._places[one], self._sums[one] = others, sums.astype(np.float64, copy=False)
        means = sums / (self._size[one] * self._size[others])
        strangers = (self._seeds[one] >= 0) & (self._seeds[others] >= 0)  # two identities that are known
        good = np.flatnonzero((means >= self._least) & ~strangers)
        if self._cosine is not None and len(good):
            theirs = np.stack([self._vectors[other] for other in others[good].tolist()])
            cosines = theirs @ self._vectors[one] / (self._size[one] * self._size[others[good]])
            good = good[cosines >= self._cosine]
        if not len(good):
            return None
        best = good[np.argmax(means[good])]
        return float(means[best]), int(others[best])

    def _roots(self, clusters: NDArray[np.int64]) -> NDArray[np.int64]:
        while not np.array_equal(parents := self._parent[clusters], clusters):
            self._parent[clusters] = self._parent[parents]
            clusters = parents
        return clusters

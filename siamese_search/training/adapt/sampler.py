"""Batches of clusters: K images of each, from its cameras in equal parts, and single images between them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.samplers import Indices, group_by_label


class ClusterSampler:
    """Batches of image indices int64 [≤ P·K], in groups of K: of one cluster, or single images.

    labels: the cluster of each image, [n]; cameras: [n], -1 where unknown. A cluster of n images has round(n / K)
    groups an epoch, at least one, and its cameras take turns in each, the images of a rarer one again. iters: batches
    of an epoch, 0 for as many as one pass makes. Everything depends on (seed, epoch) alone.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        cameras: NDArray[np.int64],
        *,
        p: int,
        k: int,
        iters: int = 0,
        seed: int = 0,
    ) -> None:
        groups = group_by_label(labels)
        self._clusters = [group for group in groups if len(group) > 1]
        self._singles = np.concatenate([np.empty(0, np.int64), *(g for g in groups if len(g) == 1)])
        self._cameras = cameras
        self.p, self.k, self.iters, self.seed = p, k, iters, seed

    def epoch(self, epoch: int) -> Iterator[Indices]:
        """The batches of one epoch."""
        given, turn = 0, 0
        while True:
            for batch in self._pass(np.random.default_rng((self.seed, epoch, 5, turn))):
                yield batch
                given += 1
                if given == self.iters:
                    return
            if not self.iters:
                return
            turn += 1

    def steps(self, epoch: int) -> int:  # noqa: ARG002 - the samplers share one shape
        """How many batches :meth:`epoch` yields."""
        if self.iters:
            return self.iters
        groups = sum(self._times(group) for group in self._clusters) + -(-len(self._singles) // self.k)
        return max(1, groups // self.p)

    def _times(self, group: Indices) -> int:
        return max(1, round(len(group) / self.k))

    def _pass(self, rng: np.random.Generator) -> Iterator[Indices]:
        """One pass over all images; what is left over after whole batches waits for the next one."""
        groups: list[Indices] = []
        for cluster in self._clusters:
            turns = self._by_turns(cluster, self._times(cluster) * self.k, rng)
            groups += list(turns.reshape(-1, self.k))
        singles = rng.permutation(self._singles)
        groups += [singles[start : start + self.k] for start in range(0, len(singles), self.k)]
        order = rng.permutation(len(groups))
        for start in range(0, max(1, len(order) // self.p) * self.p, self.p):
            yield np.concatenate([groups[at] for at in order[start : start + self.p]])

    def _by_turns(self, cluster: Indices, count: int, rng: np.random.Generator) -> Indices:
        """So many images of a cluster, one of each camera after the other."""
        shuffled = rng.permutation(cluster)
        seen = self._cameras[shuffled]
        names = rng.permutation(np.unique(seen))
        each = -(-count // len(names))
        return np.stack([np.resize(shuffled[seen == name], each) for name in names], axis=1).reshape(-1)[
            :count
        ]

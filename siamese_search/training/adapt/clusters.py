"""Which images are taken for one identity, how good that is, the contrast with them, and batches of them.

Cluster Contrast (Dai et al., 2021) keeps one vector per cluster and lets the batch's hardest image of it move that;
SpCL (Ge et al., NeurIPS 2020) also keeps the images that belong to no cluster, each as a class of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_search.datasets.samplers import Indices, group_by_label

_Numbers = NDArray[np.int64]


def agreement(first: _Numbers, second: _Numbers) -> float:
    """The adjusted Rand index of two groupings, [n] each: 1 the same, 0 what chance would give."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(first, second))


def figures(labels: _Numbers, former: _Numbers, known: Sequence[str | None]) -> dict[str, float | int]:
    """What one epoch's clusters were, for its row of the history.

    clusters: of two images or more; singles: images alone. agreement: with the epoch before, absent in the first.
    purity, ari: where identities are known, of those images: the share whose identity is the commonest of their
    cluster, and the adjusted Rand index.
    """
    sizes = np.bincount(labels)
    found: dict[str, float | int] = {"clusters": int((sizes > 1).sum()), "singles": int((sizes == 1).sum())}
    if former.min() >= 0:
        found["agreement"] = agreement(former, labels)
    rows = [row for row, name in enumerate(known) if name is not None]
    if rows:
        truth = np.unique([str(known[row]) for row in rows], return_inverse=True)[1]
        own = labels[rows]
        table = np.zeros((int(own.max()) + 1, int(truth.max()) + 1), np.int64)
        np.add.at(table, (own, truth), 1)
        found["purity"] = float(table.max(axis=1).sum() / len(rows))
        found["ari"] = agreement(truth, own)
    return found


class Memory(nn.Module):
    """Its tensors have the same size whatever the clusters are, so that a checkpoint keeps them.

    labels: int64 [n], the cluster of each image, -1 before the first clustering; former: those of the epoch before.
    centroids: float32 [n, d] unit rows, of which the first ``count`` are in use.
    """

    labels: Tensor
    former: Tensor
    centroids: Tensor

    def __init__(self, images: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("labels", torch.full((images,), -1))
        self.register_buffer("former", torch.full((images,), -1))
        self.register_buffer("centroids", torch.zeros(images, dim))

    @property
    def count(self) -> int:
        """How many clusters there are, single images among them."""
        return int(self.labels.max()) + 1

    def start(self, embeddings: Tensor, labels: Tensor) -> None:
        """New clusters: each begins as the mean of its images. embeddings: unit rows [n, d]; labels: from 0, [n]."""
        self.former.copy_(self.labels)
        self.labels.copy_(labels)
        sums = torch.zeros_like(self.centroids).index_add_(0, self.labels, embeddings.to(self.centroids))
        self.centroids.copy_(F.normalize(sums, dim=1))

    def loss(self, embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
        """InfoNCE of each embedding, unit rows [b, d], with its own centroid against all the others; the mean."""
        # A copy: the update comes before the backward pass, which needs what was there.
        scores = embeddings @ self.centroids[: self.count].clone().T
        return F.cross_entropy(scores / temperature, labels)

    @torch.no_grad()
    def update(self, embeddings: Tensor, labels: Tensor, momentum: float, order: Tensor | None = None) -> None:
        """Move the centroid of each label to one of its embeddings, keeping the share ``momentum`` of what it was.

        That is the one least similar to it; with ``order``, a permutation [b], the one that comes first there.
        """
        if order is None:
            order = torch.argsort((embeddings * self.centroids[labels]).sum(1), stable=True)
        by_label = order[torch.argsort(labels[order], stable=True)]
        sorted_labels = labels[by_label]
        first = torch.ones_like(sorted_labels, dtype=torch.bool)
        first[1:] = sorted_labels[1:] != sorted_labels[:-1]
        chosen, where = by_label[first], sorted_labels[first]
        moved = momentum * self.centroids[where] + (1.0 - momentum) * embeddings[chosen].float()
        self.centroids[where] = F.normalize(moved, dim=1)


class ClusterSampler:
    """Batches of image indices int64 [≤ P·K], in groups of K: of one cluster, or single images.

    labels: the cluster of each image, [n]; cameras: [n], -1 where unknown. A cluster of n images has round(n / K)
    groups an epoch, at least one, and its cameras take turns in each, the images of a rarer one again. iters: batches
    of an epoch, 0 for as many as one pass makes. Everything depends on (seed, epoch) alone.
    """

    def __init__(
        self, labels: NDArray[np.int64], cameras: NDArray[np.int64], *, p: int, k: int, iters: int = 0, seed: int = 0
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
        for group in self._clusters:
            turns = self._by_turns(group, self._times(group) * self.k, rng)
            groups += list(turns.reshape(-1, self.k))
        singles = rng.permutation(self._singles)
        groups += [singles[start : start + self.k] for start in range(0, len(singles), self.k)]
        order = rng.permutation(len(groups))
        for start in range(0, max(1, len(order) // self.p) * self.p, self.p):
            yield np.concatenate([groups[at] for at in order[start : start + self.p]])

    def _by_turns(self, group: Indices, count: int, rng: np.random.Generator) -> Indices:
        """So many images of a cluster, one of each camera after the other."""
        shuffled = rng.permutation(group)
        seen = self._cameras[shuffled]
        names = rng.permutation(np.unique(seen))
        each = -(-count // len(names))
        turns = np.stack([np.resize(shuffled[seen == name], each) for name in names], axis=1)
        return turns.reshape(-1)[:count]

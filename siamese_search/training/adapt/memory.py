"""The memory bank: a unit vector for each cluster and each single image, and the contrast with them.

Cluster Contrast (Dai et al., 2021) keeps one vector per cluster and lets the batch's hardest image of it move that;
SpCL (Ge et al., NeurIPS 2020) also keeps the images that belong to no cluster, each as a class of its own: they are
told apart from every cluster, and none is thrown away.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
    def update(
        self, embeddings: Tensor, labels: Tensor, momentum: float, order: Tensor | None = None
    ) -> None:
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

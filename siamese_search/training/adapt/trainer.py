"""The trainer of an adaptation: the classes change each epoch, and the loss is the contrast with the memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_search.errors import TrainingError
from siamese_search.model.network import APNNetwork
from siamese_search.training.adapt.clusters import Memory, find_clusters
from siamese_search.training.adapt.config import AdaptConfig
from siamese_search.training.adapt.sampler import ClusterSampler
from siamese_search.training.data import LabelledImages
from siamese_search.training.losses import TripletLoss
from siamese_search.training.objective import triplet_objective
from siamese_search.training.trainer import Trainer
from siamese_search.training.validate import embed_all


class ClusterTrainer(Trainer):
    """Trains ``network`` on images [n], whose labels it does not look at.

    cameras: int64 [n], -1 where unknown. seeds: int64 [n], the identity that a person gave each image, or -1.
    """

    config: AdaptConfig

    def __init__(
        self,
        network: APNNetwork,
        config: AdaptConfig,
        images: LabelledImages,
        *,
        cameras: NDArray[np.int64],
        seeds: NDArray[np.int64],
        device: str = "cpu",
    ) -> None:
        self.cameras, self.seeds, self._rows, self._source = cameras, seeds, images.rows, images.pixels
        nothing = images.labels
        super().__init__(
            network, config, images, nothing, sampler=self._batches(nothing, config), device=device
        )
        self.memory = Memory(len(nothing), network.spec.dim).to(self.device)

    def _batches(self, labels: NDArray[np.int64], config: AdaptConfig) -> ClusterSampler:
        k = config.images_per_identity
        return ClusterSampler(
            labels, self.cameras, p=config.batch_size // k, k=k, iters=config.iters, seed=config.seed
        )

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {**super().modules, "memory": self.memory}

    def embed(self, progress: Callable[[int, int], None] | None = None) -> NDArray[np.float32]:
        """Unit embeddings float32 [n, d] by the weights that are kept."""
        return embed_all(self.result, self._source, self._rows, str(self.device), progress=progress)[1]

    def cluster(self, embeddings: NDArray[np.float32]) -> NDArray[np.int64]:
        """The cluster of each image, int64 [n], of these embeddings. Raises TrainingError where all stand alone."""
        labels = find_clusters(embeddings, self.cameras, self.seeds, self.config)
        sizes = np.bincount(labels)
        if (sizes > 1).sum() < 1 or len(sizes) < 2:
            raise TrainingError(
                f"{len(labels)} images make {len(sizes)} clusters, {(sizes > 1).sum()} of them of two images or more:"
                " nothing to learn from; try another --least or --neighbours, or --labels"
            )
        return labels

    def start_epoch(self, progress: Callable[[int, int], None] | None = None) -> None:
        """At the first step of an epoch: new clusters; and always: batches of those that the memory has."""
        if self.progress.step == 0:
            embeddings = self.embed(progress)
            labels = self.cluster(embeddings)
            self.memory.start(torch.from_numpy(embeddings), torch.from_numpy(labels))
        self._labels = self.memory.labels
        self.labels = self.memory.labels.cpu().numpy().copy()
        self.sampler = self._batches(self.labels, self.config)

    def _loss(
        self, features: Tensor, necked: Tensor, indices: NDArray[np.int64], shape: tuple[int, ...]
    ) -> tuple[Tensor, TripletLoss]:
        """The contrast; the triplets of the batch are only counted."""
        config = self.config
        labels, _ = self.targets(indices)
        unit = F.normalize(necked, dim=1)
        loss = self.memory.loss(unit, labels, config.temperature)
        order = None
        if config.update == "random":
            generator = torch.Generator().manual_seed(self._seed(2))
            order = torch.randperm(len(labels), generator=generator).to(self.device)
        self.memory.update(unit.detach(), labels, config.momentum, order)
        return loss, triplet_objective(config, features.detach(), labels, shape)

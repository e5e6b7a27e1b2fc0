"""The trainer of an adaptation: the classes change each epoch, and the loss is the contrast with the memory.

Its first step to other cameras are statistics of the normalisations taken anew from images without labels: nothing is
trained ("AdaBN": Li et al., "Revisiting Batch Normalization for Practical Domain Adaptation", 2016).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from siamese_search.errors import TrainingError
from siamese_search.model.centres import Centres
from siamese_search.model.network import APNNetwork
from siamese_search.training.adapt.clusters import ClusterSampler, Memory
from siamese_search.training.adapt.config import AdaptConfig
from siamese_search.training.data import LabelledImages
from siamese_search.training.loop import embed_all
from siamese_search.training.losses import TripletLoss, triplet_objective
from siamese_search.training.pixels import PixelSource, Progress
from siamese_search.training.trainer import Trainer
from siamese_search.vectors.clustering import cluster


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
        self.cameras, self.seeds = cameras, seeds
        nothing = images.labels
        super().__init__(network, config, images, nothing, sampler=self._batches(nothing, config), device=device)
        self.memory = Memory(len(nothing), network.spec.dim).to(self.device)

    def _batches(self, labels: NDArray[np.int64], config: AdaptConfig) -> ClusterSampler:
        k = config.images_per_identity
        return ClusterSampler(labels, self.cameras, p=config.batch_size // k, k=k, iters=config.iters, seed=config.seed)

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {**super().modules, "memory": self.memory}

    def embed(self, progress: Callable[[int, int], None] | None = None) -> NDArray[np.float32]:
        """Unit embeddings float32 [n, d] by the weights that are kept."""
        necked = embed_all(self.result, self.images, np.arange(len(self.labels)), self.device, progress)[1]
        return F.normalize(necked, dim=1).numpy()

    def cluster(self, embeddings: NDArray[np.float32]) -> NDArray[np.int64]:
        """The cluster of each image, int64 [n], of these embeddings. Raises TrainingError where all stand alone."""
        config = self.config
        if config.centre:  # what all images of a camera share is the camera: left in, a cluster would be of one camera
            names = [None if camera < 0 else str(camera) for camera in self.cameras.tolist()]
            embeddings = Centres.of(embeddings, names).taken_from(embeddings, names)
        labels = cluster(embeddings, neighbours=config.neighbours, least=config.least, seeds=self.seeds)
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


#: As many images as the former statistics count for: of few images alone they would be noise (Schneider et al.,
#: "Improving robustness against common corruptions by covariate shift adaptation", NeurIPS 2020, N = 8 to 64).
FORMER = 32
_BATCH = 64


@torch.no_grad()
def renew_statistics(
    network: APNNetwork,
    pixels: PixelSource,
    rows: NDArray[np.int64],
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> int:
    """Replace the running mean and variance of every normalisation by those over these pixel rows, [n].

    The former ones count as :data:`FORMER` images more. The order of the images is drawn, for neighbours are alike.
    Returns how many normalisations there are; 0, where a network has none, changes nothing.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return 0
    network.to(device).eval()
    order = np.random.default_rng(seed).permutation(rows)
    blocks = np.array_split(order, max(1, len(order) // _BATCH))  # none is much smaller than the others
    former = copy.deepcopy(norms)
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the average over all batches, not one that forgets
    done = 0
    for block in blocks:
        network.embed(network.normalise(torch.from_numpy(pixels.get(block)).to(device)))
        done += len(block)
        if progress:
            progress(done, len(order))
    share = len(order) / (len(order) + FORMER)
    for norm, before in zip(norms, former, strict=True):
        norm.momentum = before.momentum
        for name in ("running_mean", "running_var"):
            new = getattr(norm, name)
            new.copy_(torch.lerp(getattr(before, name), new, share))
    network.eval()
    return len(norms)

"""Which images are taken for one identity, how good that is, the contrast with them, and the trainer of all that.

Cluster Contrast (Dai et al., 2021) keeps one vector per cluster and lets the batch's hardest image of it move that;
SpCL (Ge et al., NeurIPS 2020) also keeps the images that belong to no cluster, each as a class of its own.

The first step to other cameras are statistics of the normalisations taken anew from images without labels: nothing is
trained ("AdaBN": Li et al., "Revisiting Batch Normalization for Practical Domain Adaptation", 2016).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, count, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from siamese_search.datasets.samplers import Indices, group_by_label
from siamese_search.errors import TrainingError, amount
from siamese_search.model.centres import Centres
from siamese_search.model.network import APNNetwork
from siamese_search.options import Progress
from siamese_search.training.backbone import appearance
from siamese_search.training.config import AdaptConfig
from siamese_search.training.data import LabelledImages, PixelSource
from siamese_search.training.loop import embed_all
from siamese_search.training.losses import TripletLoss, triplet_objective
from siamese_search.training.trainer import Trainer
from siamese_search.vectors.clustering import cluster

_Numbers = NDArray[np.int64]


def figures(labels: _Numbers, former: _Numbers, known: Sequence[str | None]) -> dict[str, float | int]:
    """What one epoch's clusters were, for its row of the history.

    clusters: of two images or more; singles: images alone. agreement: with the epoch before, absent in the first.
    purity, ari: where identities are known, of those images: the share whose identity is the commonest of their
    cluster, and the adjusted Rand index, as of agreement: 1 the same, 0 what chance would give.
    """
    from sklearn.metrics import adjusted_rand_score
    from sklearn.metrics.cluster import contingency_matrix

    sizes = np.bincount(labels)
    found: dict[str, float | int] = {"clusters": int((sizes > 1).sum()), "singles": int((sizes == 1).sum())}
    if former.min() >= 0:
        found["agreement"] = float(adjusted_rand_score(former, labels))
    rows = [row for row, name in enumerate(known) if name is not None]
    if rows:
        truth, own = [str(known[row]) for row in rows], labels[rows]
        found["purity"] = float(contingency_matrix(own, truth).max(axis=1).sum() / len(rows))
        found["ari"] = float(adjusted_rand_score(truth, own))
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
    def update(self, embeddings: Tensor, labels: Tensor, momentum: float) -> None:
        """Move the centroid of each label to the embedding of it that is least similar; ``momentum`` of it stays."""
        order = torch.argsort((embeddings * self.centroids[labels]).sum(1), stable=True)
        by_label = order[torch.argsort(labels[order], stable=True)]
        in_order = labels[by_label]
        first = torch.ones_like(in_order, dtype=torch.bool)
        first[1:] = in_order[1:] != in_order[:-1]
        chosen, where = by_label[first], in_order[first]
        moved = momentum * self.centroids[where] + (1.0 - momentum) * embeddings[chosen].float()
        self.centroids[where] = F.normalize(moved, dim=1)


class ClusterSampler:
    """Batches of image indices int64 [≤ P·K], in groups of K: of one cluster, or single images.

    labels: the cluster of each image, [n]; cameras: numbers of theirs, [n]. A cluster of n images has round(n / K)
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
        passes = (self._pass(np.random.default_rng((self.seed, epoch, 5, turn))) for turn in count())
        return islice(chain.from_iterable(passes), self.iters) if self.iters else next(passes)

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


class ClusterTrainer(Trainer):
    """Trains ``network`` on images [n], whose labels it does not look at: new classes each epoch.

    seeds: int64 [n], the identity that a person gave each image, or -1. novice: the network knows no identities yet.
    """

    config: AdaptConfig

    def __init__(
        self,
        network: APNNetwork,
        config: AdaptConfig,
        images: LabelledImages,
        *,
        seeds: NDArray[np.int64],
        novice: bool = False,
        device: str = "cpu",
    ) -> None:
        self._seen_by, self._seeds, self.novice = [record.camera for record in images.records], seeds, novice
        #: A number for the camera of each image, int64 [n]; the unknown ones share one.
        self.cameras = np.unique([name or "" for name in self._seen_by], return_inverse=True)[1]
        nothing = images.labels
        super().__init__(network, config, images, nothing, sampler=self._batches(nothing, config), device=device)
        self.memory = Memory(len(nothing), network.spec.dim).to(self.device)

    def _batches(self, labels: NDArray[np.int64], config: AdaptConfig) -> ClusterSampler:
        k = config.images_per_identity
        return ClusterSampler(labels, self.cameras, p=config.batch_size // k, k=k, iters=config.iters, seed=config.seed)

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {**super().modules, "memory": self.memory}

    def embed(self, progress: Progress | None = None) -> NDArray[np.float32]:
        """Unit embeddings float32 [n, d] by the weights that are kept."""
        necked = embed_all(self.result, self.images, np.arange(len(self.labels)), self.device, progress)[1]
        return F.normalize(necked, dim=1).numpy()

    def centred(self, embeddings: NDArray[np.float32]) -> tuple[Centres | None, NDArray[np.float32]]:
        """The embeddings [n, d] less what the images of each camera share, where ``config.centre`` says so, and that.

        What they share is the camera: left in, a cluster would be of one camera.
        """
        if not self.config.centre:
            return None, embeddings
        centres = Centres.of(embeddings, self._seen_by)
        return centres, centres.taken_from(embeddings, self._seen_by)

    def cluster(self, centred: NDArray[np.float32]) -> NDArray[np.int64]:
        """The cluster of each image, int64 [n], by what :meth:`centred` gives. TrainingError where all stand alone."""
        config = self.config
        labels = cluster(
            centred, neighbours=config.neighbours, least=config.least, seeds=self._seeds, cameras=self.cameras
        )
        sizes = np.bincount(labels)
        several = (sizes > 1).sum()
        if not several or len(sizes) < 2:
            raise TrainingError(
                f"{amount(len(labels), 'image')} make {amount(len(sizes), 'cluster')}, {several} of them of two images"
                " or more: nothing to learn from; try another --least or --neighbours, or --labels"
            )
        return labels

    def start_epoch(self, progress: Progress | None = None) -> None:
        """At the first step of an epoch: new clusters; and always: batches of those that the memory has."""
        if self.progress.step == 0:
            with appearance(self.result.backbone) if self.novice else nullcontext() as looks:
                embeddings = self.embed(progress)
            told = self.centred(embeddings)[1]
            if looks:  # cosines of appearance at first, of what is learned more and more
                share = np.float32(self.progress.epoch / self.config.epochs)
                seen = self.centred(torch.cat(looks).numpy())[1]
                told = np.concatenate([np.sqrt(share) * told, np.sqrt(1 - share) * seen], axis=1)
            labels = self.cluster(told)
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
        self.memory.update(unit.detach(), labels, config.momentum)
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

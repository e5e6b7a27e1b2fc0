"""What a batch is made of and what it costs, for each kind of ``batches``: the same in training and validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from siamese_search.datasets.samplers import BalancedPKSampler, PairSampler, PKSampler, TripletSampler
from siamese_search.training.config import TrainConfig
from siamese_search.training.losses import TripletLoss, batch_hard_triplet, contrastive, triplet_margin


class Sampler(Protocol):
    """Which images form a batch: a pure function of the seed and the epoch."""

    def epoch(self, epoch: int) -> Iterator[NDArray[np.int64]]: ...

    def steps(self, epoch: int) -> int: ...


def make_sampler(
    config: TrainConfig,
    labels: NDArray[np.int64],
    triplets: Sequence[tuple[int, int, int]] = (),
    sources: NDArray[np.int64] | None = None,
) -> Sampler:
    """The sampler of ``config.batches``. Raises DataError where the labels allow no such batch.

    labels, sources: of each image, int64 [n]; without sources all images are of one data set.
    Its batches are image indices int64 [P·K], [B, 3] (anchor, positive, negative) or [B, 2] (pairs).
    """
    if config.batches == "pk":
        k = config.images_per_identity
        if sources is not None and len(np.unique(sources)) > 1:
            return BalancedPKSampler(
                labels.tolist(), sources.tolist(), config.batch_size // k, k, config.seed
            )
        return PKSampler(labels.tolist(), config.batch_size // k, k, config.seed)
    kind = TripletSampler if config.batches == "apn" else PairSampler
    of = () if sources is None else sources.tolist()
    return kind(labels.tolist(), config.batch_size, triplets, config.seed, of)


def triplet_objective(
    config: TrainConfig, features: Tensor, labels: Tensor, shape: tuple[int, ...]
) -> TripletLoss:
    """The triplet or contrastive loss of a batch, not weighted, and its triplet accuracy.

    features [n, d] and labels [n] belong to the batch's indices, flattened; shape is the batch's own.
    """
    if config.unit_triplets:
        features = F.normalize(features, dim=1)
    if config.batches == "pk":
        return batch_hard_triplet(features, labels, config.margin, soft=config.soft_margin)
    rows = features.view(*shape, -1)
    if config.batches == "apn":
        anchor, positive, negative = rows.unbind(1)
        return triplet_margin(anchor, positive, negative, config.margin)
    first, second = labels.view(shape).unbind(1)
    return contrastive(rows[:, 0], rows[:, 1], first != second, config.margin)


def collapsed_loss(config: TrainConfig) -> float | None:
    """The triplet loss of a network that gives every image the same embedding; None where none is telling."""
    if config.margin == 0 or (config.batches == "pk" and config.soft_margin):
        return None
    return config.margin**2 / 4 if config.batches == "pairs" else config.margin

"""Losses on embeddings: our own, each a mean over anchors, and by name those of pytorch-metric-learning.

And what a batch is made of and costs, for each kind of ``batches``: the same in training and validation.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_search.datasets.samplers import BalancedPKSampler, PairSampler, PKSampler, TripletSampler
from siamese_search.errors import MissingExtraError, UsageError
from siamese_search.training.config import TrainConfig

#: Under the square root: keeps the gradient of a zero distance finite.
_EPS = 1e-12


class TripletLoss(NamedTuple):
    """A scalar loss, and the share of triplets whose positive is closer than the negative (no gradient).

    Pairs count as triplets too: see :func:`contrastive`.
    """

    loss: Tensor
    accuracy: Tensor


def pairwise_distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances [n, m] between rows of a [n, d] and b [m, d]."""
    squares = a.pow(2).sum(1)[:, None] + b.pow(2).sum(1)[None, :] - 2.0 * a @ b.T
    return squares.clamp(min=_EPS).sqrt()


def triplet_margin(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float) -> TripletLoss:
    """mean max(d(A, P) - d(A, N) + margin, 0) over rows of [n, d] (Schroff et al., FaceNet, CVPR 2015)."""
    near = (anchor - positive).pow(2).sum(1).clamp(min=_EPS).sqrt()
    far = (anchor - negative).pow(2).sum(1).clamp(min=_EPS).sqrt()
    return TripletLoss(F.relu(near - far + margin).mean(), (near < far).float().mean().detach())


def batch_hard_triplet(embeddings: Tensor, labels: Tensor, margin: float, *, soft: bool = False) -> TripletLoss:
    """Each anchor against its farthest positive and nearest negative in the batch (Hermans et al., 2017).

    embeddings [n, d], labels [n]. Anchors without a positive or without a negative in the batch do not
    count; if none is left the loss is 0. soft: softplus(d_ap - d_an) instead of the hinge.
    The accuracy is over all valid triplets of the batch, not only the hard ones.
    """
    distances = pairwise_distances(embeddings, embeddings)
    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    hardest_positive = distances.masked_fill(~positive, -torch.inf).amax(1)
    hardest_negative = distances.masked_fill(same, torch.inf).amin(1)
    valid = positive.any(1) & (~same).any(1)
    # torch.where before the subtraction: inf - inf of an invalid anchor would poison the gradient.
    zero = torch.zeros_like(hardest_positive)
    gap = torch.where(valid, hardest_positive, zero) - torch.where(valid, hardest_negative, zero)
    per_anchor = F.softplus(gap) if soft else F.relu(gap + margin)
    loss = (per_anchor * valid).sum() / valid.sum().clamp(min=1)
    with torch.no_grad():
        triplets = positive[:, :, None] & ~same[:, None, :]  # [anchor, positive, negative]
        closer = distances[:, :, None] < distances[:, None, :]
        accuracy = (closer & triplets).sum() / triplets.sum().clamp(min=1)
    return TripletLoss(loss, accuracy)


def contrastive(first: Tensor, second: Tensor, different: Tensor, margin: float) -> TripletLoss:
    """mean of ½(1 - Y)D² + ½Y·max(0, margin - D)² over pairs, Y = 1 for different (Hadsell et al., CVPR 2006).

    first, second [n, d]; different: bool [n]. There are no triplets here, so the accuracy is the share of
    (same pair, different pair) combinations in which the same pair is closer: the area under the ROC curve
    of the batch, and 0 where one kind is missing.
    """
    distance = (first - second).pow(2).sum(1).clamp(min=_EPS).sqrt()
    per_pair = torch.where(different, F.relu(margin - distance).pow(2), distance.pow(2))
    with torch.no_grad():
        closer = distance[~different][:, None] < distance[different][None, :]
        accuracy = closer.sum() / max(1, closer.numel())
    return TripletLoss(0.5 * per_pair.mean(), accuracy)


def cosine_regression(student: Tensor, teacher: Tensor) -> Tensor:
    """mean (1 - cos) between rows of student [n, t] and teacher [n, t]."""
    return (1.0 - F.cosine_similarity(student, teacher, dim=1)).mean()


def similarity_matching(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the two cosine-similarity matrices inside the batch, off the diagonal.

    student [n, d], teacher [n, t]; the dimensions may differ (Tung & Mori, "Similarity-Preserving
    Knowledge Distillation", ICCV 2019, on cosines).
    """
    s, t, n = F.normalize(student, dim=1), F.normalize(teacher, dim=1), len(student)
    return (s @ s.T - t @ t.T).pow(2).sum() / max(1, n * (n - 1))


#: Between the names of several losses; a comma already separates the values of a sweep.
SEPARATOR = "+"

#: Losses that take embeddings and labels in name only: an abstract base, other arguments, other labels.
_OTHER_CONTRACT = {
    "BaseMetricLossFunction", "GenericPairLoss", "ManifoldLoss", "P2SGradLoss", "RankedListLoss", "VICRegLoss",
}  # fmt: skip


def make_metric_losses(names: str, classes: int, dim: int) -> nn.ModuleDict:
    """The losses of ``"ArcFaceLoss+MultiSimilarityLoss"``, with the library's defaults; none for ``""``.

    Each maps (embeddings float32 [n, dim], labels int64 [n] in 0 … classes-1) to a scalar. Those with proxies
    or class weights have parameters to train along. Raises UsageError for a name that there is not.
    """
    made = nn.ModuleDict()
    if not names:
        return made
    known = known_losses()
    for name in map(str.strip, names.split(SEPARATOR)):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UsageError(
                f"--metric-loss: no loss {name!r} for embeddings and labels in pytorch-metric-learning; "
                f"{hint}there are {', '.join(sorted(known))}"
            )
        # Arguments are looked for in the whole ancestry: CosFaceLoss passes its own on as *args.
        wanted = {p for base in known[name].__mro__ for p in inspect.signature(base.__init__).parameters}
        size = {"num_classes": classes, "embedding_size": dim}
        made[name] = known[name](**{key: value for key, value in size.items() if key in wanted})
    return made


def metric_loss(losses: nn.ModuleDict, embeddings: Tensor, labels: Tensor) -> Tensor:
    """The sum of these losses; embeddings float32 [n, d], labels int64 [n]. ``losses`` must not be empty."""
    first, *others = (cast(Tensor, loss(embeddings, labels)) for loss in losses.values())
    return sum(others, start=first)


def known_losses() -> dict[str, Any]:
    """What :func:`make_metric_losses` takes, by name. Raises MissingExtraError without the library."""
    try:
        from pytorch_metric_learning import losses
        from pytorch_metric_learning.losses.base_metric_loss_function import BaseMetricLossFunction
    except ImportError:
        raise MissingExtraError("--metric-loss", "torch") from None
    return {
        name: kind
        for name, kind in vars(losses).items()
        if inspect.isclass(kind) and issubclass(kind, BaseMetricLossFunction) and name not in _OTHER_CONTRACT
    }


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
            return BalancedPKSampler(labels.tolist(), sources.tolist(), config.batch_size // k, k, config.seed)
        return PKSampler(labels.tolist(), config.batch_size // k, k, config.seed)
    kind = TripletSampler if config.batches == "apn" else PairSampler
    of = () if sources is None else sources.tolist()
    return kind(labels.tolist(), config.batch_size, triplets, config.seed, of)


def triplet_objective(config: TrainConfig, features: Tensor, labels: Tensor, shape: tuple[int, ...]) -> TripletLoss:
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

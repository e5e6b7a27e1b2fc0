"""Losses on embeddings. Distances are Euclidean, similarities are cosines; every loss is a mean over anchors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

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


def batch_hard_triplet(
    embeddings: Tensor, labels: Tensor, margin: float, *, soft: bool = False
) -> TripletLoss:
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
    s = F.normalize(student, dim=1)
    t = F.normalize(teacher, dim=1)
    n = len(s)
    return (s @ s.T - t @ t.T).pow(2).sum() / max(1, n * (n - 1))

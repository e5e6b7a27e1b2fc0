"""Validation on identities that training never sees: rank-1 and mAP, and the loss of the recipe itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from siamese_search.datasets.records import DISTRACTOR_IDENTITY, JUNK_IDENTITY, ImageRecord
from siamese_search.errors import DataError
from siamese_search.evaluation.labels import Labels
from siamese_search.evaluation.retrieval import RankingMetrics, retrieval_metrics
from siamese_search.model.network import APNNetwork
from siamese_search.training.config import TrainConfig
from siamese_search.training.objective import make_sampler, triplet_objective
from siamese_search.training.pixels import PixelSource, Progress


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """The triplet or contrastive loss (not weighted) on held-out images, and the triplet accuracy."""

    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Validation:
    """``loss`` is None where the held-out images form no batch: fewer than 2 identities, or no two images of one."""

    metrics: RankingMetrics
    loss: HeldOutLoss | None


def embed_all(
    network: APNNetwork,
    pixels: PixelSource,
    rows: NDArray[np.int64],
    device: str,
    batch: int = 128,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(features, embeddings), each float32 [n, dim], of these pixel rows in evaluation mode.

    Features are what metric losses act on, embeddings what retrieval uses. The mode is put back afterwards.
    """
    training = network.training
    network.eval()
    blocks: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    half = device.startswith("cuda")
    try:
        with torch.inference_mode(), torch.autocast(device.split(":")[0], torch.bfloat16, enabled=half):
            for start in range(0, len(rows), batch):
                images = torch.from_numpy(pixels.get(rows[start : start + batch])).to(device)
                features, necked = network(network.normalise(images))
                unit = F.normalize(necked.float(), dim=1)
                blocks.append((features.float().cpu().numpy(), unit.cpu().numpy()))
                if progress:
                    progress(min(start + batch, len(rows)), len(rows))
    finally:
        network.train(training)
    if not blocks:
        empty = np.zeros((0, network.spec.dim), np.float32)
        return empty, empty
    return np.concatenate([block[0] for block in blocks]), np.concatenate([block[1] for block in blocks])


def held_out_loss(
    config: TrainConfig,
    features: NDArray[np.float32],
    identities: Sequence[str],
    sources: Sequence[str | None] = (),
) -> HeldOutLoss | None:
    """The recipe's triplet or contrastive loss over one fixed epoch of its batches from these images.

    The batches depend only on ``config.seed`` and the images, so epochs can be compared; features [n, d].
    sources: the data set of each image where there are several; triplets and pairs stay within one.
    """
    # Distractors and junk are many people under one name: nothing to pull together.
    known = [
        row for row, name in enumerate(identities) if name not in ("", JUNK_IDENTITY, DISTRACTOR_IDENTITY)
    ]
    features = features[known]
    identities = [identities[row] for row in known]
    sources = [sources[row] for row in known] if sources else sources
    labels = np.unique(np.asarray(identities, dtype=str), return_inverse=True)[1].astype(np.int64)
    places = (
        np.unique([str(s) for s in sources], return_inverse=True)[1].astype(np.int64) if sources else None
    )
    try:
        sampler = make_sampler(config, labels, sources=places)
    except DataError:
        return None
    losses, accuracies = [], []
    for batch in sampler.epoch(0):
        flat = batch.reshape(-1)
        rows, of = torch.from_numpy(features[flat]), torch.from_numpy(labels[flat])
        found = triplet_objective(config, rows, of, batch.shape)
        losses.append(float(found.loss))
        accuracies.append(float(found.accuracy))
    return HeldOutLoss(float(np.mean(losses)), float(np.mean(accuracies))) if losses else None


def validate(
    network: APNNetwork,
    records: Sequence[ImageRecord],
    pixels: PixelSource,
    device: str,
    config: TrainConfig,
) -> Validation:
    """Every held-out image as a query against all the others; and the recipe's own loss among them.

    Where no query is left under the same-camera rule (single-camera data), cameras are not used.
    """
    rows = pixels.usable
    features, embeddings = embed_all(network, pixels, rows, device)
    used = [records[row] for row in rows.tolist()]
    ids = [record.identity or "" for record in used]
    cameras = [record.camera for record in used]
    metrics = retrieval_metrics(embeddings, embeddings, Labels.within(ids, cameras))
    if metrics.invalid_queries == metrics.queries:
        metrics = retrieval_metrics(embeddings, embeddings, Labels.within(ids))
    return Validation(metrics, held_out_loss(config, features, ids, [record.source for record in used]))

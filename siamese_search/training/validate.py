"""Validation by retrieval: rank-1 and mAP of the network in training on identities that it never sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_search.datasets.records import ImageRecord
from siamese_search.evaluation.ranking import RankingMetrics, retrieval_metrics
from siamese_search.model.network import APNNetwork
from siamese_search.training.pixels import PixelSource


def embed_all(
    network: APNNetwork, pixels: PixelSource, rows: NDArray[np.int64], device: str, batch: int = 128
) -> NDArray[np.float32]:
    """Embeddings float32 [n, dim] of these pixel rows, in evaluation mode; the mode is put back afterwards."""
    training = network.training
    network.eval()
    blocks = []
    half = device.startswith("cuda")
    try:
        with torch.inference_mode(), torch.autocast(device.split(":")[0], torch.bfloat16, enabled=half):
            for start in range(0, len(rows), batch):
                images = torch.from_numpy(pixels.get(rows[start : start + batch])).to(device)
                blocks.append(network.embed(network.normalise(images)).cpu().numpy())
    finally:
        network.train(training)
    return np.concatenate(blocks) if blocks else np.zeros((0, network.spec.dim), np.float32)


def validate(
    network: APNNetwork, records: Sequence[ImageRecord], pixels: PixelSource, device: str
) -> RankingMetrics:
    """Every held-out image as a query against all the others.

    Where no query is left under the same-camera rule (single-camera data), cameras are not used.
    """
    rows = pixels.usable
    embeddings = embed_all(network, pixels, rows, device)
    used = [records[row] for row in rows.tolist()]
    ids = [record.identity or "" for record in used]
    cameras = [record.camera for record in used]
    itself = np.arange(len(used))
    metrics = retrieval_metrics(embeddings, embeddings, ids, ids, cameras, cameras, same_image=itself)
    if metrics.invalid_queries == metrics.queries:
        metrics = retrieval_metrics(embeddings, embeddings, ids, ids, same_image=itself)
    return metrics

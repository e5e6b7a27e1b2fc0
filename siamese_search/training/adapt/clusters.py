"""Which images are taken for one identity, and how good that is where somebody knows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from siamese_search.training.adapt.config import AdaptConfig
from siamese_search.vectors.clustering import cluster

_Numbers = NDArray[np.int64]


def find_clusters(
    embeddings: NDArray[np.float32], cameras: _Numbers, seeds: _Numbers, config: AdaptConfig
) -> _Numbers:
    """The cluster of each image, int64 [n].

    embeddings: unit rows [n, d]. cameras: [n], -1 where unknown. seeds: [n], the identity that a person gave, or -1.
    """
    if config.centre:
        embeddings = centred(embeddings, cameras)
    return cluster(embeddings, neighbours=config.neighbours, least=config.least, seeds=seeds)


def centred(embeddings: NDArray[np.float32], cameras: _Numbers) -> NDArray[np.float32]:
    """The embeddings less the mean of their camera's, unit rows again.

    What all images of a camera share is the camera. Left in, images of one camera are each other's neighbours, and a
    cluster is one identity at one camera.
    """
    found = embeddings.copy()
    for camera in np.unique(cameras):
        rows = cameras == camera
        if rows.sum() > 1:
            found[rows] -= embeddings[rows].mean(axis=0)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return np.where(length > 1e-6, found / np.maximum(length, 1e-6), embeddings).astype(np.float32)


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

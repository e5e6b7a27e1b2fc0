"""Embeddings on a plane: PCA, and t-SNE where scikit-learn is installed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FEWEST = 5


def pca(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """The two directions of most variance: float32 [n, d] → float64 [n, 2]. Signs are fixed, so maps repeat."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    two = axes[:, ::-1][:, :2]
    two = two * np.sign(two[np.abs(two).argmax(axis=0), np.arange(two.shape[1])])
    points = centred @ two
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))


def tsne(vectors: NDArray[np.float32], seed: int = 0) -> NDArray[np.float64] | None:
    """t-SNE of unit vectors (van der Maaten & Hinton, 2008): float64 [n, 2]; ``None`` without scikit-learn, or for
    fewer than five."""
    if len(vectors) < _FEWEST:
        return None
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits  # scikit-learn needs it
    except ModuleNotFoundError:
        return None
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    # One thread: its many short loops wait for each other, without end on a busy machine.
    with threadpool_limits(1):
        found = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors)
    return np.asarray(found, np.float64)

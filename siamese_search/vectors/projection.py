"""Embeddings on a plane: PCA, t-SNE where scikit-learn is installed, UMAP where umap-learn is."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.errors import MissingExtraError, UsageError

#: Method → its name for people.
METHODS = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}

#: Neighbours are what t-SNE and UMAP go by; with fewer images than this there are none to speak of.
FEWEST = 5


def best_method(count: int) -> str:
    """The method for ``count`` images where nobody named one: t-SNE, which keeps identities together, else PCA."""
    return "tsne" if count >= FEWEST and find_spec("sklearn") is not None else "pca"


def project(vectors: NDArray[np.float32], method: str, seed: int = 0) -> NDArray[np.float64]:
    """Unit vectors, float32 [n, d], on a plane by one of :data:`METHODS`: float64 [n, 2]. n may be 1 for PCA.

    seed: of t-SNE and UMAP; equal input and seed give equal output on one machine. Raises MissingExtraError where the
    method's library is not installed, UsageError for fewer than five vectors or an unknown method.
    """
    if method == "pca":
        return pca(vectors)
    if method not in METHODS:
        raise UsageError(f"there is no method {method!r}: use one of {', '.join(METHODS)}")
    if len(vectors) < FEWEST:
        raise UsageError(f"{METHODS[method]} needs at least {FEWEST} images, not {len(vectors)}; use pca")
    return umap(vectors, seed) if method == "umap" else tsne(vectors, seed)


def pca(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """The two directions of most variance: float32 [n, d] → float64 [n, 2]. Signs are fixed, so maps repeat."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    two = axes[:, ::-1][:, :2]
    two = two * np.sign(two[np.abs(two).argmax(axis=0), np.arange(two.shape[1])])
    points = centred @ two
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))


def tsne(vectors: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """t-SNE of unit vectors (van der Maaten & Hinton, 2008): float64 [n, 2]. Raises MissingExtraError without it."""
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits  # scikit-learn needs it
    except ModuleNotFoundError:
        raise MissingExtraError("t-SNE", "analysis") from None
    start = pca(vectors)
    spread = float(start[:, 0].std())
    if not spread > 1e-9:  # all the same: scikit-learn's own start would be NaN, and its gradient end the process
        return start
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    # One thread: its many short loops wait for each other, without end on a busy machine.
    with threadpool_limits(1):
        model = TSNE(perplexity=perplexity, init=(start / spread * 1e-4).astype(np.float32), random_state=seed)
        return _finite(model.fit_transform(vectors), vectors)


def umap(vectors: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """UMAP of unit vectors (McInnes, Healy & Melville, 2018): float64 [n, 2]. Raises MissingExtraError without it."""
    neighbours = min(15, len(vectors) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread, and that tensorflow is not installed
        try:
            from umap import UMAP
        except ModuleNotFoundError:
            raise MissingExtraError("UMAP", "umap") from None
        # The spectral start needs more images than the dimensions that it looks for.
        start = "spectral" if len(vectors) > 3 * neighbours else "random"
        model: Any = UMAP(n_neighbors=neighbours, init=start, random_state=seed, n_jobs=1)
        return _finite(model.fit_transform(vectors), vectors)


def _finite(points: Any, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """The points; those of PCA where a library found none, as for images that are all the same."""
    found = np.asarray(points, np.float64)
    return found if np.isfinite(found).all() else pca(vectors)

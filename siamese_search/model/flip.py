"""Flip at test time: an image and its mirror image are embedded, and their mean is the embedding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from siamese_search.model.embedder import Embedder


class FlipEmbedder:
    """An embedder around another: the mean of both mirror images' embeddings, brought back to unit length.

    It costs two forward passes per image. Its vectors are not those of the model alone, so its fingerprint is
    another, and a gallery of the one refuses those of the other.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.dim = embedder.dim
        self.input_size = embedder.input_size
        self.fingerprint = f"{embedder.fingerprint}+flip"

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        plain = self._embedder.embed(images)
        total = plain + self._embedder.embed(np.ascontiguousarray(images[:, :, ::-1]))
        lengths = np.linalg.norm(total, axis=1, keepdims=True)
        # Two opposite embeddings have no mean direction; then the image as it is decides.
        return np.where(lengths > 1e-6, total / np.maximum(lengths, 1e-6), plain).astype(np.float32)

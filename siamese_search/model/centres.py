"""What all images of a camera have in common, taken away from each of them.

A network sees the camera, too: its light, its colours, its angle. Where it has not learned those cameras, that is most
of what two images of different people share. Centring by camera after the training: Song, Kim and Cho, "Exploring the
Camera Bias of Person Re-identification", ICLR 2025.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: As many images at the mean of all cameras a camera's own mean is joined with: that of a few images is who is on them.
PRIOR = 8


@dataclass(frozen=True, slots=True)
class Centres:
    """Mean embeddings, float32 [k + 1, d]: of an image of none of the k ``cameras``, then of each of these."""

    cameras: tuple[str, ...]
    means: NDArray[np.float32]

    @classmethod
    def of(cls, embeddings: NDArray[np.float32], cameras: Sequence[str | None]) -> Centres:
        """Those of some images. embeddings: unit rows [n, d], n ≥ 1; cameras: [n], ``None`` where unknown."""
        names = sorted({camera for camera in cameras if camera is not None})
        number = {name: at for at, name in enumerate(names, 1)}
        rows = np.array([0 if camera is None else number[camera] for camera in cameras])
        counts = np.bincount(rows, minlength=len(names) + 1)
        sums = np.zeros((len(counts), embeddings.shape[1]))
        np.add.at(sums, rows, embeddings)
        seen = counts > 0
        middle = (sums[seen] / counts[seen, None]).mean(axis=0)
        means = (sums + PRIOR * middle) / (counts + PRIOR)[:, None]
        means[0] = middle
        return cls(tuple(names), means.astype(np.float32))

    def taken_from(
        self, embeddings: NDArray[np.float32], cameras: Sequence[str | None] | None = None
    ) -> NDArray[np.float32]:
        """The embeddings, unit rows [n, d], less the mean of each one's camera: unit rows again.

        cameras: [n]; ``None``, alone or in it, is an unknown one.
        """
        number = {name: at for at, name in enumerate(self.cameras, 1)}
        rows = [0 if camera is None else number.get(camera, 0) for camera in cameras or [None] * len(embeddings)]
        found = embeddings - self.means[rows]
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        # An image that is nothing but its camera has no direction left; it keeps the one it had.
        return np.where(lengths > 1e-6, found / np.maximum(lengths, 1e-6), embeddings).astype(np.float32)

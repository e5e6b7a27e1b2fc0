"""What every embedder demands of its input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def check_images(images: NDArray[np.uint8], size: tuple[int, int]) -> None:
    """Raise ValueError unless ``images`` is uint8 [N, H, W, 3] of this (H, W)."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (*size, 3):
        raise ValueError(f"expected uint8 [N, {size[0]}, {size[1]}, 3], got {images.dtype} {images.shape}")

"""What every embedder demands of its input, and how many processors there are for it."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray


def check_images(images: NDArray[np.uint8], size: tuple[int, int]) -> None:
    """Raise ValueError unless ``images`` is uint8 [N, H, W, 3] of this (H, W)."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (*size, 3):
        raise ValueError(f"expected uint8 [N, {size[0]}, {size[1]}, 3], got {images.dtype} {images.shape}")


def available_cpus() -> int:
    """CPUs that this process may use (its affinity mask, not the machine's size)."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)

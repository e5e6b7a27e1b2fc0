"""What every embedder demands of its input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from siamese_search.errors import BundleError, printable
from siamese_search.model.bundle import META_NAME, Bundle


def check_images(images: NDArray[np.uint8], size: tuple[int, int]) -> None:
    """Raise ValueError unless ``images`` is uint8 [N, H, W, 3] of this (H, W)."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (*size, 3):
        raise ValueError(f"expected uint8 [N, {size[0]}, {size[1]}, 3], got {images.dtype} {images.shape}")


def check_shapes(bundle: Bundle, taken: Sequence[object], given: Sequence[object]) -> None:
    """Raise BundleError unless a graph takes and gives what model.json says; what is no number is open."""
    wanted = ((None, *bundle.input_size, 3), (None, bundle.dim))
    for said, found in zip(wanted, (taken, given), strict=True):
        fits = len(said) == len(found) and all(
            a is None or not isinstance(b, int) or a == b for a, b in zip(said, found, strict=True)
        )
        if not fits:
            raise BundleError(
                f"{printable(bundle.path)}: the graph takes {list(taken)} and gives {list(given)}, and {META_NAME} says"
                f" {bundle.input_size[0]}x{bundle.input_size[1]} and {bundle.dim}: the bundle is damaged, copy it again"
            )

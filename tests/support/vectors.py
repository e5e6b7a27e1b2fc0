"""Random unit vectors, and the model that they are said to come from."""

from __future__ import annotations

import numpy as np

from siamese_search.gallery.contract import ModelRef

MODEL = ModelRef("f" * 64, 16, "tests")


def units(rng: np.random.Generator, n: int, dim: int = MODEL.dim) -> np.ndarray:
    """float32 [n, dim], rows of unit length."""
    rows = rng.standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)

"""What every engine checks and spells in the same way: vectors, point ids, field names."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np

from siamese_search.gallery.contract import Vectors

_CANONICAL_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def unit_rows(vectors: Any, dim: int, what: str = "vector") -> Vectors:
    """float32 [n, dim], C-contiguous, checked: the engine would store NaN, inf and zero rows silently.

    Raises ValueError naming the first bad row: wrong shape or type, not finite, or a length off 1 by over 1e-3.
    """
    rows = np.asarray(vectors)
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise ValueError(f"{what}s must have the shape [n, {dim}], not {list(rows.shape)}")
    if rows.dtype.kind != "f":
        raise ValueError(f"{what}s must be floating point, not {rows.dtype}")
    rows = np.ascontiguousarray(rows, np.float32)
    # float64 sums: a float32 square overflows to inf for rows that are merely far too long.
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    good = np.abs(lengths - 1.0) <= 1e-3  # False for NaN
    if not good.all():
        row = int(np.argmin(good))
        if not np.isfinite(rows[row]).all():
            raise ValueError(f"{what} {row} is not finite (NaN or infinity)")
        raise ValueError(f"{what} {row} has length {lengths[row]:.6g}; it must be 1 (to 1e-3)")
    return rows


def canonical_ids(ids: Sequence[str]) -> list[str]:
    """The ids as lower-case, hyphenated UUID text (whose order is the engine's). Raises ValueError."""
    return [one if _CANONICAL_ID.fullmatch(one) else _canonical(one) for one in ids]


def _canonical(one: str) -> str:
    try:
        return str(uuid.UUID(one))
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"{one!r} is not a point id: it must be a UUID") from None


def json_path(field: str) -> str:
    """The field as the engine's JSON path: quoted, so that ``a.b`` is a name and not a nested field."""
    return f'"{field}"'

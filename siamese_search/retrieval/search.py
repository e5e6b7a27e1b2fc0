"""Searcher: query images become ranked results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from siamese_search.gallery.filters import Condition
from siamese_search.retrieval.results import QueryResult, SearchResult

if TYPE_CHECKING:
    from siamese_search.gallery.base import Gallery
    from siamese_search.model.embedder import Embedder

__all__ = ["QueryResult", "SearchResult", "Searcher"]


class Searcher:
    """Ranked retrieval from one gallery with one model."""

    def __init__(self, gallery: Gallery, embedder: Embedder) -> None:
        self.gallery = gallery
        self.embedder = embedder

    def search(
        self,
        queries: Sequence[Path | NDArray[np.uint8]],
        k: int = 10,
        where: Sequence[Condition] = (),
        *,
        exclude_self: bool = False,
        min_score: float | None = None,
        group_by: Literal["identity"] | None = None,
    ) -> list[QueryResult]:
        """One QueryResult per query, in order."""
        raise NotImplementedError

"""draw_sheet(): a contact sheet of search results as one PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from siamese_search.retrieval.results import QueryResult


def draw_sheet(
    results: Sequence[QueryResult],
    out: Path,
    *,
    columns: int = 10,
    truth: bool = True,
    query_identities: Mapping[str, str] | Sequence[str | None] | None = None,
    title: str | None = None,
) -> Path:
    """Draw the results of several queries and write them as a PNG; returns ``out``."""
    raise NotImplementedError

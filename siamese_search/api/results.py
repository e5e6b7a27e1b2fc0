"""Results: the answers of a search as a list that a notebook shows as pictures."""

from __future__ import annotations

from typing import Any, SupportsIndex, overload

from siamese_search.retrieval.results import QueryResult


class Results(list[QueryResult]):
    """One answer per query. In a notebook it shows thumbnails; a slice of it does so, too."""

    def _repr_html_(self) -> str:
        from siamese_search.render.notebook import results_html

        return results_html(self)

    @overload
    def __getitem__(self, at: SupportsIndex) -> QueryResult: ...
    @overload
    def __getitem__(self, at: slice) -> Results: ...
    def __getitem__(self, at: Any) -> QueryResult | Results:
        found = super().__getitem__(at)
        return Results(found) if isinstance(found, list) else found

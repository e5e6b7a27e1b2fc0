"""until_enough: each query gets as much as it asks for, in groups that stay within a bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamese_search.retrieval import ranking as paging
from siamese_search.retrieval.ranking import until_enough


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 200)), max_size=12), st.integers(1, 300))
def test_every_query_is_asked_until_it_has_enough(cases: list[tuple[int, int]], most: int) -> None:
    """cases: of each query, the first depth and the depth that it needs."""
    asked: list[tuple[list[int], int]] = []
    deepest = dict.fromkeys(range(len(cases)), 0)
    settled: set[int] = set()

    def ask(queries: list[int], depth: int) -> list[list[int]]:
        asked.append((queries, depth))
        return [list(range(depth)) for _ in queries]

    def more(query: int, answer: list[int], depth: int) -> int:
        assert query not in settled
        assert depth == len(answer) > deepest[query]
        deepest[query] = depth
        if depth >= cases[query][1]:
            settled.add(query)
            return 0
        return 2 * depth

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paging, "HITS_AT_ONCE", most)
        until_enough([first for first, _ in cases], ask, more)
    assert settled == set(range(len(cases)))
    assert all(len(queries) == 1 or len(queries) * depth <= most for queries, depth in asked)

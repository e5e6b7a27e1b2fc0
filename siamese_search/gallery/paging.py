"""until_enough(): queries ask for their first results, and those that had too few for more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

Answer = TypeVar("Answer")

#: Results held at once: queries are asked in groups of HITS_AT_ONCE / results per query.
HITS_AT_ONCE = 100_000
#: How many times more is fetched where the last answer did not suffice.
GROWTH = 4


def until_enough(
    depths: Sequence[int],
    ask: Callable[[list[int], int], Sequence[Answer]],
    more: Callable[[int, Answer, int], int],
) -> None:
    """Ask every query for its first results, and again for more until it has enough.

    depths: of each query, how many results to fetch at first. ask: queries, and results for each → an answer each.
    more: is told a query, its answer and how many results that was asked to have, at least as many as were wanted; it
    keeps what it needs and says how many to fetch next, 0 for enough.
    """
    wanted = dict(enumerate(depths))
    while wanted:
        again: dict[int, int] = {}
        for queries in _groups(wanted):
            depth = wanted[queries[-1]]
            for query, answer in zip(queries, ask(queries, depth), strict=True):
                if deeper := more(query, answer, depth):
                    again[query] = deeper
        wanted = again


def _groups(wanted: Mapping[int, int]) -> Iterator[list[int]]:
    """The queries by ascending depth, in groups that fetch at most :data:`HITS_AT_ONCE` results together.

    A group is fetched as deep as its last query needs.
    """
    group: list[int] = []
    for query in sorted(wanted, key=lambda one: wanted[one]):
        if group and (len(group) + 1) * wanted[query] > HITS_AT_ONCE:
            yield group
            group = []
        group.append(query)
    if group:
        yield group

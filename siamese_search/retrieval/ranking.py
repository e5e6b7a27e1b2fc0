"""ranked(): the first hits of each probe that may appear, however many lie before them that may not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from siamese_search.gallery.contract import Gallery, Hit
from siamese_search.gallery.filters import Condition
from siamese_search.gallery.paging import GROWTH, until_enough
from siamese_search.retrieval.query import Copies, Probe

#: Results fetched beyond k where some may be dropped: the query itself and a few copies of it.
SPARE = 8


@dataclass(frozen=True, slots=True)
class Ranking:
    """hits: the first that may appear. copies: those among all that were fetched which show the probe itself."""

    hits: list[Hit]
    copies: Copies


def may_appear(hits: Sequence[Hit], copies: Copies, leaves_out: bool) -> list[Hit]:
    """The hits, less the copies of the query where those are left out."""
    return [hit for hit in hits if not (leaves_out and hit.id in copies.hits)]


def ranked(
    gallery: Gallery,
    probes: Sequence[Probe],
    k: int,
    where: Sequence[Condition],
    leaves_out: Callable[[Probe], bool],
    *,
    below: Callable[[Hit, Probe], bool] | None = None,
    with_vectors: bool = False,
) -> list[Ranking]:
    """Per probe its first k hits that may appear, by score, then point id.

    leaves_out: whether copies of the probe may not appear. below: from which hit on nothing is wanted.
    """
    size = gallery.count()
    found = [Ranking([], probe.judge.among([])) for probe in probes]

    def ask(queries: list[int], depth: int) -> list[list[Hit]]:
        vectors = np.stack([probes[query].vector for query in queries])
        return gallery.query_batch(vectors, depth, where, with_vectors=with_vectors)

    def more(query: int, hits: list[Hit], depth: int) -> int:
        probe = probes[query]
        copies = probe.judge.among(hits)
        kept = may_appear(hits, copies, leaves_out(probe))[:k]
        found[query] = Ranking(kept, copies)
        if len(kept) == k or len(hits) < depth or depth >= size:
            return 0
        return 0 if below is not None and below(hits[-1], probe) else min(GROWTH * depth, size)

    until_enough([min(k + SPARE * leaves_out(probe), size) for probe in probes], ask, more)
    return found

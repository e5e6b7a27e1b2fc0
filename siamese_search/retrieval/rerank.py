"""Re-ranking the top of a search: the nearest images are put into a new order by who else is near whom.

The candidates are the first N of the ranking; among them and the query :mod:`~siamese_search.vectors.k_reciprocal`
decides.
N bounds the cost (it grows with N², the gallery's size does not matter); neighbours beyond the candidates are not
seen, so the order comes closer to that of re-ranking the whole gallery as N grows, and is the same where N covers it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from siamese_search.gallery.contract import Gallery, Hit
from siamese_search.gallery.filters import Condition
from siamese_search.retrieval.query import Probe
from siamese_search.vectors.k_reciprocal import rerank

#: Candidates fetched beyond those wanted, where some may be the query itself; and how many times more at need.
_SPARE = 8
_GROWTH = 4
#: Values of vectors held at once, in float32 (64 MB).
_VALUES_AT_ONCE = 1 << 24
#: From this similarity on a copy of the query in the gallery has its vector: both are one image.
_SAME_VECTOR = 0.9999

#: Hits by re-ranked similarity in [0, 1], highest first, with it; without vectors.
Reranked = list[tuple[Hit, float]]


def rerank_top(
    gallery: Gallery,
    probes: Sequence[Probe],
    candidates: int,
    where: Sequence[Condition],
    keep: Callable[[Probe], Callable[[Hit], bool]],
) -> Iterator[Reranked]:
    """Per probe, in order, its first ``candidates`` hits that may appear, in their new order.

    keep: which hits of a probe may appear at all; those that may not take part in nothing. Hits that re-ranking
    holds equal stay in the order of the ranking (by score, then point id). Each probe is re-ranked alone: what else
    is asked in the same call changes nothing. A copy of the query that stays among the candidates is one image
    with the query, not two.
    """
    size = gallery.count()
    at_once = max(1, _VALUES_AT_ONCE // (min(size, candidates) * gallery.dim))
    for start in range(0, len(probes), at_once):
        asked = probes[start : start + at_once]
        for probe, hits in zip(asked, _fetched(gallery, asked, candidates, where, keep, size), strict=True):
            yield _reranked(probe, hits)


def _fetched(
    gallery: Gallery,
    probes: Sequence[Probe],
    candidates: int,
    where: Sequence[Condition],
    keep: Callable[[Probe], Callable[[Hit], bool]],
    size: int,
) -> list[list[Hit]]:
    """The first candidates of each probe, with vectors."""
    found: list[list[Hit]] = [[] for _ in probes]
    vectors = np.stack([probe.vector for probe in probes])
    unfinished = list(range(len(probes)))
    fetch = candidates + _SPARE
    while unfinished:
        fetch = min(fetch, size)
        short = []
        answers = gallery.query_batch(vectors[unfinished], fetch, where, with_vectors=True)
        for row, hits in zip(unfinished, answers, strict=True):
            may_appear = keep(probes[row])
            found[row] = [hit for hit in hits if may_appear(hit)][:candidates]
            if len(found[row]) < candidates and len(hits) == fetch < size:
                short.append(row)
        unfinished = short
        fetch *= _GROWTH
    return found


def _reranked(probe: Probe, hits: Sequence[Hit]) -> Reranked:
    if not hits:
        return []
    vectors = np.stack([hit.vector for hit in hits if hit.vector is not None])  # [n, d]
    own = -1
    if probe.pairwise and probe.scale == 1.0:  # else the probe is no image that a copy could be the same as
        copies = (
            place
            for place, hit in enumerate(hits)
            if hit.id in probe.judge.copies and hit.score >= _SAME_VECTOR
        )
        own = next(copies, -1)
    scores = rerank(probe.vector[None], vectors, same_image=np.array([own], np.int64))[0]  # [n]
    order = np.argsort(-scores, kind="stable")
    return [(replace(hits[place], vector=None), float(scores[place])) for place in order]

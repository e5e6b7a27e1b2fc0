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
from siamese_search.retrieval.query import Copies, Probe
from siamese_search.retrieval.ranking import Ranking, ranked
from siamese_search.vectors.k_reciprocal import rerank

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
    leaves_out: Callable[[Probe], bool],
) -> Iterator[tuple[Reranked, Copies]]:
    """Per probe, in order, its first ``candidates`` hits that may appear, in their new order; and its copies seen.

    leaves_out: whether copies of a probe may not appear; those that may not take part in nothing. Hits that re-ranking
    holds equal stay in the order of the ranking (by score, then point id). Each probe is re-ranked alone: what else
    is asked in the same call changes nothing. A copy of the query that stays among the candidates is one image
    with the query, not two.
    """
    at_once = max(1, _VALUES_AT_ONCE // (min(gallery.count(), candidates) * gallery.dim))
    for start in range(0, len(probes), at_once):
        asked = probes[start : start + at_once]
        found = ranked(gallery, asked, candidates, where, leaves_out, with_vectors=True)
        for probe, one in zip(asked, found, strict=True):
            yield _reranked(probe, one), one.copies


def _reranked(probe: Probe, ranking: Ranking) -> Reranked:
    hits = ranking.hits
    if not hits:
        return []
    vectors = np.stack([hit.vector for hit in hits if hit.vector is not None])  # [n, d]
    own = -1
    if probe.pairwise and probe.scale == 1.0:  # else the probe is no image that a copy could be the same as
        copies = (
            place
            for place, hit in enumerate(hits)
            if hit.id in ranking.copies.hits and hit.score >= _SAME_VECTOR
        )
        own = next(copies, -1)
    scores = rerank(probe.vector[None], vectors, same_image=np.array([own], np.int64))[0]  # [n]
    order = np.argsort(-scores, kind="stable")
    return [(replace(hits[place], vector=None), float(scores[place])) for place in order]

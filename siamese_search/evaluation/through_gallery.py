"""Rankings as the database gives them: fetched deep enough, excluded from after fetching, measured.

Also what it costs to search in a quantised copy of the vectors (8, 4 or 1 bits a number), as searches see it.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.evaluation.protocol import Protocol
from siamese_search.evaluation.retrieval import HitMetrics, RankingMetrics, metrics_from_hit_ranks, summarise
from siamese_search.gallery import open_gallery
from siamese_search.gallery.checks import recall_under
from siamese_search.gallery.contract import Gallery, ModelRef, Payload
from siamese_search.gallery.filters import Condition
from siamese_search.gallery.storage import Storage
from siamese_search.options import Progress
from siamese_search.retrieval.ranking import GROWTH, until_enough

#: Fewest results fetched per query.
_FIRST_FETCH = 128
#: Exact scores held at once, in float32.
_SCORES_AT_ONCE = 8_000_000
#: Results per query that recall compares, and that a report keeps to show.
TOP = 10
#: Queries whose recall is measured under filters.
_MOST_ASKED = 100
#: Scores closer than this are ties: engines add up a dot product in different orders.
_TIE = 1e-6


@dataclass(frozen=True)
class DatabaseRanking:
    """Figures from the database's answers; ``top`` int64 [≤ 10] per query; ``recall`` of the exact ten nearest."""

    metrics: RankingMetrics
    top: list[NDArray[np.int64]]
    recall: float


def rank_through(
    gallery: Gallery,
    plan: Protocol,
    query_vectors: NDArray[np.float32],
    gallery_vectors: NDArray[np.float32],
    places: Mapping[str, int],
    *,
    depth: int | None = None,
    progress: Progress | None = None,
) -> DatabaseRanking:
    """Ask the gallery for each query and measure its own order of results.

    query_vectors: float32 [q, d], rows as ``plan.queries``; gallery_vectors: float32 [g, d], rows as
    ``plan.gallery``, for the exact answer that recall needs. places: point id → place in ``plan.gallery``; a
    point that is not in it (junk, unlabelled) leaves the ranking. depth: ranks per query that count, after the
    exclusions; ``None`` goes on until every match has come, through the whole gallery if need be, so that the
    figures are those of full rankings. progress: called with queries done and in all.
    """
    everything = max(1, gallery.count())
    ends = everything if depth is None else depth
    count = len(plan.queries)
    matches = [plan.matches(query) for query in range(count)]
    by_number = {uuid.UUID(point).int: place for point, place in places.items()}
    # The gallery may hold points that are not ranked; they come in between.
    share = len(plan.gallery) / everything
    depths = np.ceil(_depths(plan, query_vectors, gallery_vectors, ends) / max(share, 1e-9))
    depths = np.clip(depths, _FIRST_FETCH if depth is None else 1, everything).astype(np.int64)
    per_query: list[HitMetrics | None] = [None] * count
    top: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * count
    found = wanted = done = 0

    def ask(queries: list[int], fetched: int) -> list[tuple[list[int], NDArray[np.float32]]]:
        if progress is not None and done:
            progress(done, count)
        vectors = query_vectors[queries]
        answers = gallery.query_ids(vectors, fetched)
        return list(zip(answers, vectors @ gallery_vectors.T, strict=True))

    def more(query: int, answered: tuple[list[int], NDArray[np.float32]], fetched: int) -> int:
        nonlocal found, wanted, done
        ids, exact = answered
        answer = np.array([by_number.get(one, -1) for one in ids], np.int64)
        answer = answer[answer >= 0]
        ranked = answer[~plan.left_out(query, answer)][:ends]
        ranks = np.flatnonzero(plan.gallery_identity[ranked] == plan.query_identity[query]) + 1
        # Behind the last match the order changes no figure; until there, fetch on.
        if fetched < everything and ranked.size < ends and (ranks.size < matches[query] or ranked.size < TOP):
            return min(fetched * GROWTH, everything)
        if matches[query]:
            per_query[query] = metrics_from_hit_ranks(ranks.astype(np.int64), matches[query])
        top[query] = ranked[:TOP]
        found_here, wanted_here = _recalled(answer, exact, fetched)
        found, wanted, done = found + found_here, wanted + wanted_here, done + 1
        return 0

    until_enough(depths.tolist(), ask, more)
    if progress is not None:
        progress(done, count)
    metrics = summarise(per_query, gallery=len(plan.gallery))
    return DatabaseRanking(metrics, top, found / wanted if wanted else float("nan"))


def filtered_recall(gallery: Gallery, query_vectors: NDArray[np.float32]) -> float | None:
    """The lowest share of the exact ten nearest that a search finds, filtered by one camera each and by all others.

    query_vectors: float32 [q, d], of which at most :data:`_MOST_ASKED` are asked. None where there are no two cameras.
    """
    if "camera" not in gallery.fields() or len(cameras := gallery.facet("camera")) < 2:
        return None
    rows = query_vectors[:: max(1, -(-len(query_vectors) // _MOST_ASKED))]
    filters = [[Condition("camera", operator, (one,))] for one in cameras for operator in ("=", "!=")]
    found = [recall_under(gallery, rows, one, TOP) for one in filters]
    return min((one for one in found if one is not None), default=None)


def _depths(
    plan: Protocol, query_vectors: NDArray[np.float32], gallery_vectors: NDArray[np.float32], ends: int
) -> NDArray[np.int64]:
    """How deep each query's last match and tenth result lie in the exact ranking of the gallery, int64 [q].

    ends: the last rank that counts. Only a forecast of how much to fetch: what counts is what the database answers,
    and where that holds fewer matches, more is fetched.
    """
    depths = np.empty(len(query_vectors), np.int64)
    block = max(1, _SCORES_AT_ONCE // max(1, len(gallery_vectors)))
    for start in range(0, len(query_vectors), block):
        exact = query_vectors[start : start + block] @ gallery_vectors.T  # [block, g]
        for query, scores in enumerate(exact, start):
            members = plan.members(query)
            leaves = plan.left_out(query, members)
            matches = scores[members[~leaves]]
            deepest = int((scores >= matches.min() - _TIE).sum()) if matches.size else 0
            depths[query] = min(max(deepest, TOP), ends) + leaves.sum()
    return depths


def _recalled(answer: NDArray[np.int64], exact: NDArray[np.float32], fetched: int) -> tuple[int, int]:
    """How many of the exact nearest are among the first answers, and how many there are to find.

    Any answer as close as the last of the exact nearest counts, so that ties cost nothing.
    """
    wanted = min(TOP, exact.size, fetched)
    if wanted == 0:
        return 0, 0
    bound = np.partition(exact, exact.size - wanted)[exact.size - wanted] - _TIE
    return int((exact[answer[:wanted]] >= bound).sum()), wanted


#: Ranks that count where nobody says how many. A search for a whole gallery would never use the copy.
DEPTH = 100


@dataclass(frozen=True, slots=True)
class Quantised:
    """Figures of one way to quantise, beside those of the vectors as they are; both from the database.

    rank1, mAP and their ``exact_`` counterparts: over the first ``depth`` ranks of each query, so that mAP is
    mAP@depth. recall: share of the exact ten nearest that a search for ten results finds.
    """

    quantisation: str
    depth: int
    rank1: float
    mAP: float  # noqa: N815 - the field's name
    exact_rank1: float
    exact_mAP: float  # noqa: N815
    recall: float

    def to_json(self) -> dict[str, Any]:
        return {
            "quantisation": self.quantisation,
            "depth": self.depth,
            "rank1": self.rank1,
            "mAP": self.mAP,
            "exact": {"rank1": self.exact_rank1, "mAP": self.exact_mAP},
            "recall": self.recall,
        }


def measure_quantised(
    kinds: Sequence[str],
    plan: Protocol,
    query_vectors: NDArray[np.float32],
    gallery_vectors: NDArray[np.float32],
    depth: int | None = None,
) -> list[Quantised]:
    """Rank the plan through a temporary gallery of each kind, and through one that is not quantised.

    kinds: of :data:`siamese_search.gallery.storage.QUANTISATIONS`, ``none`` aside. query_vectors: float32 [q, d], rows
    as ``plan.queries``; gallery_vectors: float32 [g, d], rows as ``plan.gallery``, unit length. depth: ranks per query
    that count, :data:`DEPTH` by default. Each gallery is optimised as ``sss optimise`` would: from some size on it is
    compact, and from a larger one on it has an index, whose losses are part of the figures then.
    """
    if not kinds:
        return []
    most = DEPTH if depth is None else depth

    def ranked(kind: str, *depths: int) -> list[DatabaseRanking]:
        model = ModelRef("quantised", int(gallery_vectors.shape[1]))
        with temporary_gallery(model, Storage(quantisation=kind)) as gallery:
            places = fill(gallery, gallery_vectors, [{}] * len(gallery_vectors))
            gallery.optimise()
            return [rank_through(gallery, plan, query_vectors, gallery_vectors, places, depth=one) for one in depths]

    exact = ranked("none", most)[0].metrics
    found: list[Quantised] = []
    for kind in dict.fromkeys(kinds):
        own, nearest = ranked(kind, most, TOP)
        figures = own.metrics.rank1, own.metrics.mAP, exact.rank1, exact.mAP
        found.append(Quantised(kind, most, *figures, nearest.recall))
    return found


@contextmanager
def temporary_gallery(model: ModelRef, storage: Storage | None = None) -> Iterator[Gallery]:
    """An empty embedded gallery that is gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="sss-evaluate-") as store,
        open_gallery(store, "evaluation", model=model, create=True, mode="w", storage=storage) as opened,
    ):
        yield opened


def fill(gallery: Gallery, vectors: NDArray[np.float32], payloads: Sequence[Payload]) -> dict[str, int]:
    """Write these vectors, float32 [n, d]; each point's id and its place among them.

    Ids ascend with the place: so the database's order of ties is the order of the exact ranking.
    """
    ids = [str(uuid.UUID(int=place + 1)) for place in range(len(vectors))]
    gallery.upsert(ids, vectors, payloads)
    return {point: place for place, point in enumerate(ids)}

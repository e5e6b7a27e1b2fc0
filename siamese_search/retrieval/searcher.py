"""Searcher: query images become ranked results.

One search is: embed the queries, ask the gallery for more than k, drop the query itself, re-rank, group, and ask for
more where too little is left; cut by score last. Each step keeps the order, and the answer is the one that ranking the
whole gallery would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_search.errors import ImageError, StoreError, UsageError
from siamese_search.gallery.contract import Gallery, ModelRef
from siamese_search.gallery.filters import Where
from siamese_search.model.embedder import Embedder, FlipEmbedder
from siamese_search.retrieval.options import SearchOptions
from siamese_search.retrieval.query import Copies, Probe, SameImage, Seen, embed_each, fuse, item_probe, push_away
from siamese_search.retrieval.ranking import (
    Group,
    Ranking,
    count_sightings,
    group_key,
    rank_groups,
    rank_hits,
    rerank_top,
)
from siamese_search.retrieval.results import QueryResult, SearchResult

__all__ = ["QueryResult", "SearchResult", "Searcher"]

Query = Path | str | NDArray[np.uint8] | bytes | Image.Image

#: Results whose points are in memory as the gallery gave them.
_HITS_AT_ONCE = 20_000
_Told = tuple[str | None, str | None, Path, str, Mapping[str, Any]]  # of a point: identity, camera, path, key, metadata


class Searcher:
    """Ranked retrieval from one open gallery with the model that filled it.

    Raises ModelMismatchError when the embedder is another model than the gallery's.
    """

    def __init__(self, gallery: Gallery, embedder: Embedder) -> None:
        ModelRef(embedder.fingerprint, embedder.dim).check(gallery.model, f"gallery {gallery.name!r}")
        self.gallery = gallery
        self.embedder = embedder

    def answers(
        self, asked: Sequence[Probe | QueryResult], k: int, where: Where, options: SearchOptions
    ) -> Iterator[QueryResult]:
        """The k closest images (or identities) of each: of what :meth:`probes` made, or the caller. In order.

        An answer that is one already stays. Fewer than k come only when the gallery has no more that qualify; equal
        scores are ordered by point id. With ``rerank`` the first ``candidates`` under ``where``, without what
        ``exclude_self`` leaves out, are put into another order: ``min_score`` still leaves out by the score.
        Raises UsageError for k < 1, FilterError for an unknown field.
        """
        if k < 1:
            raise UsageError(f"k must be at least 1, not {k}")
        answered = self._answered([one for one in asked if isinstance(one, Probe)], k, where, options)
        return (next(answered) if isinstance(one, Probe) else one for one in asked)

    def _answered(self, probes: Sequence[Probe], k: int, where: Where, options: SearchOptions) -> Iterator[QueryResult]:
        """The answers, a few queries at a time: what the gallery says of a point is kept once for all of them."""
        known: dict[str, _Told] = {}
        step = max(1, _HITS_AT_ONCE // k)
        for start in range(0, len(probes), step):
            part = probes[start : start + step]
            for found, probe in zip(self.rank(part, k, where, options), part, strict=True):
                yield answer(found, probe, options, known)

    def probes(
        self,
        queries: Sequence[Query],
        like: Sequence[str] = (),
        unlike: Sequence[Query] = (),
        *,
        together: bool = False,
        flip: bool = False,
    ) -> list[Probe | QueryResult]:
        """What is searched for, in order; for a query that cannot be read, the answer that says so.

        like: keys of items of the gallery, which are not among their own results. unlike: images to push away from.
        Raises StoreError when the gallery is empty, ImageError when the only query cannot be read.
        """
        if self.gallery.count() == 0:
            raise StoreError(f"gallery {self.gallery.name!r} is empty; fill it with: sss ingest DIR")
        away: list[NDArray[np.float32]] = []
        for image, found in zip(unlike, self._embed(unlike, flip), strict=True):
            if isinstance(found, ImageError):
                raise ImageError(str(image) if isinstance(image, (str, Path)) else "image", found.reason)
            away.append(found[0])
        # Scores are no similarities to a query then. Of a model with centres a copy of it has another vector: nobody
        # says by which camera the query is.
        mixed = len(unlike) > 0 or (together and len(queries) + len(like) > 1) or self.embedder.centres is not None
        asked: list[Probe | QueryResult] = []
        for number, (query, found) in enumerate(zip(queries, self._embed(queries, flip), strict=True), start=1):
            path = Path(query) if isinstance(query, (str, Path)) else None
            name = f"image {number}" if path is None else str(path)
            if isinstance(found, ImageError):
                asked.append(QueryResult(name, path=path, error=found.reason))
            else:
                vector, looks = found
                asked.append(Probe(name, path, vector, SameImage(path, any_score=mixed), looks=looks[None]))
        asked += [item_probe(self.gallery, key) for key in like]
        if together and (probes := [one for one in asked if isinstance(one, Probe)]):
            asked = [fuse(probes), *(one for one in asked if not isinstance(one, Probe))]
        return [push_away(one, np.stack(away)) if away and isinstance(one, Probe) else one for one in asked]

    def _embed(self, queries: Sequence[Query], flip: bool) -> list[Seen | ImageError]:
        """What each query gives, or why it cannot be read; ImageError for the only one."""
        found = embed_each(queries, FlipEmbedder(self.embedder) if flip else self.embedder)
        if len(found) == 1 and isinstance(found[0], ImageError):
            raise found[0]
        return found

    def rank(self, probes: Sequence[Probe], k: int, where: Where, options: SearchOptions) -> list[Ranking]:
        """Per probe at most k groups; without grouping each holds one hit."""
        ranked: Callable[..., list[Ranking]] = rank_groups if options.group_by else rank_hits
        all_hits = ranked(self.gallery, probes, k, where, options)
        found = [shown(one, probe, options) for one, probe in zip(all_hits, probes, strict=True)]
        if options.rerank:
            reordered = rerank_top(self.gallery, probes, where, options)
            found = [
                Ranking(_merged(top, one, probe, options)[:k], one.copies | top.copies, one.best)
                for top, one, probe in zip(reordered, found, probes, strict=True)
            ]
        if options.group_by:
            left_out = [
                one.copies.hits.values() if probe.left_out(options) else ()
                for one, probe in zip(found, probes, strict=True)
            ]
            count_sightings(self.gallery, where, [one.groups for one in found], left_out)
        return found


def shown(ranking: Ranking, probe: Probe, options: SearchOptions) -> Ranking:
    """The ranking without what ``min_score`` leaves out; the best score is that of all, shown or not."""
    groups = [group for group in ranking.groups if not probe.below(group.best, options)]
    return Ranking(groups, ranking.copies, ranking.groups[0].best.score if ranking.groups else None)


def _merged(top: Ranking, plain: Ranking, probe: Probe, options: SearchOptions) -> list[Group]:
    """Re-ranked hits, grouped if that is asked for, and behind them what the plain ranking has besides."""
    groups: dict[str, Group] = {}
    for group in [*(one for one in top.groups if not probe.below(one.best, options)), *plain.groups]:
        groups.setdefault(group_key(group.best) if options.group_by else group.best.id, group)
    return list(groups.values())


def answer(
    ranking: Ranking, probe: Probe, options: SearchOptions, known: dict[str, _Told] | None = None
) -> QueryResult:
    """What a probe's ranking is to whoever asked. known: what was made of points for other probes, by id."""
    known = {} if known is None else known
    return QueryResult(
        probe.name,
        tuple(_result(rank, group, probe, ranking.copies, known) for rank, group in enumerate(ranking.groups, start=1)),
        probe.path,
        ranking.copies.identity,
        pairwise=probe.pairwise,
        best_score=None if ranking.best is None else float(probe.scale * ranking.best),
        candidates=options.candidates if options.rerank else None,
        from_gallery=probe.never,
        looks=probe.looks,
    )


def _result(rank: int, group: Group, probe: Probe, copies: Copies, known: dict[str, _Told]) -> SearchResult:
    best = group.best
    if best.id not in known:
        known[best.id] = best.identity, best.camera, best.path, best.key, best.metadata
    return SearchResult(
        rank,
        float(probe.scale * best.score),
        *known[best.id],
        id=best.id,
        source=best.source,
        sightings=group.sightings,
        cameras=group.cameras,
        reranked=group.reranked,
        itself=best.id in copies.hits,
    )

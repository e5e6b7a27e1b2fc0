"""Searcher: query images become ranked results.

One search is: embed the queries, ask the gallery for more than k, drop the query itself, re-rank, group, and ask for
more where too little is left; cut by score last. Each step keeps the order, and the answer is the one that ranking the
whole gallery would give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_search.datasets.records import BOOKKEEPING
from siamese_search.embedding import batches_of, embed_images
from siamese_search.errors import ImageError, ModelMismatchError, StoreError, UsageError
from siamese_search.gallery.contract import Gallery, Hit
from siamese_search.gallery.filters import Condition
from siamese_search.model.embedder import FlipEmbedder
from siamese_search.retrieval.grouping import Group, count_sightings, group_key, rank_groups
from siamese_search.retrieval.options import SearchOptions
from siamese_search.retrieval.query import Copies, Probe, SameImage, fuse, item_probe, push_away
from siamese_search.retrieval.ranking import Reranked, ranked, rerank_top
from siamese_search.retrieval.results import QueryResult, SearchResult

if TYPE_CHECKING:
    from siamese_search.model.embedder import Embedder

__all__ = ["QueryResult", "SearchResult", "Searcher"]

GroupBy = Literal["identity"]
Query = Path | str | NDArray[np.uint8] | bytes | Image.Image

#: Results whose points are in memory as the gallery gave them.
_HITS_AT_ONCE = 20_000

#: Payload fields with a place of their own in a result; everything else is metadata.
_RESERVED = BOOKKEEPING | {"identity", "camera"}


class Searcher:
    """Ranked retrieval from one open gallery with the model that filled it.

    Raises ModelMismatchError when the embedder is another model than the gallery's.
    """

    def __init__(self, gallery: Gallery, embedder: Embedder) -> None:
        if gallery.model.fingerprint != embedder.fingerprint or gallery.dim != embedder.dim:
            raise ModelMismatchError(
                f"gallery {gallery.name!r} holds vectors of model {gallery.model.fingerprint[:12]}"
                f" ({gallery.dim}-D), this model is {embedder.fingerprint[:12]} ({embedder.dim}-D);"
                " search with the gallery's own model or rebuild it with: sss reindex"
            )
        self.gallery = gallery
        self.embedder = embedder

    def answers(
        self, asked: Sequence[Probe | QueryResult], k: int, where: Sequence[Condition], options: SearchOptions
    ) -> Iterator[QueryResult]:
        """The k closest images (or identities) of each: of what :meth:`probes` made, or the caller. In order.

        An answer that is one already stays. Fewer than k come only when the gallery has no more that qualify; equal
        scores are ordered by point id. With ``rerank`` the first ``candidates`` under ``where``, without what
        ``exclude_self`` leaves out, are put into another order: ``min_score`` still leaves out by the score.
        Raises UsageError for k < 1, FilterError for an unknown field.
        """
        if k < 1:
            raise UsageError(f"k must be at least 1, not {k}")
        probes = [one for one in asked if isinstance(one, Probe)]
        rules = Rules(
            options.exclude_self,
            options.min_score,
            options.group_by,
            options.candidates if options.rerank else 0,
        )
        answered = self._answered(probes, k, where, rules)
        return (next(answered) if isinstance(one, Probe) else one for one in asked)

    def _answered(
        self, probes: Sequence[Probe], k: int, where: Sequence[Condition], rules: Rules
    ) -> Iterator[QueryResult]:
        """The answers, a few queries at a time: what the gallery says of a point is kept once for all of them."""
        known: dict[str, SearchResult] = {}
        step = max(1, _HITS_AT_ONCE // k)
        for start in range(0, len(probes), step):
            part = probes[start : start + step]
            for shown, probe in zip(self.rank(part, k, where, rules), part, strict=True):
                yield answer(shown, probe, rules, known)

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
        away, reasons = self._embed(unlike, flip)
        for image, reason in zip(unlike, reasons, strict=True):
            if reason is not None:
                raise ImageError(str(image) if isinstance(image, (str, Path)) else "image", reason)
        mixed = len(unlike) > 0 or (together and len(queries) + len(like) > 1)
        asked = self._embedded(queries, flip, mixed=mixed)
        asked += [item_probe(self.gallery, key) for key in like]
        if together and (probes := [one for one in asked if isinstance(one, Probe)]):
            asked = [fuse(probes), *(one for one in asked if not isinstance(one, Probe))]
        return [push_away(one, away) if isinstance(one, Probe) else one for one in asked]

    def _embedded(self, queries: Sequence[Query], flip: bool, *, mixed: bool) -> list[Probe | QueryResult]:
        """A probe per query, or the answer of one that cannot be read. mixed: scores are not similarities to it."""
        vectors, errors = self._embed(queries, flip)
        rows = iter(vectors)
        probes: list[Probe | QueryResult] = []
        for number, (query, error) in enumerate(zip(queries, errors, strict=True), start=1):
            path = Path(query) if isinstance(query, (str, Path)) else None
            name = f"image {number}" if path is None else str(path)
            if error is None:
                probes.append(Probe(name, path, next(rows), SameImage(path, any_score=mixed)))
            else:
                probes.append(QueryResult(name, path=path, error=error))
        return probes

    def _embed(self, queries: Sequence[Query], flip: bool) -> tuple[NDArray[np.float32], list[str | None]]:
        """The readable queries' vectors, float32 [n, d]; per query, why it is not among them."""
        embedder = FlipEmbedder(self.embedder) if flip else self.embedder
        vectors = [np.empty((0, self.gallery.dim), np.float32)]
        errors: list[str | None] = [None] * len(queries)
        for found in embed_images(batches_of(range(len(queries))), embedder, queries.__getitem__):
            vectors.append(found.vectors)
            for row, error in found.failures:
                if len(queries) == 1:
                    raise error
                errors[row] = error.reason
        return np.concatenate(vectors), errors

    def rank(self, probes: Sequence[Probe], k: int, where: Sequence[Condition], rules: Rules) -> list[Ranked]:
        """Per probe at most k groups; without grouping each holds one hit."""
        found: list[tuple[list[Group], Copies]]
        if rules.group_by:
            found = rank_groups(self.gallery, probes, k, where, rules.leaves_out)
        else:
            plain = ranked(self.gallery, probes, k, where, rules.leaves_out, below=rules.below)
            found = [([Group(hit) for hit in one.hits], one.copies) for one in plain]
        shown = []
        for (groups, copies), probe in zip(found, probes, strict=True):
            groups = [group for group in groups if not rules.below(group.best, probe)]
            shown.append(Ranked(groups, groups[0].best.score if groups else None, copies))
        if rules.candidates:
            reordered = rerank_top(self.gallery, probes, rules.candidates, where, rules.leaves_out)
            shown = [
                replace(one, groups=rules.merged(top, one.groups, probe)[:k], copies=one.copies | copies)
                for (top, copies), one, probe in zip(reordered, shown, probes, strict=True)
            ]
        if rules.group_by:
            left_out = [
                list(one.copies.hits.values()) if rules.leaves_out(probe) else []
                for one, probe in zip(shown, probes, strict=True)
            ]
            count_sightings(self.gallery, where, [one.groups for one in shown], left_out)
        return shown


@dataclass(frozen=True, slots=True)
class Ranked:
    """What is shown of a ranking. best: the highest score in it, which re-ranking may put further down than is shown.

    copies: the hits seen that show the query itself.
    """

    groups: list[Group]
    best: float | None
    copies: Copies


@dataclass(frozen=True, slots=True)
class Rules:
    """Which hits may appear. candidates: how many are re-ranked, 0 for none."""

    exclude_self: bool
    min_score: float | None
    group_by: GroupBy | None
    candidates: int = 0

    def leaves_out(self, probe: Probe) -> bool:
        return self.exclude_self or probe.never

    def below(self, hit: Hit, probe: Probe) -> bool:
        return self.min_score is not None and probe.scale * hit.score < self.min_score

    def merged(self, top: Reranked, plain: Sequence[Group], probe: Probe) -> list[Group]:
        """Re-ranked hits, grouped if that is asked for, and behind them what the plain ranking has besides."""
        groups: dict[str, Group] = {}
        key = group_key if self.group_by else (lambda hit: hit.id)
        for hit, value in top:
            if not self.below(hit, probe):
                groups.setdefault(key(hit), Group(hit, reranked=value))
        for group in plain:
            groups.setdefault(key(group.best), group)
        return list(groups.values())


def answer(
    shown: Ranked, probe: Probe, rules: Rules, known: dict[str, SearchResult] | None = None
) -> QueryResult:
    """What a probe's ranking is to whoever asked. known: what was made of points for other probes, by id."""
    known = {} if known is None else known
    results = tuple(
        _result(rank, group, probe, shown.copies, known) for rank, group in enumerate(shown.groups, start=1)
    )
    return QueryResult(
        probe.name,
        results,
        probe.path,
        shown.copies.identity,
        pairwise=probe.pairwise,
        best_score=None if shown.best is None else float(probe.scale * shown.best),
        candidates=rules.candidates or None,
    )


def _result(
    rank: int, group: Group, probe: Probe, copies: Copies, known: dict[str, SearchResult]
) -> SearchResult:
    best = group.best
    point = known.get(best.id)
    if point is None:
        metadata = {name: value for name, value in best.payload.items() if name not in _RESERVED}
        point = known[best.id] = SearchResult(
            0, 0.0, best.identity, best.camera, best.path, best.key, metadata, id=best.id, source=best.source
        )
    return replace(
        point,
        rank=rank,
        score=float(probe.scale * best.score),
        sightings=group.sightings,
        cameras=group.cameras,
        reranked=group.reranked,
        itself=best.id in copies.hits,
    )

"""search() and timeline(): queries asked of a gallery with the model that belongs to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from siamese_search.errors import GalleryReplacedError, UsageError, printable
from siamese_search.workspace import StrPath, open_to_read, place_of, query_images

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from siamese_search.gallery.filters import Condition, RawCondition
    from siamese_search.model.calibration import Calibration
    from siamese_search.retrieval.results import QueryResult
    from siamese_search.retrieval.searcher import Searcher
    from siamese_search.retrieval.timeline import Timeline

    Query = Path | NDArray[np.uint8]

Answer = TypeVar("Answer")


def search(
    *queries: StrPath | NDArray[np.uint8],
    k: int = 10,
    where: str | Sequence[str] = (),
    group_by: Literal["identity"] | None = None,
    exclude_self: bool = False,
    min_score: float | None = None,
    fmr: float | None = None,
    like: str | Sequence[str] = (),
    unlike: StrPath | Sequence[StrPath | NDArray[np.uint8]] = (),
    together: bool = False,
    flip: bool = False,
    rerank: bool = False,
    candidates: int = 200,
    store: StrPath | None = None,
    gallery: str | None = None,
    model: StrPath | None = None,
    threads: int | None = None,
) -> list[QueryResult]:
    """Rank a gallery's images by likeness to each query: an image file, a directory of them, or an array.

    Arrays are RGB uint8 [H, W, 3]. k: results per query. where: filters such as ``"camera=2"``, all of which
    must hold. group_by: ``"identity"`` keeps the best image of each. exclude_self: leave out the query file
    itself. min_score: lowest cosine similarity. The model is the gallery's own unless ``model`` names one. One that was
    calibrated (``evaluate(calibrate=True)``) says which results are matches: those that are at least as likely the
    same identity as not, given the size of the gallery; fmr: those that reach the threshold for this false match rate.

    like: keys of items of the gallery, as further queries. together: all queries show one target: one answer, by mean
    similarity. unlike: images that the results shall not resemble (half of the mean similarity to them is taken off).
    flip: embed each query image together with its mirror image. rerank: put the first ``candidates`` images of each
    ranking into the order of k-reciprocal re-ranking; scores stay cosine similarities.

    Returns one QueryResult per query image, in order; one that cannot be read has its ``error`` set.
    Raises UsageError (k < 1), FilterError, GalleryNotFoundError, StoreError, ModelMismatchError.
    """
    from siamese_search.retrieval.matching import mark, population

    if k < 1:
        raise UsageError(f"k is {k}; ask for at least 1 result")
    question = _question(queries, where, like, unlike, fmr, store, gallery, model, threads)

    def answer(
        searcher: Searcher, bound: Sequence[Condition], known: Calibration | None
    ) -> list[QueryResult]:
        answers = searcher.search(
            question.images,
            k,
            bound,
            exclude_self=exclude_self,
            min_score=min_score,
            group_by=group_by,
            like=question.keys,
            unlike=question.away,
            together=together,
            flip=flip,
            rerank=rerank,
            candidates=candidates,
        )
        return answers if known is None else mark(answers, known, fmr, population(searcher.gallery, bound))

    return question.ask(answer)


def timeline(
    *queries: StrPath | NDArray[np.uint8],
    k: int | None = None,
    time_field: str | None = None,
    where: str | Sequence[str] = (),
    exclude_self: bool = False,
    min_score: float | None = None,
    fmr: float | None = None,
    like: str | Sequence[str] = (),
    unlike: StrPath | Sequence[StrPath | NDArray[np.uint8]] = (),
    together: bool = False,
    flip: bool = False,
    rerank: bool = False,
    candidates: int = 200,
    store: StrPath | None = None,
    gallery: str | None = None,
    model: StrPath | None = None,
    threads: int | None = None,
) -> list[Timeline]:
    """When and where each query's nearest identity was seen: all its images in the gallery, in the order of time.

    time_field: the field that holds the time; by default the first of ``time``, ``timestamp``, ``datetime``, ``date``
    and ``frame`` that the gallery has. k: list at most so many, the nearest; by default 1,000. Everything else is as
    in :func:`search`. Labels decide what belongs to the identity; a calibrated model marks each
    image match or no match.

    Where the nearest image has no identity, it is the images themselves that are put in order: those that match, or
    without a calibration the k nearest (10).

    Returns one :class:`~siamese_search.retrieval.timeline.Timeline` per query image, in order.
    Raises UsageError where there is no such field and as :func:`search`.
    """
    from siamese_search.retrieval.follow import FollowRequest, follow
    from siamese_search.retrieval.timeline import choose_field

    if k is not None and k < 1:
        raise UsageError(f"k is {k}; ask for at least 1 result")
    question = _question(queries, where, like, unlike, fmr, store, gallery, model, threads)

    def answer(searcher: Searcher, bound: Sequence[Condition], known: Calibration | None) -> list[Timeline]:
        request = FollowRequest(
            choose_field(searcher.gallery.fields(), time_field),
            k,
            exclude_self=exclude_self,
            min_score=min_score,
            fmr=fmr,
            candidates=candidates if rerank else 0,
        )
        asked = searcher.probes(question.images, question.keys, question.away, together=together, flip=flip)
        return follow(searcher, asked, request, bound, known)

    return question.ask(answer)


@dataclass(frozen=True)
class _Question:
    """What is asked, and of which gallery."""

    images: list[Query]
    keys: list[str]
    away: list[Query]
    where: Sequence[RawCondition]
    fmr: float | None
    place: tuple[str, str]
    model: StrPath
    threads: int

    def ask(
        self, answer: Callable[[Searcher, Sequence[Condition], Calibration | None], list[Answer]]
    ) -> list[Answer]:
        from siamese_search.gallery.filters import bind
        from siamese_search.retrieval.matching import check_fmr
        from siamese_search.retrieval.searcher import Searcher

        def once() -> list[Answer]:
            with open_to_read(*self.place, self.model, self.threads) as (opened, embedder, bundle):
                check_fmr(bundle.calibration, self.fmr, printable(bundle.name))
                bound = bind(self.where, opened.fields()) if self.where else []
                return answer(Searcher(opened, embedder), bound, bundle.calibration)

        try:
            return once()
        except (
            GalleryReplacedError
        ):  # its generation was replaced and deleted meanwhile: all from the new one then
            return once()


def _question(
    queries: Sequence[StrPath | NDArray[np.uint8]],
    where: str | Sequence[str],
    like: str | Sequence[str],
    unlike: StrPath | Sequence[StrPath | NDArray[np.uint8]],
    fmr: float | None,
    store: StrPath | None,
    gallery: str | None,
    model: StrPath | None,
    threads: int | None,
) -> _Question:
    from siamese_search.gallery.filters import parse_where
    from siamese_search.settings import load_settings

    conditions = parse_where([where] if isinstance(where, str) else list(where))
    images = [image for query in queries for image in query_images(query)]
    keys = [like] if isinstance(like, str) else list(like)
    if not images and not keys:
        raise UsageError("nothing to search for; give at least one query image")
    others = [unlike] if isinstance(unlike, (str, os.PathLike)) else list(unlike)
    settings = load_settings()
    return _Question(
        images,
        keys,
        [image for other in others for image in query_images(other)],
        conditions,
        fmr,
        place_of(settings, store, gallery),
        settings.model if model is None else model,
        settings.threads if threads is None else threads,
    )

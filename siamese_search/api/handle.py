"""A gallery that stays open: ``sss.open()`` gives a handle, and its second search loads nothing again."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, TypeVar, overload

from siamese_search import api, render
from siamese_search.errors import GalleryReplacedError, UsageError, printable
from siamese_search.gallery import open_gallery
from siamese_search.gallery.checks import why_nothing
from siamese_search.gallery.contract import Gallery as Opened
from siamese_search.gallery.filters import Where, parse_where
from siamese_search.gallery.times import bind_to
from siamese_search.io.resources import Closing
from siamese_search.model.bundle import Bundle
from siamese_search.model.embedder import Embedder
from siamese_search.options import request
from siamese_search.retrieval.judging import NOT_FLIPPED, Judge, check_fmr, judge_in, mark
from siamese_search.retrieval.options import SearchOptions, TimelineOptions
from siamese_search.retrieval.query import Probe
from siamese_search.retrieval.results import QueryResult
from siamese_search.retrieval.searcher import Searcher
from siamese_search.retrieval.timeline import Timeline, choose_field, follow
from siamese_search.settings import load_settings
from siamese_search.workspace import Query, Reader, StrPath, place_of, query_images

if TYPE_CHECKING:
    from pandas import DataFrame

    from ingest.summary import IngestSummary
    from siamese_search.api.curation import LabelSummary
    from siamese_search.api.evaluation import CalibrationSummary
    from siamese_search.curation.duplicates import Group
    from siamese_search.curation.identities import Proposals
    from siamese_search.evaluation.report import EvaluationReport

Answer = TypeVar("Answer")
Found = TypeVar("Found")

_log = logging.getLogger(__name__)


class GalleryHandle(Closing):
    """One gallery, its model and its threads, for many calls. Made by :func:`open`; use it as a context manager.

    The methods are the functions of :mod:`siamese_search` without ``store``, ``gallery``, ``model`` and ``threads``.
    Between calls others may write: an embedded gallery gives way, and after a re-index the next call is of the new
    generation. Calls from several threads take turns. After :meth:`close` every call raises UsageError.
    """

    def __init__(
        self,
        store: StrPath | None = None,
        gallery: str | None = None,
        model: StrPath | None = None,
        threads: int | None = None,
    ) -> None:
        settings = load_settings()
        self.store, self.gallery = place_of(settings, store, gallery)
        self._model = settings.model if model is None else os.fspath(model)
        self._threads = settings.threads if threads is None else threads
        self._reader = Reader(self.store, self.gallery, self._model, self._threads)
        self._turn = threading.RLock()
        self._closed = False
        self._judged: tuple[tuple[str | None, float | None], Judge] | None = None

    @classmethod
    def of(cls, options: SearchOptions) -> Self:
        """The handle that a single search needs."""
        return cls(options.store, options.gallery, options.model, options.threads)

    @request(SearchOptions)
    def search(self, *queries: Query, options: SearchOptions) -> Results:
        """As :func:`siamese_search.search`."""
        return Results(self._ask(options, _search(queries, options), list))

    @request(SearchOptions)
    def stream(self, *queries: Query, options: SearchOptions) -> Iterator[QueryResult]:
        """The answers of :meth:`search` as they are found: few are in memory. Ask nothing else before the last.

        Raises GalleryReplacedError where the gallery's generation is replaced and deleted before the last.
        """
        begun = lambda answers: chain(list(islice(answers, 1)), answers)  # noqa: E731 - what fails at first is tried again
        return self._ask(options, _search(queries, options), begun)

    @request(TimelineOptions)
    def timeline(self, *queries: Query, options: TimelineOptions) -> list[Timeline]:
        """As :func:`siamese_search.timeline`."""
        probes = _probes(queries, options)

        def answer(searcher: Searcher, bound: Where, judge: Judge) -> list[Timeline]:
            field = choose_field(searcher.gallery.fields(), options.time_field)
            return follow(searcher, probes(searcher), field, options, bound, judge)

        return self._ask(options, answer, list)

    def ingest(self, *directories: StrPath, **options: Any) -> IngestSummary:
        """As :func:`siamese_search.ingest`; the gallery is made where there is none."""
        with self._mine("ingest", options):
            return api.ingest(*directories, **self._place(), model=self._model, threads=self._threads, **options)

    def evaluate(self, data: StrPath | None = None, **options: Any) -> EvaluationReport:
        """As :func:`siamese_search.evaluate`, of the model whose vectors the gallery holds."""
        with self._mine("evaluate", options):
            return api.evaluate(data, model=self._reader.now()[2].path, threads=self._threads, **options)

    def identities(self, **options: Any) -> Proposals:
        """As :func:`siamese_search.propose_identities`."""
        with self._mine("identities", options):
            return api.propose_identities(**self._place(), model=self._model, **options)

    def label(self, table: StrPath, **options: Any) -> LabelSummary:
        """As :func:`siamese_search.label`."""
        with self._mine("label", options):
            return api.label(table, **self._place(), **options)

    def calibrate(self, **options: Any) -> CalibrationSummary:
        """As :func:`siamese_search.calibrate`."""
        with self._mine("calibrate", options):
            return api.calibrate(**self._place(), **options)

    def duplicates(self, **options: Any) -> list[Group]:
        """As :func:`siamese_search.duplicates`."""
        with self._mine("duplicates", options):
            return api.duplicates(**self._place(), **options)

    def export(self, out: StrPath, **options: Any) -> dict[str, Any]:
        """As :func:`siamese_search.export`."""
        with self._mine("export", options):
            return api.export(out, **self._place(), **options)

    def info(self) -> dict[str, Any]:
        """As :func:`siamese_search.describe`, of this gallery."""
        with self._mine("info", {}):
            return api.describe(**self._place(), model=self._model)

    def reading(self, work: Callable[[Opened, Embedder, Bundle], Found]) -> Found:
        """What ``work`` makes of the open gallery, its network and its bundle, in this handle's turn.

        ``work`` may be called twice: a generation that is replaced and deleted meanwhile is left for the new one.
        """
        with self._mine("reading", {}):
            try:
                return work(*self._reader.now())
            except GalleryReplacedError:
                self._reader.release()
                return work(*self._reader.now())

    def writing(self, work: Callable[[Opened], Found]) -> Found:
        """What ``work`` makes of the gallery, opened for writing."""
        with self._mine("writing", {}), open_gallery(self.store, self.gallery, mode="w") as opened:
            return work(opened)

    def close(self) -> None:
        """Release the gallery and the network. Safe to call twice."""
        with self._turn:
            self._closed = True
            self._reader.close()

    def __repr__(self) -> str:
        closed = ", closed" if self._closed else ""
        return f"<gallery {self.gallery!r} in {printable(self.store)}{closed}>"

    def _place(self) -> dict[str, Any]:
        return {"store": self.store, "gallery": self.gallery}

    def _mine(self, verb: str, options: Mapping[str, Any]) -> AbstractContextManager[Any]:
        """The turn of a call, to be held; raises TypeError for what the handle itself says."""
        own = {**self._place(), "model": self._model, "threads": self._threads}
        for name in own.keys() & options.keys():
            if options[name] is not None and str(options[name]) != str(own[name]):
                raise TypeError(f"{verb}() of an open gallery has no option {name!r}: sss.open() was told it")
        with self._turn:
            if self._closed:
                raise UsageError(f"the gallery {self.gallery!r} in {printable(self.store)} was closed; open it again")
        return self._turn

    def judge(self, opened: Opened, bundle: Bundle, options: SearchOptions) -> Judge:
        """Who says match or no match in a search. Kept while nobody writes, for it looks at some of the vectors."""
        if options.flip:
            return Judge(None, why=NOT_FLIPPED)
        mark = opened.write_mark()
        if mark is None or self._judged is None or self._judged[0] != (mark, options.prior):
            self._judged = (mark, options.prior), judge_in(opened, bundle, options.prior)
        return self._judged[1]

    def _ask(
        self,
        options: SearchOptions,
        answer: Callable[[Searcher, Where, Judge], Iterable[Answer]],
        take: Callable[[Iterator[Answer]], Found],
    ) -> Found:
        conditions = parse_where(options.where)

        def ask(opened: Opened, embedder: Embedder, bundle: Bundle) -> Iterator[Answer]:
            judge = self.judge(opened, bundle, options)
            check_fmr(judge, options.fmr, printable(bundle.name))
            bound = bind_to(opened, conditions)
            empty, read = True, False
            for one in answer(Searcher(opened, embedder), bound, judge):
                found: Any = getattr(one, "answer", one)  # of a timeline
                empty, read = empty and not found.results, read or found.error is None
                yield one
            if bound and empty and read and (reason := why_nothing(opened, conditions, bound)):
                _log.warning("%s", reason)

        own = {name: getattr(options, name) for name in ("store", "gallery", "model", "threads")}
        with self._mine("search", own):
            return self.reading(lambda *now: take(ask(*now)))  # all from one generation


def _search(
    queries: Sequence[Query], options: SearchOptions
) -> Callable[[Searcher, Where, Judge], Iterator[QueryResult]]:
    probes = _probes(queries, options)

    def answer(searcher: Searcher, bound: Where, judge: Judge) -> Iterator[QueryResult]:
        asked = probes(searcher)
        images = searcher.gallery.count(bound) if judge.calibration is not None else 0
        for one in searcher.answers(asked, options.k or 0, bound, options):
            yield from mark([one], judge, options.fmr, images)

    return answer


Gallery = GalleryHandle


def open(
    store: StrPath | None = None,
    gallery: str | None = None,
    *,
    model: StrPath | None = None,
    threads: int | None = None,
) -> GalleryHandle:
    """Keep a gallery and its model at hand for many calls::

        with sss.open(".sss") as people:
            for photo in photos:
                print(people.search(photo, k=1)[0].results)

    Nothing is loaded before the first call needs it, so the gallery need not exist yet: ``ingest`` makes it.
    """
    return GalleryHandle(store, gallery, model, threads)


def _probes(queries: Sequence[Query], options: SearchOptions) -> Callable[[Searcher], list[Probe | QueryResult]]:
    """What is asked for, checked, as :meth:`Searcher.probes` will make it. Raises UsageError where that is nothing."""
    if options.k is not None and options.k < 1:
        raise UsageError(f"k is {options.k}; ask for at least 1 result")
    images = [image for query in queries for image in query_images(query, alone=len(queries) == 1)]
    keys = [options.like] if isinstance(options.like, str) else list(options.like)
    if not images and not keys:
        raise UsageError("nothing to search for; give at least one query image")
    unlike = [options.unlike] if isinstance(options.unlike, (str, os.PathLike)) else list(options.unlike)
    away = [image for one in unlike for image in query_images(one)]
    return lambda searcher: searcher.probes(images, keys, away, together=options.together, flip=options.flip)


class Results(list[QueryResult]):
    """One answer per query. In a notebook it shows thumbnails; a slice of it does so, too."""

    def to_frame(self) -> DataFrame:
        """The rows of all answers, each as of :meth:`~siamese_search.QueryResult.to_frame`."""
        from pandas import concat

        return concat([one.to_frame() for one in self] or [QueryResult("").to_frame()], ignore_index=True)

    def _repr_html_(self) -> str:
        return render.results_html(self)

    @overload
    def __getitem__(self, at: SupportsIndex) -> QueryResult: ...
    @overload
    def __getitem__(self, at: slice) -> Results: ...
    def __getitem__(self, at: Any) -> QueryResult | Results:
        found = super().__getitem__(at)
        return Results(found) if isinstance(found, list) else found

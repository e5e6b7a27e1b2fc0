"""What is asked of a gallery, with the model that belongs to it: searches, timelines, maps; and two images compared."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from siamese_search.api.handle import GalleryHandle, Results
from siamese_search.errors import (
    DataError,
    GalleryNotFoundError,
    GalleryReplacedError,
    ModelMismatchError,
    UsageError,
    amount,
    printable,
)
from siamese_search.gallery.checks import Sample, sample, why_nothing
from siamese_search.gallery.filters import parse_where
from siamese_search.gallery.times import bind_to
from siamese_search.model.bundle import Bundle, load_bundle
from siamese_search.options import request
from siamese_search.retrieval.comparison import Comparison
from siamese_search.retrieval.comparison import compare as score
from siamese_search.retrieval.judging import Judge, check_fmr, judge_alone, judge_in
from siamese_search.retrieval.map import GalleryMap, MapPoint
from siamese_search.retrieval.options import CompareOptions, MapOptions, SearchOptions, TimelineOptions
from siamese_search.retrieval.timeline import Timeline
from siamese_search.settings import load_settings
from siamese_search.vectors.projection import METHODS, best_method, project
from siamese_search.workspace import (
    Query,
    StrPath,
    load,
    model_of,
    path_text,
    query_images,
    reference,
    store_in_use,
    threads_in_use,
)

Answer = TypeVar("Answer")


@request(SearchOptions)
def search(*queries: Query, options: SearchOptions) -> Results:
    """Rank a gallery's images by likeness to each query: an image file, a directory of them, or an image.

    An image in memory is an array, RGB uint8 [H, W, 3], a ``PIL.Image``, or the bytes of a file. A calibrated gallery
    or model says which results are matches: those at least as likely the same identity as not, or those that reach the
    threshold of ``fmr``. Of ``unlike`` images half of the mean similarity is taken off. Scores stay cosine
    similarities, re-ranked or not.

    Returns one QueryResult per query image, in order; one that cannot be read has its ``error`` set. A notebook shows
    them as pictures. Many searches, one after the other, are faster through :func:`siamese_search.open`. Raises
    UsageError, FilterError, GalleryNotFoundError, StoreError, ModelMismatchError.
    """
    with GalleryHandle.of(options) as handle:
        return handle.search(*queries, options=options)


@request(TimelineOptions)
def timeline(*queries: Query, options: TimelineOptions) -> list[Timeline]:
    """When and where each query's nearest identity was seen: all its images in the gallery, in the order of time.

    Labels decide what belongs to the identity; a calibrated model marks each image match or no match. Where the nearest
    image has no identity, the images themselves are put in order: those that match, or without a calibration the k
    nearest (10).

    Returns one :class:`~siamese_search.retrieval.timeline.Timeline` per query image, in order. Raises UsageError where
    there is no field of times, and as :func:`search`.
    """
    with GalleryHandle.of(options) as handle:
        return handle.timeline(*queries, options=options)


@request(CompareOptions)
def compare(a: StrPath, b: StrPath, *, options: CompareOptions) -> Comparison:
    """Score every pair of an image of ``a`` and one of ``b``: image files, or directories of them.

    A pair has the probability that a search in the same gallery gives it; without one by this model it is that of the
    model's own calibration and a prior of 0.01. Without any the scores come undecided. Raises UsageError (``fmr`` and
    ``threshold``, or a rate that nothing here can give), ImageError, DataError, BundleError.
    """
    if options.fmr is not None and options.threshold is not None:
        raise UsageError("give either a false match rate or a threshold, not both")
    bundle, found = _judge_in_use(options)
    check_fmr(found or Judge(bundle.calibration), options.fmr, printable(bundle.name))
    left, right = (
        [path for path in query_images(path_text(side, "what is compared")) if isinstance(path, Path)]
        for side in (a, b)
    )
    return score(
        left,
        right,
        load(bundle, "cpu", threads_in_use(options.threads)),
        lambda vectors: found or judge_alone(bundle.calibration, vectors, options.prior),
        threshold=options.threshold,
        false_match_rate=options.fmr,
    )


def _judge_in_use(options: CompareOptions) -> tuple[Bundle, Judge | None]:
    """The model to compare with, and the judge of the gallery in use, where there is one of that model.

    A gallery that was named must be there, and of the model that was named; one that was not need be neither.
    """
    named = load_settings().model if options.model is None else os.fspath(options.model)
    bundle = load_bundle(named) if named else None
    wanted = options.store is not None or options.gallery is not None
    model = None if bundle is None else reference(bundle)
    try:
        with store_in_use(options.store, options.gallery) as (store, name), store.open(name, model=model) as opened:
            bundle = bundle or model_of(opened.model)
            if wanted or opened.count():
                return bundle, judge_in(opened, bundle, options.prior)
    except (GalleryNotFoundError, ModelMismatchError):
        if wanted:
            raise
    return bundle or load_bundle(None), None


@request(MapOptions)
def map_gallery(*, options: MapOptions, notify: Callable[[str], None] | None = None) -> GalleryMap:
    """Place a gallery's images on a plane by their stored vectors; no image is embedded and no model needed.

    notify: is told what will be done before it takes its time. Raises DataError (no images), FilterError, UsageError
    (an unknown field, too few images for the method), MissingExtraError, GalleryNotFoundError, StoreError.
    """
    color, method = options.color, options.method
    conditions = parse_where(options.where)

    def ask() -> tuple[Sample, str, str, str]:
        with store_in_use(options.store, options.gallery) as (store, name), store.open(name) as opened:
            fields = opened.fields()
            if color not in fields and color not in ("identity", "camera"):
                known = ", ".join(sorted({*fields, "identity", "camera"}))
                raise UsageError(f"there is no field {printable(color)!r} to colour by; known fields: {known}")
            bound = bind_to(opened, conditions)
            model = opened.model.name or opened.model.fingerprint[:12]
            found = sample(opened, bound, options.limit, options.seed)
            if not found.points and bound:
                raise DataError(f"nothing to plot: {why_nothing(opened, conditions, bound)}")
            return found, model, store.location, name

    try:
        found, model, place, name = ask()
    except GalleryReplacedError:  # its generation was replaced and deleted meanwhile
        found, model, place, name = ask()
    if not found.points:
        raise DataError(f"gallery {name!r} has no images to plot")
    chosen = best_method(len(found.points)) if method is None else method
    if notify is not None:
        count = amount(len(found.points), "image")
        if found.total > len(found.points):
            count = f"{len(found.points):,} of {amount(found.total, 'image')} (at random; --limit takes more)"
        notify(f"laying out {count} by {METHODS.get(chosen, chosen)}")
    vectors = np.stack([point.vector for point in found.points if point.vector is not None]).astype(np.float32)
    return GalleryMap(
        gallery=name,
        store=place,
        model=model,
        method=chosen,
        seed=options.seed,
        color=color,
        total=found.total,
        points=tuple(
            MapPoint(one.key, one.source, one.path, one.identity, one.camera, one.payload.get(color), one.id)
            for one in found.points
        ),
        places=project(vectors, chosen, options.seed),
    )

"""What is asked of a gallery, with the model that belongs to it: searches, timelines, maps; and two images compared."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from siamese_search.api.handle import GalleryHandle
from siamese_search.api.results import Results
from siamese_search.errors import DataError, GalleryReplacedError, UsageError, printable
from siamese_search.options import request
from siamese_search.retrieval.options import CompareOptions, MapOptions, SearchOptions, TimelineOptions
from siamese_search.workspace import StrPath, load, path_text, place_of, query_images

if TYPE_CHECKING:
    from siamese_search.gallery.checks import Sample
    from siamese_search.gallery.contract import StoredPoint
    from siamese_search.model.bundle import Bundle
    from siamese_search.retrieval.comparison import Comparison
    from siamese_search.retrieval.judging import Judge
    from siamese_search.retrieval.map import GalleryMap, MapPoint
    from siamese_search.retrieval.timeline import Timeline
    from siamese_search.settings import Settings
    from siamese_search.workspace import Query


Answer = TypeVar("Answer")


@request(SearchOptions)
def search(*queries: Query, options: SearchOptions) -> Results:
    """Rank a gallery's images by likeness to each query: an image file, a directory of them, or an image.

    An image in memory is an array, RGB uint8 [H, W, 3], a ``PIL.Image``, or the bytes of a file. k: results per query.
    where: filters such as ``"camera=2"``, all of which must hold. group_by: ``"identity"`` keeps the best image of
    each. exclude_self: leave out the query file itself. min_score: lowest cosine similarity. The model is the gallery's
    own unless ``model`` names one. One that was
    calibrated (``evaluate(calibrate=True)``) says which results are matches: those that are at least as likely the
    same identity as not, given the size of the gallery; fmr: those that reach the threshold for this false match rate.

    like: keys of items of the gallery, as further queries. together: all queries show one target: one answer, by mean
    similarity. unlike: images that the results shall not resemble (half of the mean similarity to them is taken off).
    flip: embed each query image together with its mirror image. rerank: put the first ``candidates`` images of each
    ranking into the order of k-reciprocal re-ranking; scores stay cosine similarities.

    Returns one QueryResult per query image, in order; one that cannot be read has its ``error`` set. A notebook shows
    the list as pictures.
    Many searches, one after the other, are faster through :func:`siamese_search.open`.
    Raises UsageError (k < 1), FilterError, GalleryNotFoundError, StoreError, ModelMismatchError.
    """
    with GalleryHandle.of(options) as handle:
        return handle.search(*queries, options=options)


@request(TimelineOptions)
def timeline(*queries: Query, options: TimelineOptions) -> list[Timeline]:
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
    with GalleryHandle.of(options) as handle:
        return handle.timeline(*queries, options=options)


@request(CompareOptions)
def compare(a: StrPath, b: StrPath, *, options: CompareOptions) -> Comparison:
    """Score every pair of an image of ``a`` and one of ``b``: image files, or directories of them.

    A pair has the probability that a search in the same gallery gives it: calibration and prior are the gallery's,
    where there is one of this model; else the model's own calibration and a prior of 0.01. It need not hold them.
    model: a bundle (default: the settings', else the gallery's own, else the bundled one). fmr: false match rate of the
    threshold; threshold: a cosine similarity instead. Without any the scores come undecided.
    Raises UsageError (both given, or a rate that nothing here can give), ImageError, DataError, BundleError.
    """
    from siamese_search.retrieval.comparison import compare as score
    from siamese_search.retrieval.judging import Judge, judge_alone
    from siamese_search.retrieval.matching import check_fmr
    from siamese_search.settings import load_settings

    if options.fmr is not None and options.threshold is not None:
        raise UsageError("give either a false match rate or a threshold, not both")
    settings = load_settings()
    bundle, found = _judge_in_use(settings, options)
    check_fmr(found or Judge(bundle.calibration), options.fmr, printable(bundle.name))
    left, right = (
        [path for path in query_images(path_text(side, "what is compared")) if isinstance(path, Path)]
        for side in (a, b)
    )
    return score(
        left,
        right,
        load(bundle, "cpu", settings.threads if options.threads is None else options.threads),
        lambda vectors: found or judge_alone(bundle.calibration, vectors, options.prior),
        threshold=options.threshold,
        false_match_rate=options.fmr,
    )


def _judge_in_use(settings: Settings, options: CompareOptions) -> tuple[Bundle, Judge | None]:
    """The model to compare with, and the judge of the gallery in use, where there is one of that model.

    A gallery that was named must be there, and of the model that was named; one that was not need be neither.
    """
    from siamese_search.errors import GalleryNotFoundError, ModelMismatchError
    from siamese_search.gallery.opening import open_gallery
    from siamese_search.model.bundle import load_bundle
    from siamese_search.retrieval.judging import judge_in
    from siamese_search.workspace import model_of, reference

    named = settings.model if options.model is None else os.fspath(options.model)
    bundle = load_bundle(named) if named else None
    place, name = place_of(settings, options.store, options.gallery)
    wanted = options.store is not None or options.gallery is not None
    try:
        with open_gallery(place, name, model=None if bundle is None else reference(bundle)) as opened:
            bundle = bundle or model_of(opened.model)
            if wanted or opened.count():
                return bundle, judge_in(opened, bundle.calibration, options.prior)
    except (GalleryNotFoundError, ModelMismatchError):
        if wanted:
            raise
    return bundle or load_bundle(None), None


@request(MapOptions)
def map_gallery(
    *,
    options: MapOptions,
    notify: Callable[[str], None] | None = None,
) -> GalleryMap:
    """Place a gallery's images on a plane by their stored vectors; no image is embedded and no model needed.

    method: ``pca``, ``tsne`` or ``umap``; by default t-SNE where scikit-learn is installed, else PCA. where: filters,
    as for a search. limit: at most so many images, drawn at random by ``seed`` where there are more. color: the payload
    field to colour by. notify: is told what will be done before it takes its time.

    Raises DataError (no images), FilterError, UsageError (an unknown field or method, too few images for the method),
    MissingExtraError, GalleryNotFoundError, StoreError.
    """
    import numpy as np

    from siamese_search.gallery.checks import sample, why_nothing
    from siamese_search.gallery.filters import parse_where
    from siamese_search.gallery.opening import open_gallery
    from siamese_search.gallery.times import bind_to
    from siamese_search.retrieval.map import GalleryMap
    from siamese_search.settings import load_settings
    from siamese_search.vectors.projection import METHODS, best_method, project

    where, color, method = options.where, options.color, options.method
    conditions = parse_where([where] if isinstance(where, str) else list(where))
    place, name = place_of(load_settings(), options.store, options.gallery)

    def ask() -> tuple[Sample, str]:
        with open_gallery(place, name) as opened:
            fields = opened.fields()
            if color not in fields and color not in ("identity", "camera"):
                known = ", ".join(sorted({*fields, "identity", "camera"}))
                raise UsageError(
                    f"there is no field {printable(color)!r} to colour by; known fields: {known}"
                )
            bound = bind_to(opened, conditions)
            model = opened.model.name or opened.model.fingerprint[:12]
            found = sample(opened, bound, options.limit, options.seed)
            if not found.points and bound:
                raise DataError(f"nothing to plot: {why_nothing(opened, conditions, bound)}")
            return found, model

    try:
        found, model = ask()
    except GalleryReplacedError:  # its generation was replaced and deleted meanwhile
        found, model = ask()
    if not found.points:
        raise DataError(f"gallery {name!r} has no images to plot")
    chosen = best_method(len(found.points)) if method is None else method
    if notify is not None:
        count = f"{len(found.points):,} images"
        if found.total > len(found.points):
            count = f"{len(found.points):,} of {found.total:,} images (at random; --limit takes more)"
        notify(f"laying out {count} by {METHODS.get(chosen, chosen)}")
    vectors = np.stack([point.vector for point in found.points if point.vector is not None]).astype(
        np.float32
    )
    return GalleryMap(
        gallery=name,
        store=place,
        model=model,
        method=chosen,
        seed=options.seed,
        color=color,
        total=found.total,
        points=tuple(_point(point, color) for point in found.points),
        places=project(vectors, chosen, options.seed),
    )


def _point(point: StoredPoint, color: str) -> MapPoint:
    from siamese_search.retrieval.map import MapPoint

    return MapPoint(
        key=point.key,
        source=point.source,
        path=point.path,
        identity=point.identity,
        camera=point.camera,
        value=point.payload.get(color),
        id=point.id,
    )

"""map_gallery(): a gallery's stored vectors on a plane, as ``sss plot`` draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from siamese_search.errors import DataError, GalleryReplacedError, UsageError, printable
from siamese_search.workspace import StrPath, place_of

if TYPE_CHECKING:
    from siamese_search.gallery.checks import Sample
    from siamese_search.retrieval.map import GalleryMap, MapPoint


def map_gallery(
    *,
    store: StrPath | None = None,
    gallery: str | None = None,
    method: str | None = None,
    where: str | Sequence[str] = (),
    limit: int = 2000,
    color: str = "identity",
    seed: int = 0,
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

    from siamese_search.gallery.checks import sample
    from siamese_search.gallery.filters import bind, parse_where
    from siamese_search.gallery.opening import open_gallery
    from siamese_search.retrieval.map import GalleryMap
    from siamese_search.settings import load_settings
    from siamese_search.vectors.projection import METHODS, best_method, project

    if limit < 1:
        raise UsageError(f"the limit is {limit}; ask for at least 1 image")
    conditions = parse_where([where] if isinstance(where, str) else list(where))
    place, name = place_of(load_settings(), store, gallery)

    def ask() -> tuple[Sample, str]:
        with open_gallery(place, name) as opened:
            fields = opened.fields()
            if color not in fields and color not in ("identity", "camera"):
                known = ", ".join(sorted({*fields, "identity", "camera"}))
                raise UsageError(
                    f"there is no field {printable(color)!r} to colour by; known fields: {known}"
                )
            bound = bind(conditions, fields) if conditions else []
            model = opened.model.name or opened.model.fingerprint[:12]
            return sample(opened, bound, limit, seed), model

    try:
        found, model = ask()
    except GalleryReplacedError:  # its generation was replaced and deleted meanwhile
        found, model = ask()
    if not found.points:
        raise DataError(
            f"gallery {name!r} has no images{' that meet the filters' if conditions else ''} to plot"
        )
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
        seed=seed,
        color=color,
        total=found.total,
        points=tuple(_point(point.payload, color) for point in found.points),
        places=project(vectors, chosen, seed),
    )


def _point(payload: dict[str, Any], color: str) -> MapPoint:
    from siamese_search.datasets.records import decode_key
    from siamese_search.io.location import located
    from siamese_search.retrieval.map import MapPoint

    identity, camera = payload.get("identity"), payload.get("camera")
    return MapPoint(
        key=str(payload.get("key", "")),
        source=str(payload.get("source", "")),
        path=located(decode_key(str(payload.get("path", "")))),
        identity=None if identity is None else str(identity),
        camera=None if camera is None else str(camera),
        value=payload.get(color),
    )

"""Identities, their sightings, and who is likely the same; facets; the images themselves."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from siamese_search.api.handle import GalleryHandle
from siamese_search.curation.identities import mean_similarity
from siamese_search.datasets.records import NO_METADATA, RESERVED_IDENTITIES, label_text
from siamese_search.errors import NotThereError, UsageError, printable
from siamese_search.gallery.checks import vector_of
from siamese_search.gallery.contract import Gallery, StoredPoint
from siamese_search.gallery.filters import Condition, Where, parse_where
from siamese_search.gallery.payload import read_labelled
from siamese_search.gallery.times import bind_to, moment
from siamese_search.io.images import read_image
from siamese_search.model.bundle import Bundle
from siamese_search.model.embedder import Embedder
from siamese_search.retrieval.judging import mark
from siamese_search.retrieval.options import SearchOptions
from siamese_search.retrieval.query import fuse, point_probe
from siamese_search.retrieval.ranking import natural, people_of
from siamese_search.retrieval.results import QueryResult, SearchResult
from siamese_search.retrieval.searcher import Searcher
from siamese_search.retrieval.timeline import arrange, choose_field
from siamese_search.web.answers import Facet, IdentitySummary, IdentityView, Picture, Sighting, Suggestion
from siamese_search.web.searching import encoded, images_of_known, point_of

_ALL = 2**31 - 1
#: Values of a field that are read to find its lowest and highest; of more there is neither.
_MOST_VALUES = 50_000
#: Sightings of one identity that are compared with each other.
_MOST_SIGHTINGS = 5000


def sighting_of(point: StoredPoint, *, when: str | None = None, similarity: float | None = None) -> Sighting:
    """A stored point as the pages show it."""
    return Sighting(
        point.id, point.key, point.source, str(point.path), point.identity, point.camera, point.metadata,
        when, similarity, read_labelled(point.payload),
    )  # fmt: skip


class Holdings:
    """What is in the gallery: its fields, identities and images."""

    def __init__(self, handle: GalleryHandle) -> None:
        self._handle = handle

    def facets(self, where: Sequence[str] = (), *, values: int = 20) -> list[Facet]:
        """The fields to narrow by, identity and camera first; counts under ``where``."""
        raw = parse_where(where)

        def answer(gallery: Gallery, _embedder: Embedder, _bundle: Bundle) -> list[Facet]:
            bound, fields = bind_to(gallery, raw), gallery.fields()
            names: list[str] = [name for name in ("identity", "camera") if name in fields]
            names += sorted(set(fields) - NO_METADATA)
            total = gallery.count(bound)
            return [_facet(gallery, name, fields[name], bound, values, total) for name in names]

        return self._handle.reading(answer)

    def identities(
        self, text: str = "", *, where: Sequence[str] = (), start: int = 0, limit: int = 60
    ) -> tuple[list[IdentitySummary], int]:
        """A page of the identities whose name contains ``text``, most images first, and how many there are."""
        raw = parse_where(where)

        def answer(gallery: Gallery, _embedder: Embedder, _bundle: Bundle) -> tuple[list[IdentitySummary], int]:
            if "identity" not in gallery.fields():
                return [], 0
            bound = bind_to(gallery, raw)
            wanted = text.strip().casefold()
            counts = gallery.facet("identity", bound, limit=_ALL)
            names = [name for name in people_of(gallery, counts) if wanted in str(name).casefold()]
            names.sort(key=lambda name: (-counts[name], natural(str(name))))
            shown = names[start : start + limit]
            first: dict[str, str] = {}
            cameras: dict[str, set[str]] = defaultdict(set)
            among = [*bound, Condition("identity", "=", tuple(shown))]
            for point in gallery.scroll(among, fields=("identity", "camera")) if shown else ():
                name = str(point.identity)
                first.setdefault(name, point.id)
                if point.camera is not None:
                    cameras[name].add(point.camera)
            rows = [
                IdentitySummary(name, counts[name], tuple(sorted(cameras[name], key=natural)), first[name])
                for name in shown
                if name in first  # written meanwhile
            ]
            return rows, len(names)

        return self._handle.reading(answer)

    def identity(self, name: str, *, limit: int = 500, suggestions: int = 5) -> IdentityView:
        """One identity. suggestions: at most so many others that are likely the same."""

        name = label_text(name)

        def answer(gallery: Gallery, embedder: Embedder, bundle: Bundle) -> IdentityView:
            total = images_of_known(gallery, name)
            own = gallery.scroll([Condition("identity", "=", (name,))], with_vectors=True)
            points = list(islice(own, _MOST_SIGHTINGS))
            vectors = np.stack([vector_of(gallery, point) for point in points])
            means = mean_similarity(vectors, np.zeros(len(points), np.int64))
            ordered, time_field = _in_time(points, gallery.fields())
            known = {point.id: (point, float(mean)) for point, mean in zip(points, means, strict=True)}
            sightings = []
            for identifier, when in ordered[:limit]:
                point, mean = known[identifier]
                sightings.append(sighting_of(point, when=when, similarity=mean if len(points) > 1 else None))
            cameras = Counter(point.camera for point in points)
            search = suggestions and any(one.is_somebody for one in points)
            return IdentityView(
                name,
                total,
                points[int(np.argmax(means))].id,
                tuple(sightings),
                tuple(sorted(cameras.items(), key=lambda item: (item[0] is None, natural(str(item[0]))))),
                time_field,
                self._suggestions(gallery, embedder, bundle, points, suggestions) if search else (),
            )

        return self._handle.reading(answer)

    def _suggestions(
        self, gallery: Gallery, embedder: Embedder, bundle: Bundle, points: Sequence[StoredPoint], most: int
    ) -> tuple[Suggestion, ...]:
        """A search for all images together, among other identities: a result's score is its mean similarity."""
        nobody = RESERVED_IDENTITIES.difference(people_of(gallery, RESERVED_IDENTITIES))
        probes = [point_probe(gallery, one) for one in points]
        others = [Condition("identity", "present"), Condition("identity", "!=", (str(points[0].identity), *nobody))]
        options = SearchOptions(k=most, group_by="identity")
        found = list(Searcher(gallery, embedder).answers([fuse(probes)], most, others, options))
        judge = self._handle.judge(gallery, bundle, options)
        found = mark(found, judge, None, gallery.count(others) if judge.calibration is not None else 0)
        return tuple(
            Suggestion(str(one.identity), one.sightings or 0, one.id, one.score, one.probability)
            for one in found[0].results
        )

    def sighting(self, point: str) -> Sighting:
        """One image of the gallery by its point id."""
        return sighting_of(self._point(point))

    def sightings(self, points: Sequence[str]) -> list[Sighting]:
        """Several, in order; those that are not there are left out."""
        ids = [point_of(point) for point in points]
        found = self._handle.reading(lambda gallery, _, __: gallery.retrieve(ids)) if ids else []
        return [sighting_of(one) for one in found if one is not None]

    def picture(self, point: str, *, size: int = 512) -> Picture:
        """The image of a point, encoded anew, at most ``size`` (16 to 2048) pixels in each direction. The file is found
        by the point's own record: no path of a visitor's is ever opened."""
        if not 16 <= size <= 2048:
            raise UsageError(f"a size is from 16 to 2048 pixels, not {size}")
        return encoded(read_image(self._point(point).path, (size, size), fit=True))

    def _point(self, point: str) -> StoredPoint:
        identifier = point_of(point)
        (found,) = self._handle.reading(lambda gallery, _, __: gallery.retrieve([identifier]))
        if found is None:
            raise NotThereError(f"there is no image {printable(point)[:80]!r} in the gallery (any more)")
        return found


def _facet(gallery: Gallery, name: str, kind: str, where: Where, values: int, total: int) -> Facet:
    """total: images that meet ``where``."""
    counts = gallery.facet(name, where, limit=_MOST_VALUES + 1)
    few = len(counts) <= _MOST_VALUES
    absent = total - sum(counts.values()) if few else gallery.count([*where, Condition(name, "absent")])
    reserved = RESERVED_IDENTITIES.intersection(counts) if name == "identity" else frozenset()
    nobody = tuple(sorted(reserved.difference(people_of(gallery, reserved))))
    facet = Facet(name, kind, tuple(counts.items())[:values], len(counts), absent=max(absent, 0), nobody=nobody)
    if not counts or not few:
        return facet
    if kind in ("int", "float"):
        return replace(facet, low=min(counts), high=max(counts))
    if kind == "str" and moment(str(next(iter(counts)))) is not None:
        times = {value: when for value in counts if (when := moment(str(value))) is not None}
        if len(times) == len(counts):
            low, high = min(times, key=times.__getitem__), max(times, key=times.__getitem__)
            return replace(facet, low=low, high=high, time=True)
    return facet


def _in_time(points: Sequence[StoredPoint], fields: dict[str, str]) -> tuple[list[tuple[str, str | None]], str | None]:
    """(point id, its time for people) in the order of a timeline; by key where there is no field of times."""
    try:
        field = choose_field(fields, None)
    except UsageError:
        return [(one.id, None) for one in sorted(points, key=lambda one: (one.key, one.id))], None
    results = tuple(
        SearchResult(rank, 0.0, one.identity, one.camera, one.path, one.key, one.metadata, id=one.id)
        for rank, one in enumerate(points, 1)
    )
    line = arrange(QueryResult("", results), None, field, len(results))
    return [(one.result.id, one.result.when) for one in line.sightings], field

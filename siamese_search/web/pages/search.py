"""The search: images in, a ranking out, narrowed by facets; every state is an address. And the images themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Annotated, Any

from fastapi import APIRouter, File, Query, Request, Response, UploadFile
from markupsafe import Markup

from siamese_search.errors import ImageError, SiameseSearchError, UsageError
from siamese_search.render.marks import mark, missing, percent, reranking_sentence, verdict_sentence
from siamese_search.retrieval.options import SearchOptions
from siamese_search.retrieval.results import QueryResult
from siamese_search.web import views
from siamese_search.web.answers import Crop, Facet, Question, Upload
from siamese_search.web.pages.address import KS, Asked
from siamese_search.web.service import GalleryService
from siamese_search.web.views import WRITE, Field, Service, named, picture_of, seen_other, shape, shape_of, show

router = APIRouter(include_in_schema=False)

#: People of the gallery to begin with, on the empty page.
_EXAMPLES = 12
#: Values of a field that are listed at once; the rest unfold.
_VALUES = 8
#: From so many different numbers on, a field of them is a range, and no list.
_RANGE = 8
#: A crop's corner in the forms: the image is so many units wide and high.
_UNITS = 10_000
#: Seconds that a browser shows a picture without asking again whether it is still the same.
_FRESH = 300
_INSTEAD = Markup(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 150" width="200" height="300">'
    '<path d="M0 0L100 150M100 0L0 150" stroke="#8a939c" stroke-opacity=".3"/>'
    '<text x="50" y="78" font-family="sans-serif" font-size="12" text-anchor="middle" fill="#8a939c">{}</text></svg>'
)


@router.get("/")
def search_page(request: Request, service: Service) -> Response:
    """The search, empty or answered."""
    asked = Asked.read(request.url.query)
    if not asked.anything:
        return _begin(request, service, asked)
    problem, answer, verdict = "", QueryResult(""), None
    try:
        answer = _answer(service, asked)
        verdict = _verdict(answer, bool(asked.where))
    except UsageError as error:  # a filter that cannot work: it can be taken away on this page
        problem = str(error)
    facets, ranges = _facets(service, asked)
    return show(
        request,
        "search.html.j2",
        here="Search",
        title=verdict["title"] if verdict else "Search",
        asked=asked,
        queries=_queries(service, asked),
        verdict=verdict,
        problem=problem,
        results=[(result, mark(result, answer.identity)) for result in answer.results],
        shape=shape_of(service, [result.id for result in answer.results]),
        facets=facets,
        ranges=ranges,
        chips=[{"text": text, "url": asked.without("where", text)} for text in asked.where],
        ks=sorted({*KS, asked.k}),
    )


@router.post("/search", dependencies=WRITE)
def upload(service: Service, images: Annotated[list[UploadFile], File()], state: Field = "") -> Response:
    """Keep what was dropped, pasted or chosen for a while, and go to where it is searched for."""
    asked = Asked.read(state)
    tokens = service.searching.keep([Upload(one.file.read(), one.filename or "image") for one in images])
    return seen_other(asked.url(kept=(*asked.kept, *tokens)))


@router.post("/crop", dependencies=WRITE)
def crop(service: Service, token: Field, box: Field = "", state: Field = "") -> Response:
    """Search for a part of an upload; for all of it, where no box is given."""
    asked = Asked.read(state)
    new = service.searching.recrop(token, _read_box(box))
    return seen_other(asked.url(kept=tuple(new if one == token else one for one in asked.kept)))


@router.get("/filter")
def narrow(request: Request, field: str, low: str = "", high: str = "") -> Response:
    """From the form of a range to the address that has it."""
    return seen_other(Asked.read(request.url.query).ranged(field, low, high).url())


@router.get("/images/{point}")
def image(
    request: Request, service: Service, point: str, size: Annotated[int, Query(ge=16, le=2048)] = 400
) -> Response:
    """An image of the gallery by its point id, encoded anew; in place of one that cannot be read, why."""
    try:
        return picture_of(request, service.holdings.picture(point, size=size), _FRESH)
    except ImageError as error:
        from siamese_search.render.canvas import short_reason

        shown = _INSTEAD.format(short_reason(error))
        return Response(shown, 200, {"Cache-Control": "no-store"}, "image/svg+xml")


@router.get("/uploads/{token}")
def uploaded(request: Request, service: Service, token: str) -> Response:
    """An image that was uploaded to search with."""
    return picture_of(request, service.searching.kept(token).picture, _FRESH)


def _begin(request: Request, service: GalleryService, asked: Asked) -> Response:
    facts = service.overview.info().facts
    examples, _ = service.holdings.identities(limit=_EXAMPLES)
    frames = shape_of(service, [one.shown for one in examples])
    return show(request, "search.html.j2", here="Search", asked=asked, facts=facts, examples=examples, shape=frames)


def _answer(service: GalleryService, asked: Asked) -> QueryResult:
    question = Question(points=asked.like, kept=asked.kept, away_points=asked.away, away_kept=asked.away_kept)
    options = SearchOptions(
        k=asked.k,
        where=asked.where,
        group_by="identity" if asked.group else None,
        rerank=asked.rerank,
        together=len(asked.like) + len(asked.kept) > 1,
    )
    return service.searching.search(question, options)[0]


def _verdict(answer: QueryResult, narrowed: bool) -> dict[str, Any]:
    """What the answer comes to, as plainly as the calibration allows, and no plainer; narrowed: by filters."""
    if answer.error is not None:
        return {"kind": "bad", "title": answer.error, "lines": []}
    if not answer.results:
        return {"kind": "", "title": "Nothing to compare with", "lines": ["No image passes these filters."]}
    best = max(answer.results, key=lambda result: result.score)
    who = named(best.identity, best.key) if best.identity is not None else "an image without identity"
    lines = [one for one in (verdict_sentence(answer, ""), reranking_sentence(answer)) if one]
    if answer.verdict is None:
        if answer.no_verdict:
            return {"kind": "", "title": f"No verdict; the nearest is {who}", "lines": lines}
        several = "Scores of several images together, or unlike others, are not judged by the calibration."
        nobody = "Neither gallery nor model has a calibration, so no score is called a match."
        return {"kind": "", "title": f"Nearest: {who}", "lines": [nobody if answer.pairwise else several, *lines]}
    chance = percent(best.probability)
    if not answer.in_gallery:
        return {
            "kind": "bad",
            "title": "No match under these filters" if narrowed else missing(answer).capitalize(),
            "lines": [f"The nearest is {who}, with a probability of {chance}.", *lines],
        }
    if not best.match:  # re-ranking has put it out of sight, as the lines say
        return {"kind": "good", "title": "In the gallery", "lines": lines}
    who = who.capitalize() if best.identity is None else who
    return {"kind": "good", "title": f"{who}, probability {chance}", "lines": lines}


def _queries(service: GalleryService, asked: Asked) -> list[dict[str, Any]]:
    """The query's images, with what each may be changed to."""
    found: list[dict[str, Any]] = []
    for name, tokens in (("q", asked.kept), ("notq", asked.away_kept)):
        for token in tokens:
            kept = service.searching.kept(token)
            box = _box(kept.crop)
            whole = box == (0, 0, _UNITS, _UNITS)
            found.append({
                "src": f"/uploads/{token}", "name": "your image" if whole else "part of your image",
                "shape": shape(views.aspect_of(kept.picture)), "away": name == "notq",
                "remove": asked.without(name, token), "upload": token if name == "q" else "",
                "box": box, "whole": whole, "dim": "M0 0H{0}V{0}H0Z M{1} {2}v{4}h{3}v-{4}Z".format(_UNITS, *box),
            })  # fmt: skip
    for name, points in (("like", asked.like), ("not", asked.away)):
        for one in service.holdings.sightings(points):
            found.append({
                "src": f"/images/{one.id}", "name": one.key if one.identity is None else named(one.identity, one.key),
                "shape": shape_of(service, [one.id]), "away": name == "not",
                "remove": asked.without(name, one.id), "upload": "",
            })  # fmt: skip
    return sorted(found, key=lambda one: one["away"])


def _box(crop: Crop | None) -> tuple[int, int, int, int]:
    """Left, top, width and height in units."""
    if crop is None:
        return 0, 0, _UNITS, _UNITS
    left, top, right, bottom = (round(share * _UNITS) for share in astuple(crop))
    return left, top, right - left, bottom - top


def _read_box(text: str) -> Crop | None:
    if not text:
        return None
    parts = text.split(",")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        raise UsageError(f"a box is LEFT,TOP,WIDTH,HEIGHT in ten-thousandths of the image, not {text!r}")
    left, top, width, height = (int(part) / _UNITS for part in parts)
    if not (width > 0 and height > 0 and left + width <= 1 and top + height <= 1):
        raise UsageError(f"the box {text!r} is empty or reaches beyond the image: draw another")
    return Crop(left, top, min(left + width, 1.0), min(top + height, 1.0))


def _facets(service: GalleryService, asked: Asked) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What can be narrowed by: values with their counts, under the other filters; and ranges."""
    fields = {one.field for one in asked.conditions()}
    try:
        found = service.holdings.facets(asked.where)
        # Its values under the filters of all the other fields: so that another one can be chosen, too.
        others = [(field, service.holdings.facets(asked.where_without(field))) for field in sorted(fields)]
        own = {one.field: one for field, counted in others for one in counted if one.field == field}
        everything = {one.field: one for one in service.holdings.facets()} if fields else {}
    except SiameseSearchError:  # the search has said why
        found, own, everything = service.holdings.facets(), {}, {}
    values, ranges = [], []
    for one in found:
        one = own.get(one.field, one)
        whole = everything.get(one.field, one)
        chosen, (low, high) = asked.chosen(one.field), asked.bounds(one.field)
        if low or high or (one.low is not None and whole.distinct > _RANGE):
            shown = {"low": low, "high": high, "lowest": whole.low, "highest": whole.high}
            ranges.append({"field": one.field, "mode": "text" if one.time else "decimal", **shown})
        elif whole.distinct + (whole.absent > 0) > 1 or chosen:
            values.append(_values(one, asked, chosen))
    return values, ranges


def _values(facet: Facet, asked: Asked, chosen: Sequence[str]) -> dict[str, Any]:
    # As a filter is written.
    shown = [(str(one).lower() if isinstance(one, bool) else str(one), count) for one, count in facet.values]
    shown += [(value, 0) for value in chosen if value not in dict(shown)]
    listed = []
    for text, count in shown:
        label = f"{text} ({views.NOBODY[text]})" if text in facet.nobody else text
        url = asked.toggled(facet.field, text)
        listed.append({"label": label, "count": count, "on": text in chosen, "url": url})
    on, url = asked.without_field(facet.field)
    if facet.absent or on:
        listed.append({"label": f"no {facet.field}", "count": facet.absent, "on": on, "url": url})
    first = [one for place, one in enumerate(listed) if place < _VALUES or one["on"]]
    rest = [one for one in listed if one not in first]
    hidden = max(0, facet.distinct - len(shown))
    return {"field": facet.field, "first": first, "rest": rest, "hidden": hidden}

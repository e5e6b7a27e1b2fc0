"""The API under ``/api/v1``: what it takes and gives, for its OpenAPI, and its routes. JSON as in docs/cli-json.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Annotated, Any, Literal, get_origin

from fastapi import APIRouter, File, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from siamese_search.errors import UsageError
from siamese_search.retrieval.options import SearchOptions
from siamese_search.retrieval.results import QueryResult
from siamese_search.web import answers
from siamese_search.web.answers import Crop, Edit, Question, Upload
from siamese_search.web.views import WRITE, Service, picture_of

Text = Annotated[str, Field(max_length=1000)]
PointId = Annotated[str, Field(max_length=64, description="Point id, a UUID.")]


class AsciiJSON(JSONResponse):
    """JSON in ASCII: names of files may hold bytes that are no UTF-8, ``\\udcXX``. It takes dataclasses, too."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":"), default=asdict).encode("ascii")


class Failure(BaseModel):
    """Why it was not done, in one line."""

    error: str


_REASONS = {
    400: "It cannot be asked like that.",
    401: "It needs the key.",
    403: "It is refused to pages of others.",
    404: "It is not there.",
    409: "It is not changed: read-only, or changed by others since.",
    413: "It is too large.",
    422: "It is not what the schema says, or no image.",
    429: "Too many requests.",
    503: "The gallery cannot be reached, or is busy.",
}


def area(name: str) -> APIRouter:
    """A router of the API: none includes another, for each level makes all routes anew. Of the reasons the first has
    the model and the others lead to it: FastAPI makes a validator of each model."""
    shown = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}}
    responses: dict[int | str, dict[str, Any]] = {}
    for status, text in _REASONS.items():
        responses[status] = {"description": text, **(shown if responses else {"model": Failure})}
    return APIRouter(prefix="/api/v1", tags=[name], default_response_class=AsciiJSON, responses=responses)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SearchSettings(_Body):
    """As the options of ``sss search``."""

    k: int = Field(10, ge=1, le=200)
    where: list[Text] = Field([], max_length=50)
    group_by: Literal["identity"] | None = None
    together: bool = False
    exclude_self: bool = False
    flip: bool = False
    rerank: bool = False
    candidates: int = Field(200, ge=1, le=1000)
    min_score: float | None = Field(None, ge=-1, le=1)
    fmr: float | None = Field(None, gt=0, le=1)


class SearchBody(SearchSettings):
    """Images of the gallery, by point id or by key, and vectors of its model, as queries."""

    points: list[PointId] = Field([], max_length=16)
    keys: list[Text] = Field([], max_length=16)
    vectors: list[Annotated[list[float], Field(max_length=8192)]] = Field([], max_length=16)
    unlike: list[PointId] = Field([], max_length=16)


class LabelBody(_Body):
    """Labels to set: a value of ``null`` takes one away."""

    points: list[PointId] = Field(min_length=1, max_length=10_000)
    values: dict[Text, str | bool | int | float | None] = Field(min_length=1, max_length=50)


class RenameBody(_Body):
    name: Text
    new: Text


class MergeBody(_Body):
    names: list[Text] = Field(min_length=1, max_length=100)
    into: Text


class SplitBody(_Body):
    points: list[PointId] = Field(min_length=1, max_length=10_000)
    new: Text = ""


class UndoBody(_Body):
    undo: Text


class ReviewBody(_Body):
    """candidate: for yes and no."""

    point: PointId
    answer: Literal["yes", "no", "new", "skip"]
    candidate: PointId = ""


class Result(BaseModel):
    """One result, as of ``sss search --format json``, and its point id."""

    model_config = ConfigDict(extra="allow")
    rank: int
    score: float
    identity: str | None
    camera: str | None
    path: str
    key: str
    metadata: dict[str, Any]
    match: bool | None
    id: str


class Answer(BaseModel):
    """As of ``sss search --format json``."""

    model_config = ConfigDict(extra="allow")
    query: str
    results: list[Result]


class _ImageRoute(APIRoute):
    """The form's model reads it at once: FastAPI goes field by field, which takes 0.4 ms of a search."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        several = {name for name, field in ImageForm.model_fields.items() if get_origin(field.annotation) is list}

        async def handle(request: Request) -> Response:
            async with request.form() as sent:
                values: dict[str, Any] = {name: sent.getlist(name) for name in several.intersection(sent)}
                values |= {name: one for name, one in sent.items() if name not in several and one != ""}
                try:
                    form = ImageForm.model_validate(values)
                except ValidationError as error:
                    found = [one | {"loc": ("body", *one["loc"])} for one in error.errors()]
                    raise RequestValidationError(found) from None
                return await run_in_threadpool(by_image, form, request.app.state.service)

        return handle


router, image_router = area("search"), area("search")
image_router.route_class = _ImageRoute
gallery_router, labels_router = area("gallery"), area("labels")
Where = Annotated[list[Text], Query(max_length=50, description='Filters such as "camera=2", joined by AND.')]
_NONE: list[str] = []
_EDIT: dict[str, Any] = {"responses": {200: {"model": Edit}}, "dependencies": WRITE}


@router.post("/search", responses={200: {"model": list[Answer]}})
def by_reference(body: SearchBody, service: Service) -> Response:
    """Search for images of the gallery or for vectors: one answer each, or one for all with ``together``."""
    question = Question(
        points=tuple(body.points),
        keys=tuple(body.keys),
        vectors=tuple(map(tuple, body.vectors)),
        away_points=tuple(body.unlike),
    )
    return _answered(service.searching.search(question, _options(body)))


class ImageForm(SearchSettings):
    """A form of several parts. crop: ``left,top,right,bottom`` of the first image, from 0 to 1."""

    image: list[UploadFile]
    unlike: list[UploadFile] = Field(default_factory=list)
    crop: str = ""


@image_router.post("/search/images", responses={200: {"model": list[Answer]}})
def by_image(form: Annotated[ImageForm, File(media_type="multipart/form-data")], service: Service) -> Response:
    """Search for images that are sent along, at most 16 and 32 MiB together."""
    question = Question(
        uploads=tuple(map(_upload, form.image)), crop=_crop(form.crop), away_uploads=tuple(map(_upload, form.unlike))
    )
    return _answered(service.searching.search(question, _options(form)))


def _upload(file: UploadFile) -> Upload:
    return Upload(file.file.read(), file.filename or "image")


def _crop(text: str) -> Crop | None:
    if not text:
        return None
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError:
        raise UsageError(f"a crop is left,top,right,bottom from 0 to 1, not {text[:60]!r}") from None
    return Crop(left, top, right, bottom)


def _options(asked: SearchSettings) -> SearchOptions:
    return SearchOptions(**{name: getattr(asked, name) for name in SearchSettings.model_fields})


def _answered(found: list[QueryResult]) -> Response:
    told = [one.to_json() for one in found]
    for answer, one in zip(told, found, strict=True):
        for shown, result in zip(answer["results"], one.results, strict=True):
            shown["id"] = result.id
    return AsciiJSON(told)


@gallery_router.get("/galleries", responses={200: {"model": dict[str, Any]}})
def galleries(service: Service) -> Response:
    """What the store holds: as of ``sss info --json``."""
    return AsciiJSON(service.overview.galleries())


@gallery_router.get("/gallery", responses={200: {"model": answers.GalleryFacts}})
def gallery(service: Service) -> Response:
    """All about the gallery that is served."""
    return AsciiJSON(service.overview.info())


@gallery_router.get("/facets", responses={200: {"model": list[answers.Facet]}})
def facets(service: Service, where: Where = _NONE, values: Annotated[int, Query(ge=1, le=1000)] = 20) -> Response:
    """Fields to narrow a search by, with the counts of their most frequent values."""
    return AsciiJSON(service.holdings.facets(where, values=values))


@gallery_router.get("/identities", responses={200: {"model": dict[str, Any]}})
def identities(
    service: Service,
    text: Annotated[Text, Query()] = "",
    where: Where = _NONE,
    start: Annotated[int, Query(ge=0, le=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 60,
) -> Response:
    """Identities whose name contains ``text``, most images first: ``{"total", "identities"}``."""
    found, total = service.holdings.identities(text, where=where, start=start, limit=limit)
    return AsciiJSON({"total": total, "identities": found})


@gallery_router.get("/identity", responses={200: {"model": answers.IdentityView}})
def identity(
    service: Service,
    name: Annotated[Text, Query()],
    limit: Annotated[int, Query(ge=1, le=5000)] = 500,
    suggestions: Annotated[int, Query(ge=0, le=50)] = 5,
) -> Response:
    """All sightings of one identity in the order of time, its best shot, and who is likely the same."""
    return AsciiJSON(service.holdings.identity(name, limit=limit, suggestions=suggestions))


@gallery_router.get("/points/{point}", responses={200: {"model": answers.Sighting}})
def point(service: Service, point: PointId) -> Response:
    """What the gallery says of one image."""
    return AsciiJSON(service.holdings.sighting(point))


@gallery_router.get(
    "/images/{point}",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, 304: {"description": "It is the one that you have."}},
)
def image(
    request: Request, service: Service, point: PointId, size: Annotated[int, Query(ge=16, le=2048)] = 512
) -> Response:
    """The image of a point, encoded anew, at most ``size`` pixels in each direction."""
    return picture_of(request, service.holdings.picture(point, size=size), 60)


@gallery_router.get("/review", responses={200: {"model": answers.ReviewQueue}})
def review(service: Service, where: Where = _NONE, limit: Annotated[int, Query(ge=1, le=200)] = 20) -> Response:
    """Images without identity, the least certain first."""
    return AsciiJSON(service.review.queue(where=where, limit=limit))


@gallery_router.get("/clusters", responses={200: {"model": list[answers.Cluster]}})
def clusters(
    service: Service,
    where: Where = _NONE,
    labelled: bool = False,
    least: Annotated[float | None, Query(gt=0, le=1)] = None,
) -> Response:
    """Proposed identities, as of ``sss cluster``."""
    return AsciiJSON(service.overview.clusters(where=where, labelled=labelled, least=least))


@gallery_router.get("/map", responses={200: {"model": dict[str, Any]}})
def gallery_map(
    service: Service,
    color: Annotated[Text, Query()] = "identity",
    method: Literal["pca", "tsne", "umap"] = "pca",
    where: Where = _NONE,
    limit: Annotated[int, Query(ge=1, le=5000)] = 2000,
) -> Response:
    """The gallery on a plane: as of ``sss plot --json``, with the id and the colour of each point."""
    return AsciiJSON(service.overview.gallery_map(color=color, method=method, where=where, limit=limit))


@labels_router.post("/labels", **_EDIT)
def assign(body: LabelBody, service: Service) -> Response:
    """Set labels of images, as ``sss label`` does."""
    return AsciiJSON(service.labels.assign(body.points, dict(body.values)))


@labels_router.post("/identities/rename", **_EDIT)
def rename(body: RenameBody, service: Service) -> Response:
    """Give an identity a name that nobody has."""
    return AsciiJSON(service.labels.rename(body.name, body.new))


@labels_router.post("/identities/merge", **_EDIT)
def merge(body: MergeBody, service: Service) -> Response:
    """Make several identities one."""
    return AsciiJSON(service.labels.merge(body.names, body.into))


@labels_router.post("/identities/split", **_EDIT)
def split(body: SplitBody, service: Service) -> Response:
    """Make some images of an identity another one."""
    return AsciiJSON(service.labels.split(body.points, body.new))


@labels_router.post("/review", **_EDIT)
def decide(body: ReviewBody, service: Service) -> Response:
    """Answer for one image of the review."""
    return AsciiJSON(service.review.answer(body.answer, body.point, body.candidate))


@labels_router.post("/undo", **_EDIT)
def undo(body: UndoBody, service: Service) -> Response:
    """Take a change back."""
    return AsciiJSON(service.labels.undo(body.undo))


@labels_router.get("/edits", responses={200: {"model": list[Edit]}})
def edits(service: Service) -> Response:
    """The changes made through this server, the last one first."""
    return AsciiJSON(service.labels.edits())


routes = [route for one in (router, image_router, gallery_router, labels_router) for route in one.routes]

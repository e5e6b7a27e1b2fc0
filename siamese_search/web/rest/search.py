"""Searches over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import File, UploadFile
from fastapi.responses import Response
from pydantic import Field

from siamese_search.errors import UsageError
from siamese_search.retrieval.options import SearchOptions
from siamese_search.retrieval.results import QueryResult
from siamese_search.web.answers import Crop, Question, Upload
from siamese_search.web.rendering import Service
from siamese_search.web.rest.shapes import Answer, AsciiJSON, SearchBody, SearchSettings, area

router = area("search")


@router.post("/search", responses={200: {"model": list[Answer]}})
def by_reference(body: SearchBody, service: Service) -> Response:
    """Search for images of the gallery or for vectors: one answer each, or one for all with ``together``."""
    question = Question(
        points=tuple(body.points),
        keys=tuple(body.keys),
        vectors=tuple(tuple(one) for one in body.vectors),
        away_points=tuple(body.unlike),
    )
    return _answered(service.search(question, _options(body)))


class ImageForm(SearchSettings):
    """A form of several parts. crop: ``left,top,right,bottom`` of the first image, from 0 to 1."""

    image: list[UploadFile]
    unlike: list[UploadFile] = Field(default_factory=list)
    crop: str = ""


@router.post("/search/images", responses={200: {"model": list[Answer]}})
def by_image(
    form: Annotated[ImageForm, File(media_type="multipart/form-data")], service: Service
) -> Response:
    """Search for images that are sent along, at most 16 and 32 MiB together."""
    question = Question(
        uploads=tuple(map(_upload, form.image)),
        crop=_crop(form.crop),
        away_uploads=tuple(map(_upload, form.unlike)),
    )
    return _answered(service.search(question, _options(form)))


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
    values: dict[str, Any] = {name: getattr(asked, name) for name in SearchSettings.model_fields}
    return SearchOptions(**values)


def _answered(found: list[QueryResult]) -> Response:
    answers = []
    for one in found:
        answer = one.to_json()
        for shown, result in zip(answer["results"], one.results, strict=True):
            shown["id"] = result.id
        answers.append(answer)
    return AsciiJSON(answers)

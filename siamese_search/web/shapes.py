"""What the API takes and gives, for its OpenAPI."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(max_length=1000)]
PointId = Annotated[str, Field(max_length=64, description="Point id, a UUID.")]


class AsciiJSON(JSONResponse):
    """JSON in ASCII: names of files may hold bytes that are no UTF-8, ``\\udcXX``."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


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
    """A router of the API, for its modules: no router includes another, for each level makes all routes anew.

    Of the reasons the first has the model and the others lead to it: FastAPI makes a validator of each model.
    """
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

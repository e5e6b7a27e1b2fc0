"""Labels over HTTP: every change answers with the token that takes it back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import Depends
from fastapi.responses import Response

from siamese_search.errors import UsageError
from siamese_search.web.answers import Edit
from siamese_search.web.rendering import Service
from siamese_search.web.rest import shapes
from siamese_search.web.rest.shapes import AsciiJSON, area
from siamese_search.web.security import checked_write

router = area("labels")
_EDIT: dict[str, Any] = {
    "responses": {200: {"model": Edit}},
    "dependencies": [Depends(checked_write)],
}


@router.post("/labels", **_EDIT)
def assign(body: shapes.LabelBody, service: Service) -> Response:
    """Set labels of images, as ``sss label`` does."""
    return _made(service.assign(body.points, dict(body.values)))


@router.post("/identities/rename", **_EDIT)
def rename(body: shapes.RenameBody, service: Service) -> Response:
    """Give an identity a name that nobody has."""
    return _made(service.rename(body.name, body.new))


@router.post("/identities/merge", **_EDIT)
def merge(body: shapes.MergeBody, service: Service) -> Response:
    """Make several identities one."""
    return _made(service.merge(body.names, body.into))


@router.post("/identities/split", **_EDIT)
def split(body: shapes.SplitBody, service: Service) -> Response:
    """Make some images of an identity another one."""
    return _made(service.split(body.points, body.new))


@router.post("/review", **_EDIT)
def decide(body: shapes.ReviewBody, service: Service) -> Response:
    """Answer for one image of the review."""
    if body.answer in ("yes", "no") and not body.candidate:
        raise UsageError(f"a {body.answer} needs the candidate that it is about")
    if body.answer == "yes":
        return _made(service.review_yes(body.point, body.candidate))
    if body.answer == "no":
        return _made(service.review_no(body.point, body.candidate))
    return _made(service.review_new(body.point) if body.answer == "new" else service.review_skip(body.point))


@router.post("/undo", **_EDIT)
def undo(body: shapes.UndoBody, service: Service) -> Response:
    """Take a change back."""
    return _made(service.undo(body.undo))


@router.get("/edits", responses={200: {"model": list[Edit]}})
def edits(service: Service) -> Response:
    """The changes made through this server, the last one first."""
    return AsciiJSON([asdict(one) for one in service.edits()])


def _made(edit: Edit) -> Response:
    return AsciiJSON(asdict(edit))

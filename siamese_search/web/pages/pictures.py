"""Pictures of the gallery by point id, and of uploads by their token; never by a path."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from markupsafe import Markup

from siamese_search.errors import ImageError
from siamese_search.render.canvas import short_reason
from siamese_search.web.answers import Picture
from siamese_search.web.rendering import Service

router = APIRouter(include_in_schema=False)

_INSTEAD = Markup(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 150" width="200" height="300">'
    '<path d="M0 0L100 150M100 0L0 150" stroke="#8a939c" stroke-opacity=".3"/>'
    '<text x="50" y="78" font-family="sans-serif" font-size="12" text-anchor="middle" fill="#8a939c">{}</text></svg>'
)
#: Seconds that a browser shows a picture without asking again whether it is still the same.
_FRESH = 300


@router.get("/images/{point}")
def image(
    request: Request, service: Service, point: str, size: Annotated[int, Query(ge=16, le=2048)] = 400
) -> Response:
    """An image of the gallery, encoded anew; in place of one that cannot be read, why."""
    try:
        return _answer(request, service.picture(point, size=size))
    except ImageError as error:
        shown = _INSTEAD.format(short_reason(error))
        return Response(shown, 200, {"Cache-Control": "no-store"}, "image/svg+xml")


@router.get("/uploads/{token}")
def upload(request: Request, service: Service, token: str) -> Response:
    """An image that was uploaded to search with."""
    return _answer(request, service.kept_picture(token))


def _answer(request: Request, picture: Picture) -> Response:
    tag = f'"{picture.tag}"'
    headers = {"ETag": tag, "Cache-Control": f"private, max-age={_FRESH}"}
    if request.headers.get("if-none-match") == tag:
        return Response(None, 304, headers)
    return Response(picture.data, 200, headers, picture.media_type)

"""Pictures of the gallery by point id, and of uploads by their token; never by a path."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from siamese_search.web.answers import Picture
from siamese_search.web.pages.views import Service

router = APIRouter()

#: Seconds that a browser shows a picture without asking again whether it is still the same.
_FRESH = 300


@router.get("/images/{point}")
def image(
    request: Request, service: Service, point: str, size: Annotated[int, Query(ge=16, le=2048)] = 400
) -> Response:
    """An image of the gallery, encoded anew."""
    return _answer(request, service.picture(point, size=size))


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

"""Pages from ``templates/``: every value escaped, no script or style but those of ``static/``."""

from __future__ import annotations

from functools import cache
from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader

from siamese_search.render.html import environment
from siamese_search.web.security import csrf_token
from siamese_search.web.service import GalleryService


async def service_of(request: Request) -> GalleryService:
    """The service of this application. async: FastAPI would send what is not to another thread, at each request."""
    found: GalleryService = request.app.state.service
    return found


#: What a route asks for: ``service: Service``.
Service = Annotated[GalleryService, Depends(service_of)]


def page(request: Request, template: str, *, status: int = 200, **values: object) -> HTMLResponse:
    """A template as a response. It also sees ``request``, ``csrf_token``, ``read_only``, ``signed_in`` (whether there
    is anything to sign out of) and ``gallery_name``.
    """
    state = request.app.state
    known = {
        "request": request,
        "csrf_token": csrf_token(request),
        "read_only": state.service.options.read_only,
        "signed_in": state.security.key is not None,
        "gallery_name": state.service.name,
    }
    return HTMLResponse(_environment().get_template(template).render({**known, **values}), status)


@cache
def _environment() -> Environment:
    return environment(PackageLoader("siamese_search.web"), PackageLoader("siamese_search.render"))

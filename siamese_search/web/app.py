"""create_app(): the pages, the API and what stands guard before them, as one ASGI application."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as StarletteHTTPException

from siamese_search import errors
from siamese_search._version import __version__
from siamese_search.errors import SiameseSearchError, at_place
from siamese_search.web import pages, rest
from siamese_search.web.guard import Guard, Metrics
from siamese_search.web.rest import AsciiJSON
from siamese_search.web.security import Security, allowed_hosts
from siamese_search.web.service import GalleryService
from siamese_search.web.views import error_page

_log = logging.getLogger(__name__)
#: Error → status; the first that fits.
_STATUS: tuple[tuple[type[SiameseSearchError], int], ...] = (
    (errors.NotThereError, 404),
    (errors.RefusedError, 409),
    (errors.ImageError, 422),
    (errors.UsageError, 400),
    (errors.MissingExtraError, 400),  # what was asked for is not installed here
    (errors.StoreError, 503),
)
_TITLES = {
    400: "That cannot be asked",
    403: "Refused",
    404: "Not here",
    409: "Not changed",
    422: "That cannot be read",
    503: "Not ready",
}


def create_app(service: GalleryService, security: Security | None = None) -> FastAPI:
    """The application over a service. security: whom it lets in; everybody by default."""

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = service.limits.at_once
        yield

    app = FastAPI(
        title="Siamese Search",
        version=__version__,
        description="Search a gallery, and care for its identities. JSON as in docs/cli-json.md.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        # Not by include_router(), which would make each of them a second time, 0.2 s of a start.
        routes=[*rest.routes, *pages.routes],
        lifespan=life,
    )
    security = security or Security(None)
    metrics = Metrics()
    app.state.service, app.state.security = service, security
    named = service.options.allow_host
    hosts = allowed_hosts(service.options.host, (named,) if isinstance(named, str) else named)
    app.add_middleware(Guard, security=security, limits=service.limits, metrics=metrics, hosts=hosts)
    ours: list[str | tuple[str, str]] = [(f"siamese_search.{room}", "static") for room in ("web", "render")]
    app.mount("/static", StaticFiles(packages=ours), name="static")

    @app.get("/healthz", include_in_schema=False)
    async def health() -> Response:
        return PlainTextResponse("ok\n")

    @app.get("/readyz", include_in_schema=False)
    def ready() -> Response:
        trouble = service.ready()
        return PlainTextResponse(f"{trouble or 'ok'}\n", 200 if trouble is None else 503)

    @app.get("/metrics", include_in_schema=False)
    def measured() -> Response:
        text = metrics.text(ready=service.ready() is None)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.exception_handler(SiameseSearchError)
    def failed(request: Request, error: SiameseSearchError) -> Response:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        if status == 503:
            service.trouble = str(error)  # until somebody asks whether it is over
        return _said(request, status, str(error))

    @app.exception_handler(StarletteHTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        return _said(request, error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        return _said(request, 422, _wrong(error.errors()[0]))

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> Response:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _said(request, 500, "something went wrong here; the server's log says what")

    return app


#: Of what pydantic says, by its type; and word by word.
_WRONG = {
    "missing": "it is missing",
    "extra_forbidden": "nothing is called so here",
    "value_error": "an image is sent as a file, not as text",
}
_WORDS = {
    "a valid integer": "a whole number",
    "a valid boolean": "true or false",
    "a valid dictionary": "an object",
    "a valid string": "text",
    "valid ": "",
    " after validation": "",
}


def _wrong(first: dict[str, Any]) -> str:
    """What a request lacks, in one line."""
    kind, text = first["type"], re.sub(r", (unable|got|not) .*", "", re.sub(r"^\w+ should", "it must", first["msg"]))
    if kind == "json_invalid":
        return f"the body is not JSON: {first['ctx']['error'].lower()}, at character {first['loc'][-1] + 1}"
    where = ".".join(str(part) for part in first["loc"][1:])
    if not where:
        return "the body must be a JSON object, sent as application/json"
    for said, ours in _WORDS.items():
        text = text.replace(said, ours)
    return f"{where}: {_WRONG.get(kind, text)}"


def _said(request: Request, status: int, text: str, headers: object = None) -> Response:
    """An error, for programs or for people."""
    if request.url.path.startswith("/api/"):
        answer: Response = AsciiJSON({"error": at_place(text, request.app.state.service.place)}, status)
    else:
        answer = error_page(request, status, _TITLES.get(status, "Not done"), text)
    if isinstance(headers, dict):
        answer.headers.update(headers)
    return answer

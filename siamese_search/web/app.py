"""create_app(): the pages, the API and what stands guard before them, as one ASGI application."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from siamese_search._version import __version__
from siamese_search.web import pages, rest
from siamese_search.web.security import Security
from siamese_search.web.service import GalleryService


def create_app(service: GalleryService, key: str | None = None) -> FastAPI:
    """The application over an open service. key: what visitors have to know; ``None`` for none."""
    app = FastAPI(title="Siamese Search", version=__version__, docs_url=None, redoc_url=None)
    app.state.service = service
    app.state.security = Security(key)
    app.include_router(rest.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(packages=[("siamese_search.web", "static")]), name="static")
    return app

"""The pages. Each calls :class:`~siamese_search.web.service.GalleryService` and nothing below it."""

from __future__ import annotations

from siamese_search.web.pages import about, identities, login, plane, review, search

_PAGES = (search, identities, review, plane, about, login)
routes = [route for page in _PAGES for route in page.router.routes]

"""The pages. Each calls :class:`~siamese_search.web.service.GalleryService` and nothing below it."""

from __future__ import annotations

from fastapi import APIRouter

from siamese_search.web.pages import about, identities, pictures, plane, review, search

router = APIRouter(include_in_schema=False)
for _page in (search, identities, review, plane, about, pictures):
    router.include_router(_page.router)

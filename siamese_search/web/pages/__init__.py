"""The pages. Each calls :class:`~siamese_search.web.service.GalleryService` and nothing below it."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(include_in_schema=False)

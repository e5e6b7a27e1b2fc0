"""The API under ``/api/v1``. JSON as in docs/cli-json.md; each route calls the service and nothing below it."""

from __future__ import annotations

from fastapi import APIRouter

from siamese_search.web.rest import gallery, labels, search
from siamese_search.web.rest.shapes import Failure

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
router = APIRouter(
    prefix="/api/v1",
    responses={status: {"model": Failure, "description": text} for status, text in _REASONS.items()},
)
for part in (search, gallery, labels):
    router.include_router(part.router)

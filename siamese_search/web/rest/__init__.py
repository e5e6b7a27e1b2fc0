"""The API under ``/api/v1``. JSON as in docs/cli-json.md; each route calls the service and nothing below it."""

from __future__ import annotations

from siamese_search.web.rest import gallery, labels, search

routes = [route for part in (search, gallery, labels) for route in part.router.routes]

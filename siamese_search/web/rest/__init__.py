"""The API under ``/api/v1``. JSON as in docs/cli-json.md; each route calls the service and nothing below it."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(prefix="/api/v1")

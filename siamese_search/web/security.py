"""Who may ask, and who may change: keys, sessions and the tokens of forms.

A page that changes something is a POST with ``csrf_token`` (a form field, or the header ``X-CSRF-Token``), and its
route has the dependency :func:`checked_write`.
"""

from __future__ import annotations

from fastapi import Request


class Security:
    """The key of this server, if there is one, and its sessions."""

    def __init__(self, key: str | None) -> None:
        self.key = key


def csrf_token(request: Request) -> str:
    """The token that this visitor's forms carry."""
    raise NotImplementedError


async def checked_write(request: Request) -> None:
    """A dependency: refuses (403) what does not come from a page of ours, or from a program with the key."""
    raise NotImplementedError

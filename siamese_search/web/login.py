"""Signing in with the key, and out again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from siamese_search.web.guard import session_cookie
from siamese_search.web.pages.views import show
from siamese_search.web.security import Security, checked_write

router = APIRouter(include_in_schema=False)
_LASTS = 12 * 3600


@router.get("/login")
def ask(request: Request, back: str = "/") -> Response:
    """The form."""
    return _form(request, back)


def _form(request: Request, back: str, problem: str = "", status: int = 200) -> Response:
    return show(
        request,
        "login.html.j2",
        here="",
        title="Sign in",
        status=status,
        back=_local(back),
        problem=problem,
    )


@router.post("/login", dependencies=[Depends(checked_write)])
def sign_in(
    request: Request, key: Annotated[str, Form()] = "", back: Annotated[str, Form()] = "/"
) -> Response:
    """Compare the key, a few times a minute."""
    security: Security = request.app.state.security
    address = request.client.host if request.client else ""
    if security.blocked(address):
        return _form(request, back, "Too many wrong keys; wait a minute.", 429)
    if not security.knows(key):
        security.failed(address)
        return _form(request, back, "This is not the key.", 403)
    answer = RedirectResponse(_local(back), 303)
    session = security.new_session(signed_in=True)
    answer.headers.append("set-cookie", session_cookie(request.scope, session, lasts=_LASTS))
    return answer


@router.post("/logout", dependencies=[Depends(checked_write)])
def sign_out(request: Request) -> Response:
    """The session ends for good, wherever its cookie is."""
    request.app.state.security.end(request.scope["sss.visit"].session)
    answer = RedirectResponse("/login", 303)
    answer.headers.append("set-cookie", session_cookie(request.scope, "", lasts=0))
    return answer


def _local(path: str) -> str:
    """A page of ours, whatever a link says."""
    safe = (
        path.startswith("/") and not path.startswith(("//", "/\\")) and path.isascii() and path.isprintable()
    )
    return path if safe else "/"

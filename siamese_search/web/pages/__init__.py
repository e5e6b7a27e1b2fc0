"""The pages. Each calls :class:`~siamese_search.web.service.GalleryService` and nothing below it. Here: signing in."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from siamese_search.web.guard import session_cookie
from siamese_search.web.pages import about, identities, search
from siamese_search.web.security import SESSION_SECONDS, Security
from siamese_search.web.views import WRITE, Field, local, seen_other, show

router = APIRouter(include_in_schema=False)


@router.get("/login")
def ask(request: Request, back: str = "/") -> Response:
    """The form, where there is a key."""
    keyless = request.app.state.security.key is None
    return seen_other(back) if keyless else _form(request, back)


def _form(request: Request, back: str, problem: str = "", status: int = 200) -> Response:
    back = local(back)
    return show(request, "login.html.j2", title="Sign in", status=status, back=back, problem=problem)


@router.post("/login", dependencies=WRITE)
def sign_in(request: Request, key: Field = "", back: Field = "/") -> Response:
    """Compare the key, a few times a minute."""
    security: Security = request.app.state.security
    address = request.client.host if request.client else ""
    if security.blocked(address):
        return _form(request, back, "Too many wrong keys; wait a minute.", 429)
    if not security.knows(key):
        security.failed(address)
        return _form(request, back, "This is not the key.", 403)
    answer = RedirectResponse(local(back), 303)
    session = security.new_session(signed_in=True)
    answer.headers.append("set-cookie", session_cookie(request.scope, session, lasts=SESSION_SECONDS))
    return answer


@router.post("/logout", dependencies=WRITE)
def sign_out(request: Request) -> Response:
    """The session ends for good, wherever its cookie is."""
    request.app.state.security.end(request.scope["sss.visit"].session)
    answer = RedirectResponse("/login", 303)
    answer.headers.append("set-cookie", session_cookie(request.scope, "", lasts=0))
    return answer


routes = [route for page in (search, identities, about) for route in page.router.routes] + router.routes

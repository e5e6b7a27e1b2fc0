"""What all pages share: how one is shown, how one leads to another, and what an error looks like."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlencode, urlsplit

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from markupsafe import Markup
from PIL import Image

from siamese_search._version import __version__
from siamese_search.datasets.records import DISTRACTOR_IDENTITY, JUNK_IDENTITY
from siamese_search.errors import SiameseSearchError
from siamese_search.render.marks import percent, sightings
from siamese_search.web.answers import Edit, Picture
from siamese_search.web.rendering import page
from siamese_search.web.security import checked_write
from siamese_search.web.service import GalleryService

#: Of every route that changes something.
WRITE = [Depends(checked_write)]

_NOBODY = {JUNK_IDENTITY: "junk", DISTRACTOR_IDENTITY: "distractors"}
_ONE = {JUNK_IDENTITY: "junk", DISTRACTOR_IDENTITY: "distractor"}
#: From so much taller than wide on, or wider than tall, pictures have frames of another shape.
_TALL, _WIDE = 1.4, 1 / 1.25


def show(request: Request, template: str, *, here: str, title: str, **values: object) -> HTMLResponse:
    """A page. here: its name in the bar; edit: of the address, the change that it has a notice of."""
    status = values.pop("status", 200)
    return page(
        request,
        template,
        status=int(str(status)),
        **{
            "here": here,
            "title": title,
            "bare": template.startswith("login"),
            "version": __version__,
            "notice": _notice(request),
            "here_url": address_of(request),
            "identity_url": identity_url,
            "search_url": lambda *points: "/?" + urlencode([("like", point) for point in points]),
            "named": named,
            "called": called,
            "percent": percent,
            "seen": sightings,
            "token": _token,
            **values,
        },
    )


def _token(token: str) -> Markup:
    return Markup('<input type="hidden" name="csrf_token" value="{}">').format(token)


def _notice(request: Request) -> Edit | None:
    """The change that led here, to be taken back."""
    token = request.query_params.get("edit")
    if not token:
        return None
    return next((edit for edit in request.app.state.service.edits() if edit.undo == token), None)


def error_page(request: Request, status: int, title: str, text: str, back: str = "") -> HTMLResponse:
    """One line of what happened, and what to do. back: where to try again."""
    if text == "Not Found":  # the framework's, of an address that leads to no page
        text = "there is no such page: begin with the search"
    return show(
        request, "error.html.j2", here="", title=title, status=status, code=status, text=text, back=back
    )


def identity_url(name: str, **more: str) -> str:
    """The page of an identity, whatever it is called."""
    return "/identity?" + urlencode({"name": name, **more})


def named(identity: str | None) -> str:
    """An identity for people: Market-1501's junk and distractors are said to be that."""
    if identity is None:
        return "no identity"
    return f"{identity} ({_NOBODY[identity]})" if identity in _NOBODY else identity


def called(identity: str | None) -> str:
    """As :func:`named`, in the room below a picture."""
    return "no identity" if identity is None else _ONE.get(identity, identity)


def somebody(identity: str | None) -> bool:
    """Whether it is a target of its own."""
    return identity is not None and identity not in _NOBODY


def address_of(request: Request) -> str:
    """This page, to come back to; without the notice of a change."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "edit"]
    return request.url.path + ("?" + urlencode(kept) if kept else "")


def seen_other(address: str, edit: Edit | None = None) -> RedirectResponse:
    """After a form: to a page of this server (never elsewhere), which tells of the change that was made."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc or not address.startswith("/") or address.startswith(("//", "/\\")):
        address = "/"
    if edit is not None and edit.undo is not None:
        base, _, fragment = address.partition("#")
        joined = "&" if "?" in base else "?"
        address = f"{base}{joined}{urlencode({'edit': edit.undo})}" + (f"#{fragment}" if fragment else "")
    return RedirectResponse(address, 303)


def shape_of(service: GalleryService, points: Sequence[str]) -> str:
    """The class of the frames: people are tall, cars are wide. Asked of a few, the middle one counts."""
    aspects = []
    for point in points[:5]:
        with suppress(SiameseSearchError):  # its frame says so
            aspects.append(aspect_of(service.picture(point, size=400)))
    return shape(sorted(aspects)[len(aspects) // 2] if aspects else 1.0)


def aspect_of(picture: Picture) -> float:
    """Height / width."""
    with Image.open(io.BytesIO(picture.data)) as image:
        return image.height / image.width


def shape(aspect: float) -> str:
    """The class of a frame for this height / width."""
    return "tall" if aspect >= _TALL else "wide" if aspect <= _WIDE else "square"

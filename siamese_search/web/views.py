"""What pages and API share of a request, and the pages among themselves: how one is shown, and leads to another."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from shlex import join
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode, urlsplit

from fastapi import Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from markupsafe import Markup, escape
from PIL import Image

from siamese_search import render
from siamese_search._version import __version__
from siamese_search.datasets.records import DISTRACTOR_IDENTITY, JUNK_IDENTITY, stands_for_many
from siamese_search.errors import SiameseSearchError, at_place
from siamese_search.render.marks import percent, sightings
from siamese_search.web.answers import Edit, Picture
from siamese_search.web.guard import checked_write, csrf_token
from siamese_search.web.service import GalleryService

if TYPE_CHECKING:
    from jinja2 import Environment


async def service_of(request: Request) -> GalleryService:
    """The service of this application. async: FastAPI would send what is not to another thread, at each request."""
    found: GalleryService = request.app.state.service
    return found


#: What a route asks for: ``service: Service``.
Service = Annotated[GalleryService, Depends(service_of)]
#: A field of a form, and boxes that were ticked.
Field = Annotated[str, Form()]
Ticked = Annotated[list[str] | None, Form()]
#: Of every route that changes something.
WRITE = [Depends(checked_write)]

NOBODY = {JUNK_IDENTITY: "junk", DISTRACTOR_IDENTITY: "distractors"}
_ONE = {JUNK_IDENTITY: "junk", DISTRACTOR_IDENTITY: "distractor"}
#: From so much taller than wide on, or wider than tall, pictures have frames of another shape.
_TALL, _WIDE = 1.4, 1 / 1.25


def show(request: Request, template: str, *, status: int = 200, **values: object) -> HTMLResponse:
    """A page from ``templates/``. values: what the template asks for; ``here``, its name in the bar, is its ``title``,
    too, unless that is given."""
    state = request.app.state
    edit = request.query_params.get("edit")  # the change that led here, to be taken back
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "edit"]
    known = {
        "here": "",
        "title": values.get("here"),
        "bare": template.startswith("login"),
        "version": __version__,
        "gallery_name": state.service.name,
        "read_only": state.service.options.read_only,
        "signed_in": state.security.key is not None,
        "notice": next((one for one in state.service.labels.edits() if edit and one.undo == edit), None),
        # To come back to; without the notice of a change.
        "here_url": request.url.path + ("?" + urlencode(kept) if kept else ""),
        "identity_url": identity_url,
        "search_url": lambda *points: "/?" + urlencode([("like", point) for point in points]),
        "named": named,
        "called": called,
        "percent": percent,
        "place": join(state.service.place),
        "told": lambda text: _whole(at_place(_sentence(text), state.service.place)),
        "whole": _whole,
        "seen": sightings,
        "token": Markup('<input type="hidden" name="csrf_token" value="{}">').format(csrf_token(request)),
    }
    return HTMLResponse(_environment().get_template(template).render(known | values), status)


@cache
def _environment() -> Environment:
    from jinja2 import PackageLoader  # by the first page: a server starts without

    return render.environment(PackageLoader("siamese_search.web"), PackageLoader("siamese_search.render"))


def picture_of(request: Request, picture: Picture, seconds: int) -> Response:
    """An image, unless the browser has it already. seconds: until it asks again whether it is still the same."""
    headers = {"etag": f'"{picture.tag}"', "cache-control": f"private, max-age={seconds}"}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(None, 304, headers)
    return Response(picture.data, 200, headers, "image/jpeg")


def _sentence(text: str) -> str:
    """With a capital, but for a name at its begin, and a full stop, but for a command at its end."""
    stop = "" if text[-1:] in (*".!?",) or re.search(r"\bsss [a-z]+[^;:()]*$", text) else "."
    return re.sub(r"^[a-z]+[ ,]", lambda word: word[0].capitalize(), text) + stop


def _whole(text: str) -> Markup:
    """No line ends within the name of an option. Of Markup, Python 3.11 would escape what is put in."""
    return Markup(re.sub(r"--[a-z-]+", r'<span class="whole">\g<0></span>', str(escape(text))))


def error_page(request: Request, status: int, title: str, text: str) -> HTMLResponse:
    """One line of what happened, and what to do."""
    if text in ("Not Found", "Method Not Allowed"):  # the framework's, of an address that leads to no page
        text = "there is no such page: begin with the search"
    came = urlsplit(request.headers.get("referer", ""))
    back = local(came._replace(scheme="", netloc="").geturl()) if came.path and request.method == "POST" else ""
    return show(request, "error.html.j2", title=title, status=status, code=status, text=text, back=back)


def identity_url(name: str, **more: str) -> str:
    """The page of an identity, whatever it is called."""
    return "/identity?" + urlencode({"name": name, **more})


def named(identity: str | None, key: str = "") -> str:
    """An identity for people, and of which key: Market-1501's junk and distractors are said to be that."""
    if identity is None:
        return "no identity"
    return f"{identity} ({NOBODY[identity]})" if stands_for_many(identity, key) else identity


def called(identity: str | None, key: str = "") -> str:
    """As :func:`named`, in the room below a picture."""
    if identity is None:
        return "no identity"
    return _ONE[identity] if stands_for_many(identity, key) else identity


def leaves(path: str, start: int, shown: int, total: int, size: int, **asked: str) -> dict[str, Any]:
    """What part of a list is shown, from ``start`` on, and the addresses of those before and after, "" for none. begin:
    the address of the first part, where a list has become too short for this one."""

    def leaf(place: int) -> str:
        named = {name: text for name, text in {**asked, "start": str(place or "")}.items() if text}
        return path + ("?" + urlencode(named) if named else "")

    return {
        "before": leaf(max(0, start - size)) if start else "",
        "after": leaf(start + size) if start + shown < total else "",
        "begin": leaf(0) if start and not shown else "",
        "first": start + 1, "last": start + shown, "total": total,
    }  # fmt: skip


def local(address: str) -> str:
    """A page of ours, whatever a form or a link says."""
    inside = address.startswith("/") and not address.startswith(("//", "/\\"))
    return address if inside and address.isascii() and address.isprintable() else "/"


def seen_other(address: str, edit: Edit | None = None) -> RedirectResponse:
    """After a form: to a page of this server (never elsewhere), which tells of the change that was made."""
    base, _, fragment = local(address).partition("#")
    if edit is not None and edit.undo is not None:
        base += ("&" if "?" in base else "?") + urlencode({"edit": edit.undo})
    return RedirectResponse(base + (f"#{fragment}" if fragment else ""), 303)


def shape_of(service: GalleryService, points: Sequence[str]) -> str:
    """The class of the frames: people are tall, cars are wide. Asked of a few, the middle one counts."""
    aspects = []
    for point in points[:5]:
        with suppress(SiameseSearchError):  # its frame says so
            aspects.append(aspect_of(service.holdings.picture(point, size=400)))
    return shape(sorted(aspects)[len(aspects) // 2] if aspects else 1.0)


def aspect_of(picture: Picture) -> float:
    """Height / width."""
    with Image.open(io.BytesIO(picture.data)) as image:
        return image.height / image.width


def shape(aspect: float) -> str:
    """The class of a frame for this height / width."""
    return "tall" if aspect >= _TALL else "wide" if aspect <= _WIDE else "square"

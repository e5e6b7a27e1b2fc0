"""Identities: all of them, and each with its sightings; renamed, merged and split, with undo."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from siamese_search.errors import UsageError
from siamese_search.retrieval.ranking import natural
from siamese_search.web.answers import IdentityView, Sighting
from siamese_search.web.views import WRITE, Field, Service, Ticked, identity_url, leaves, seen_other, shape_of, show

router = APIRouter(include_in_schema=False)

#: Identities on a page, and sightings of one.
_PAGE = 60
_SIGHTINGS = 500


@router.get("/identities")
def identities(
    request: Request, service: Service, text: str = "", start: Annotated[int, Query(ge=0, le=10**9)] = 0
) -> Response:
    """Who there is, the most seen first."""
    rows, total = service.holdings.identities(text, start=start, limit=_PAGE)
    return show(
        request,
        "identities.html.j2",
        here="Identities",
        text=text,
        rows=rows,
        part=leaves("/identities", start, len(rows), total, _PAGE, text=text),
        shape=shape_of(service, [row.shown for row in rows]),
    )


@router.get("/identity")
def identity(request: Request, service: Service, name: str, order: str = "camera") -> Response:
    """One identity: all sightings, by camera or in time, and who is likely the same."""
    found = service.holdings.identity(name, limit=_SIGHTINGS)
    order = "time" if order == "time" and found.time_field else "camera"
    return show(
        request,
        "identity.html.j2",
        here="Identities",
        title=name,
        name=name,
        found=found,
        order=order,
        facts=_facts(found),
        groups=_groups(found, order),
        shape=shape_of(service, [one.id for one in found.sightings]),
    )


@router.post("/identity/rename", dependencies=WRITE)
def rename(service: Service, name: Field, to: Field) -> Response:
    """Give it another name."""
    return seen_other(identity_url(to.strip()), service.labels.rename(name, to.strip()))


@router.post("/identity/merge", dependencies=WRITE)
def merge(service: Service, name: Field, into: Field) -> Response:
    """Take another one in."""
    return seen_other(identity_url(into), service.labels.merge([name.strip()], into))


@router.post("/identity/split", dependencies=WRITE)
def split(service: Service, name: Field, points: Ticked = None, to: Field = "") -> Response:
    """Some sightings are of somebody else."""
    if not points:
        raise UsageError("no sighting was selected: tick those that are of somebody else")
    return seen_other(identity_url(name), service.labels.split(points, to.strip()))


def _facts(found: IdentityView) -> list[tuple[str, str]]:
    """Who saw it, and when."""
    named = [(f"camera {camera}" if camera is not None else "no camera", n) for camera, n in found.cameras]
    facts = [("seen by", ", ".join(f"{name} ({count:,})" for name, count in named))]
    times = [one.when for one in found.sightings if one.when]
    if found.time_field and times and len(found.sightings) == found.total:
        facts.append(("when", times[0] if len(set(times)) == 1 else f"{times[0]} to {times[-1]}"))
    return facts


def _groups(found: IdentityView, order: str) -> list[tuple[str, list[Sighting]]]:
    """The sightings in order of time, all together or apart by camera."""
    if order == "time":
        return [("", list(found.sightings))]
    held = Counter(one.camera for one in found.sightings)
    apart: list[tuple[str, list[Sighting]]] = []
    for camera in sorted(held, key=lambda one: (one is None, natural(one or ""))):
        title = "No camera" if camera is None else f"Camera {camera}"
        apart.append((title, [one for one in found.sightings if one.camera == camera]))
    return apart

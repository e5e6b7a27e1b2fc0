"""Identities: all of them, and each with its sightings; renamed, merged and split, with undo. And the review, by image
or by cluster."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from siamese_search.errors import NotThereError, UsageError
from siamese_search.render.marks import percent
from siamese_search.retrieval.ranking import natural
from siamese_search.web import views
from siamese_search.web.answers import Cluster, IdentityView, ReviewItem, Sighting
from siamese_search.web.service import GalleryService
from siamese_search.web.views import WRITE, Field, Service, identity_url, leaves, named, seen_other, shape_of, show

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
    part = leaves("/identities", start, len(rows), total, _PAGE, text=text)
    if part["begin"]:
        return seen_other(part["begin"])
    return show(
        request,
        "identities.html.j2",
        here="Identities",
        text=text,
        rows=rows,
        part=part,
        shape=shape_of(service, [row.shown for row in rows]),
    )


@router.get("/identity")
def identity(request: Request, service: Service, name: str, order: str = "camera") -> Response:
    """One identity: all sightings, by camera or in time, and who is likely the same."""
    found = service.holdings.identity(name, limit=_SIGHTINGS)
    order = "time" if order == "time" and found.time_field else "camera"
    named = [(f"camera {camera}" if camera is not None else "no camera", n) for camera, n in found.cameras]
    facts = [("seen by", ", ".join(f"{name} ({count:,})" for name, count in named))]
    times = [one.when for one in found.sightings if one.when]
    if found.time_field and times and len(found.sightings) == found.total:
        facts.append(("when", times[0] if len(set(times)) == 1 else f"{times[0]} to {times[-1]}"))
    return show(
        request,
        "identity.html.j2",
        here="Identities",
        title=found.name,
        name=found.name,
        found=found,
        order=order,
        facts=facts,
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
def split(service: Service, name: Field, points: views.Ticked = None, to: Field = "") -> Response:
    """Some sightings are of somebody else."""
    if not points:
        raise UsageError("no sighting was selected: tick those that are of somebody else")
    return seen_other(identity_url(name), service.labels.split(points, to.strip()))


def _groups(found: IdentityView, order: str) -> list[tuple[str, list[Sighting]]]:
    """The sightings in order of time, all together or apart by camera."""
    if order == "time":
        return [("", list(found.sightings))]
    apart: dict[str | None, list[Sighting]] = defaultdict(list)
    for one in found.sightings:
        apart[one.camera].append(one)
    cameras = sorted(apart, key=lambda one: (one is None, natural(one or "")))
    return [("No camera" if camera is None else f"Camera {camera}", apart[camera]) for camera in cameras]


#: Images of the proposed identity beside the one in question; clusters on a page, and images of each.
_BESIDE = 8
_CLUSTERS = 12
_MEMBERS = 60


@router.get("/review")
def review(request: Request, service: Service) -> Response:
    """The image to decide about next."""
    queue = service.review.queue(limit=1)
    item = queue.items[0] if queue.items else None
    beside = _beside(service, item)
    return show(
        request,
        "review.html.j2",
        here="Review",
        by="image",
        queue=queue,
        item=item,
        question=_question(item),
        why=_why(item),
        beside=beside,
        last=next((edit for edit in service.labels.edits() if not edit.undone and edit.undo), None),
        shape=shape_of(service, [item.point, *(point for point, _ in beside)] if item else []),
    )


@router.post("/review", dependencies=WRITE)
def answer(service: Service, answer: Field, point: Field = "", candidate: Field = "", change: Field = "") -> Response:
    """What a person says of it."""
    if answer == "undo":
        service.labels.undo(change)
        return seen_other("/review")
    return seen_other("/review", service.review.answer(answer, point, candidate))


@router.get("/review/clusters")
def clusters(request: Request, service: Service, start: Annotated[int, Query(ge=0, le=10**6)] = 0) -> Response:
    """Images without identity that look like one, all at once."""
    found = [one for one in service.overview.clusters() if one.status != "single"]
    shown = found[start : start + _CLUSTERS]
    part = leaves("/review/clusters", start, len(shown), len(found), _CLUSTERS)
    if part["begin"]:
        return seen_other(part["begin"])
    return show(
        request,
        "clusters.html.j2",
        here="Review",
        title="Review clusters",
        by="cluster",
        clusters=[(one, _heading(one), _members(service, one)) for one in shown],
        part=part,
        shape=shape_of(service, [one.images[0][0] for one in shown]),
    )


@router.post("/review/clusters", dependencies=WRITE)
def accept(service: Service, name: Field = "", points: views.Ticked = None) -> Response:
    """The ticked images of a cluster are this identity."""
    if not points or not name.strip():
        raise UsageError("a cluster needs a name and at least one image: tick some, and say who it is")
    return seen_other("/review/clusters", service.labels.assign(points, {"identity": name.strip()}))


def _question(item: ReviewItem | None) -> str:
    if item is None:
        return ""
    if not item.candidates:
        return "Is this somebody new?"
    name = item.candidates[0].identity
    return "Do these two show the same identity?" if name is None else f"Is this {named(name)}?"


def _why(item: ReviewItem | None) -> str:
    """How sure the model is."""
    if item is None or not item.candidates:
        return "Nothing in the gallery is near."
    score, chance = f"Cosine similarity {item.candidates[0].score:.4f}", item.candidates[0].probability
    if chance is None:
        return f"{score}; no calibration is known to hold here, so that nobody knows how probable that makes it."
    return f"The model says {percent(chance)}. {score}."


def _beside(service: GalleryService, item: ReviewItem | None) -> list[tuple[str, str | None]]:
    """Point and camera of the nearest image, and of others of its identity."""
    if item is None or not item.candidates:
        return []
    nearest = item.candidates[0]
    shown = [(nearest.point, nearest.camera)]
    if nearest.identity is not None:
        try:
            known = service.holdings.identity(nearest.identity, limit=_BESIDE + 1, suggestions=0).sightings
        except NotThereError:  # renamed meanwhile
            known = ()
        shown += [(one.id, one.camera) for one in known if one.id not in (nearest.point, item.point)]
    return shown[:_BESIDE]


def _heading(cluster: Cluster) -> str:
    if cluster.status == "conflict":
        names = sorted({name for _, name, _ in cluster.images if name is not None})
        return f"One of {', '.join(names)}?"
    return cluster.proposed if cluster.status == "new" else f"More of {named(cluster.proposed)}?"


def _members(service: GalleryService, cluster: Cluster) -> list[dict[str, Any]]:
    told = {point: (identity, percent(sure)) for point, identity, sure in cluster.images[:_MEMBERS]}
    return [
        {"id": one.id, "key": one.key, "camera": one.camera, "identity": told[one.id][0], "confidence": told[one.id][1]}
        for one in service.holdings.sightings(list(told))
    ]

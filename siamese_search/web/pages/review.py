"""The review: one image after another, the least certain first; or whole clusters, as ``sss cluster`` proposes them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response

from siamese_search.errors import NotThereError, UsageError
from siamese_search.render.marks import percent
from siamese_search.web.answers import Candidate, Cluster, Edit, ReviewItem
from siamese_search.web.pages.views import WRITE, named, seen_other, shape_of, show
from siamese_search.web.rendering import Service
from siamese_search.web.service import GalleryService

router = APIRouter(include_in_schema=False)

#: Images of the proposed identity beside the one in question; clusters on a page, and images of each.
_BESIDE = 8
_CLUSTERS = 12
_MEMBERS = 60


@router.get("/review")
def review(request: Request, service: Service) -> Response:
    """The image to decide about next."""
    queue = service.review(limit=1)
    item = queue.items[0] if queue.items else None
    beside = _beside(service, item)
    return show(
        request,
        "review.html.j2",
        here="Review",
        title="Review",
        by="image",
        queue=queue,
        item=item,
        question=_question(item),
        why=_why(item),
        beside=beside,
        others=item.candidates[1:] if item else (),
        last=next((edit for edit in service.edits() if not edit.undone and edit.undo), None),
        shape=shape_of(service, [item.point, *(point for point, _ in beside)] if item else []),
    )


@router.post("/review", dependencies=WRITE)
def answer(
    service: Service,
    answer: Annotated[str, Form()],
    point: Annotated[str, Form()] = "",
    candidate: Annotated[str, Form()] = "",
    change: Annotated[str, Form()] = "",
) -> Response:
    """What a person says of it."""
    if answer == "undo":
        service.undo(change)
        return seen_other("/review")
    return seen_other("/review", _answered(service, answer, point, candidate))


def _answered(service: GalleryService, answer: str, point: str, candidate: str) -> Edit:
    if answer == "yes":
        return service.review_yes(point, candidate)
    if answer == "no":
        return service.review_no(point, candidate)
    if answer == "new":
        return service.review_new(point)
    if answer == "skip":
        return service.review_skip(point)
    raise UsageError(f"an answer is yes, no, new or skip, not {answer!r}")


@router.get("/review/clusters")
def clusters(
    request: Request, service: Service, start: Annotated[int, Query(ge=0, le=10**6)] = 0
) -> Response:
    """Images without identity that look like one, all at once."""
    found = [one for one in service.clusters() if one.status != "single"]
    shown = found[start : start + _CLUSTERS]
    return show(
        request,
        "clusters.html.j2",
        here="Review",
        title="Review clusters",
        by="cluster",
        clusters=[(one, _heading(one), _members(service, one)) for one in shown],
        total=len(found),
        first=start + 1,
        last=start + len(shown),
        before=f"/review/clusters?start={max(0, start - _CLUSTERS)}" if start else "",
        after=f"/review/clusters?start={start + _CLUSTERS}" if start + _CLUSTERS < len(found) else "",
        shape=shape_of(service, [one.images[0][0] for one in shown]),
    )


@router.post("/review/clusters", dependencies=WRITE)
def accept(
    service: Service,
    name: Annotated[str, Form()] = "",
    points: Annotated[list[str] | None, Form()] = None,
) -> Response:
    """The ticked images of a cluster are this identity."""
    if not points or not name.strip():
        raise UsageError("a cluster needs a name and at least one image: tick some, and say who it is")
    return seen_other("/review/clusters", service.assign(points, {"identity": name.strip()}))


def _question(item: ReviewItem | None) -> str:
    if item is None:
        return ""
    if not item.candidates:
        return "Is this somebody new?"
    nearest = item.candidates[0]
    if nearest.identity is None:
        return "Do these two show the same identity?"
    return f"Is this {named(nearest.identity)}?"


def _why(item: ReviewItem | None) -> str:
    """How sure the model is."""
    if item is None or not item.candidates:
        return "Nothing in the gallery is near."
    first: Candidate = item.candidates[0]
    score = f"cosine similarity {first.score:.4f}"
    if first.probability is None:
        return f"{score}; the model has no calibration, so nobody knows how probable that makes it"
    return f"The model says {percent(first.probability)} ({score})."


def _beside(service: GalleryService, item: ReviewItem | None) -> list[tuple[str, str | None]]:
    """Point and camera of the nearest image, and of others of its identity."""
    if item is None or not item.candidates:
        return []
    nearest = item.candidates[0]
    shown = [(nearest.point, nearest.camera)]
    if nearest.identity is not None:
        try:
            known = service.identity(nearest.identity, limit=_BESIDE + 1, suggestions=0).sightings
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
    known = {one.id: one for one in service.sightings([point for point, _, _ in cluster.images[:_MEMBERS]])}
    return [
        {"id": point, "camera": known[point].camera, "identity": identity, "confidence": percent(confidence)}
        for point, identity, confidence in cluster.images[:_MEMBERS]
        if point in known
    ]

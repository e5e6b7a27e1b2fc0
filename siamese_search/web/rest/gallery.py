"""What is in the gallery, over HTTP."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from fastapi.responses import Response

from siamese_search.web.answers import Cluster, Facet, GalleryFacts, IdentityView, ReviewQueue, Sighting
from siamese_search.web.rendering import Service
from siamese_search.web.rest.shapes import AsciiJSON, PointId, Text, area

router = area("gallery")
Where = Annotated[list[Text], Query(max_length=50, description='Filters such as "camera=2", joined by AND.')]
_NONE: list[str] = []


@router.get("/galleries", responses={200: {"model": dict[str, Any]}})
def galleries(service: Service) -> Response:
    """What the store holds: as of ``sss info --json``."""
    return AsciiJSON(service.galleries())


@router.get("/gallery", responses={200: {"model": GalleryFacts}})
def gallery(service: Service) -> Response:
    """All about the gallery that is served."""
    return AsciiJSON(asdict(service.info()))


@router.get("/facets", responses={200: {"model": list[Facet]}})
def facets(
    service: Service, where: Where = _NONE, values: Annotated[int, Query(ge=1, le=1000)] = 20
) -> Response:
    """Fields to narrow a search by, with the counts of their most frequent values."""
    return AsciiJSON([asdict(one) for one in service.facets(where, values=values)])


@router.get("/identities", responses={200: {"model": dict[str, Any]}})
def identities(
    service: Service,
    text: Annotated[Text, Query()] = "",
    where: Where = _NONE,
    start: Annotated[int, Query(ge=0, le=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 60,
) -> Response:
    """Identities whose name contains ``text``, most images first: ``{"total", "identities"}``."""
    found, total = service.identities(text, where=where, start=start, limit=limit)
    return AsciiJSON({"total": total, "identities": [asdict(one) for one in found]})


@router.get("/identity", responses={200: {"model": IdentityView}})
def identity(
    service: Service,
    name: Annotated[Text, Query()],
    limit: Annotated[int, Query(ge=1, le=5000)] = 500,
    suggestions: Annotated[int, Query(ge=0, le=50)] = 5,
) -> Response:
    """All sightings of one identity in the order of time, its best shot, and who is likely the same."""
    return AsciiJSON(asdict(service.identity(name, limit=limit, suggestions=suggestions)))


@router.get("/points/{point}", responses={200: {"model": Sighting}})
def point(service: Service, point: PointId) -> Response:
    """What the gallery says of one image."""
    return AsciiJSON(asdict(service.sighting(point)))


@router.get(
    "/images/{point}",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, 304: {"description": "It is the one that you have."}},
)
def image(
    request: Request, service: Service, point: PointId, size: Annotated[int, Query(ge=16, le=2048)] = 512
) -> Response:
    """The image of a point, encoded anew, at most ``size`` pixels in each direction."""
    found = service.picture(point, size=size)
    tag = f'"{found.tag}"'
    headers = {"etag": tag, "cache-control": "private, max-age=60"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(found.data, media_type=found.media_type, headers=headers)


@router.get("/review", responses={200: {"model": ReviewQueue}})
def review(
    service: Service, where: Where = _NONE, limit: Annotated[int, Query(ge=1, le=200)] = 20
) -> Response:
    """Images without identity, the least certain first."""
    return AsciiJSON(asdict(service.review(where=where, limit=limit)))


@router.get("/clusters", responses={200: {"model": list[Cluster]}})
def clusters(
    service: Service,
    where: Where = _NONE,
    labelled: bool = False,
    least: Annotated[float | None, Query(gt=0, le=1)] = None,
) -> Response:
    """Proposed identities, as of ``sss cluster``."""
    return AsciiJSON([asdict(one) for one in service.clusters(where=where, labelled=labelled, least=least)])


@router.get("/map", responses={200: {"model": dict[str, Any]}})
def gallery_map(
    service: Service,
    color: Annotated[Text, Query()] = "identity",
    method: Literal["pca", "tsne", "umap"] = "pca",
    where: Where = _NONE,
    limit: Annotated[int, Query(ge=1, le=5000)] = 2000,
) -> Response:
    """The gallery on a plane: as of ``sss plot --json``, with the id and the colour of each point."""
    return AsciiJSON(service.gallery_map(color=color, method=method, where=where, limit=limit))

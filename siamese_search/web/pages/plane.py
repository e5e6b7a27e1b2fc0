"""The map: the gallery on a plane. The canvas draws what ``/map/points.json`` says; without scripts, an SVG does."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from siamese_search.datasets.records import BOOKKEEPING
from siamese_search.vectors.projection import METHODS
from siamese_search.web.views import Service, called, identity_url, shape_of, show

router = APIRouter(include_in_schema=False)

Method = Literal["pca", "tsne", "umap"]
#: Ways to lay images out, and the library that each needs.
_NEEDS = {"pca": None, "tsne": "sklearn", "umap": "umap"}


@router.get("/map")
def plane(request: Request, service: Service, color: str = "identity", method: Method = "pca") -> Response:
    """The page; the places come apart, once there is something to draw them."""
    facts = service.overview.info().facts
    fields = ["identity", "camera", *sorted(set(facts["fields"]) - {"identity", "camera"} - BOOKKEEPING)]
    found = service.overview.gallery_map(color=color, method=method) if facts["points"] > 1 else None
    dots = [_dot(point, color) for point in found["points"]] if found else []
    return show(
        request,
        "map.html.j2",
        here="Map",
        fields=fields,
        color=color,
        caption=_caption(found) if found else "",
        source="/map/points.json?" + urlencode({"color": color, "method": method}),
        method=method,
        methods=[(name, METHODS[name]) for name, needs in _NEEDS.items() if needs is None or find_spec(needs)],
        dots=dots,
        found=found,
        shape=shape_of(service, [dot["id"] for dot in dots[:5]]),
    )


@router.get("/map/points.json")
def points(service: Service, color: str = "identity", method: Method = "pca") -> Response:
    """The places of the map, 0 to 1, y upwards."""
    found = service.overview.gallery_map(color=color, method=method)
    return JSONResponse({"points": [_dot(point, color) for point in found["points"]]})


def _caption(found: dict[str, Any]) -> str:
    shown, total = len(found["points"]), found["total"]
    count = f"{shown:,} images" if shown == total else f"{shown:,} of {total:,} images, drawn at random"
    return f"{count}, by {METHODS[found['method']]}"


def _dot(point: dict[str, Any], color: str) -> dict[str, Any]:
    parts = [called(point["identity"])]
    if point["camera"] is not None:
        parts.append(f"camera {point['camera']}")
    if color not in ("identity", "camera"):
        parts.append(f"{color} {'none' if point['value'] is None else point['value']}")
    known = point["identity"] is not None
    return {
        "id": point["id"],
        "x": point["x"],
        "y": point["y"],
        "colour": point["color"],
        "entry": point["entry"],
        "name": point["identity"],
        "key": point["key"],
        "caption": ", ".join(parts),
        "link": identity_url(point["identity"]) if known else "/?" + urlencode({"like": point["id"]}),
    }

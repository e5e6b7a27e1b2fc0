"""The gallery as a whole: counts, model and calibration, storage, failures, evaluation, and the changes made here; and
the map, the gallery on a plane. Its canvas draws what ``/map/points.json`` says; without scripts, an SVG does.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from siamese_search.datasets.records import BOOKKEEPING, NO_METADATA
from siamese_search.errors import amount
from siamese_search.render.marks import file_size, rate, small_rate
from siamese_search.vectors.projection import METHODS
from siamese_search.web.views import WRITE, Field, Service, called, identity_url, seen_other, shape_of, show

router = APIRouter(include_in_schema=False)

_KINDS = {"str": "text", "int": "whole number", "float": "number", "bool": "yes or no"}


@router.get("/gallery")
def gallery(request: Request, service: Service) -> Response:
    """What this server holds."""
    found = service.overview.info()
    kinds = found.facts["fields"].items()
    fields = sorted((name, _KINDS.get(kind, kind)) for name, kind in kinds if name not in BOOKKEEPING)
    return show(
        request,
        "gallery.html.j2",
        here="Gallery",
        title=f"Gallery {service.name}",
        found=found,
        figures=_figures(found.facts),
        model=_model(found.model),
        calibration=_calibration(found.calibration),
        storage=_storage(found.facts),
        fields=fields,
        evaluation=_evaluation(found.evaluation),
        history=service.labels.edits(),
    )


@router.post("/undo", dependencies=WRITE)
def undo(service: Service, change: Field, back: Field = "/gallery") -> Response:
    """Take a change back."""
    service.labels.undo(change)
    return seen_other(back)


def _figures(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The few that a person asks for first."""
    names = [("images", "points"), ("identities", "identities"), ("cameras", "cameras")]
    shown = [(name, f"{facts[key]:,}") for name, key in names if facts.get(key) is not None]
    sizes = [("on disk", facts["size_bytes"]), ("memory for a search", facts["resident_bytes"])]
    return shown + [(name, file_size(size)) for name, size in sizes if size is not None]


def _model(model: dict[str, Any]) -> list[tuple[str, str]]:
    height, width = model["input_size"]
    enlarged = f", enlarged {model['enlarge']} times" if model["enlarge"] > 1 else ""
    rows = [
        ("name", model["name"]),
        ("network", f"{model['backbone']}, {model['dim']}-D"),
        ("input", f"{height} × {width} (height × width){enlarged}"),
        ("fingerprint", model["fingerprint"][:12]),
    ]
    metrics = model["metrics"].get("heldout", {})
    known = [("rank-1", "rank1"), ("mAP", "mAP")]
    if found := [f"{name} {metrics[key]:.1%}" for name, key in known if isinstance(metrics.get(key), float)]:
        people = model.get("heldout_identities")
        rows.append(("measured", ", ".join(found) + (f" on {people:,} held-out identities" if people else "")))
    return rows


def _calibration(known: dict[str, Any] | None) -> dict[str, Any] | None:
    """The thresholds for round false match rates: each the first whose measured rate is no more."""
    if known is None:
        return None
    measured = list(zip(known["false_match_rates"], known["thresholds"]))
    rows = []
    for wanted in (0.1, 0.01, 0.001, 0.0001):
        threshold = next((score for rate, score in measured if rate <= wanted * (1 + 1e-9)), None)
        if threshold is not None:
            rows.append((small_rate(wanted), f"{threshold:.4f}"))
    text = f"Fitted on {amount(known['genuine_pairs'], 'pair')} of one identity, {known['impostor_pairs']:,} of others"
    return {"rows": rows, "text": text + (f", of {known['data']}." if known["data"] else ".")}


def _storage(facts: dict[str, Any]) -> list[tuple[str, str]]:
    kept = facts["storage"]
    indexed, points = facts["indexed_points"], facts["points"]
    rows = [
        ("engine", facts["engine"]),
        ("vectors", kept["vectors"]),
        ("searched in", "the vectors themselves" if kept["quantisation"] == "none" else kept["quantisation"]),
        ("index", f"HNSW over {indexed:,} of {points:,}" if indexed else "none: searches are exact"),
    ]
    for name, key in (("roll back to", "previous"), ("being built", "building")):
        if other := facts.get(key):
            shown = other.get("name") or other["fingerprint"][:12] if isinstance(other, dict) else str(other)
            rows.append((name, shown))
    return rows


def _evaluation(report: dict[str, Any] | None) -> dict[str, Any] | None:
    """The figures of a report that people compare."""
    if report is None:
        return None
    pairs = report["verification"]
    rows = [
        ("rank-1", rate(report["rank1"])),
        ("mAP", rate(report["mAP"])),
        ("mINP", rate(report["mINP"])),
        ("equal error rate", rate(pairs["eer"])),
        ("TAR at FAR 0.1%", rate(pairs["tar_at_far"].get("1e-3"))),
    ]
    text = f"{amount(report['queries'], 'query')} against {amount(report['gallery'], 'image')} of {report['data']}"
    return {"rows": rows, "text": text, "model": report["model"]}


Method = Literal["pca", "tsne", "umap"]
#: Ways to lay images out, and the library that each needs.
_NEEDS = {"pca": None, "tsne": "sklearn", "umap": "umap"}


@router.get("/map")
def plane(request: Request, service: Service, color: str = "identity", method: Method = "pca") -> Response:
    """The page; the places come apart, once there is something to draw them."""
    facts = service.overview.info().facts
    fields = ["identity", "camera", *sorted(facts["fields"].keys() - NO_METADATA)]
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
    count = amount(shown, "image") if shown == total else f"{shown:,} of {amount(total, 'image')}, drawn at random"
    return f"{count}, by {METHODS[found['method']]}"


def _dot(point: dict[str, Any], color: str) -> dict[str, Any]:
    parts = [called(point["identity"], point["key"])]
    if point["camera"] is not None:
        parts.append(f"camera {point['camera']}")
    if color not in ("identity", "camera"):
        parts.append(f"{color} {'none' if point['value'] is None else point['value']}")
    known = point["identity"] is not None
    return {name: point[name] for name in ("id", "x", "y", "entry", "key")} | {
        "colour": point["color"],
        "name": point["identity"],
        "caption": ", ".join(parts),
        "link": identity_url(point["identity"]) if known else "/?" + urlencode({"like": point["id"]}),
    }

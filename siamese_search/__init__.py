"""Siamese Search: re-identification retrieval. The four verbs are here::

    import siamese_search as sss

    sss.ingest("photos/")
    for hit in sss.search("query.jpg", k=5)[0].results:
        print(hit.rank, hit.identity, hit.score, hit.path)

The public names are loaded on first use, so that ``import siamese_search`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from siamese_search._version import __version__

if TYPE_CHECKING:
    from ingest.run import ingest
    from ingest.summary import IngestSummary
    from siamese_search.api.adaptation import adapt
    from siamese_search.api.curation import duplicates, export, label, propose_identities
    from siamese_search.api.evaluation import compare_models, evaluate
    from siamese_search.api.handle import Gallery
    from siamese_search.api.handle import open as open
    from siamese_search.api.maintenance import (
        describe,
        drop,
        drop_old,
        galleries,
        optimise,
        pull,
        push,
        reindex,
        rollback,
        verify,
    )
    from siamese_search.api.retrieval import compare, map_gallery, search, timeline
    from siamese_search.api.training import quantise_model, sweep, train
    from siamese_search.datasets.records import Failure
    from siamese_search.errors import SiameseSearchError
    from siamese_search.evaluation.report import EvaluationReport
    from siamese_search.gallery.opening import list_galleries, open_gallery, open_store
    from siamese_search.io.images import read_image
    from siamese_search.model.bundle import Bundle, load_bundle
    from siamese_search.model.embedder import load_embedder
    from siamese_search.render.pages import write_html_sheet
    from siamese_search.render.sheets import draw_sheet
    from siamese_search.render.star import draw_star
    from siamese_search.retrieval.results import QueryResult, SearchResult
    from siamese_search.training.adapt.run import AdaptResult
    from siamese_search.training.run import TrainResult

_HOMES = {
    "open": "siamese_search.api.handle",
    "Gallery": "siamese_search.api.handle",
    "ingest": "ingest.run",
    "search": "siamese_search.api.retrieval",
    "timeline": "siamese_search.api.retrieval",
    "compare": "siamese_search.api.retrieval",
    "train": "siamese_search.api.training",
    "adapt": "siamese_search.api.adaptation",
    "AdaptResult": "siamese_search.training.adapt.run",
    "evaluate": "siamese_search.api.evaluation",
    "duplicates": "siamese_search.api.curation",
    "export": "siamese_search.api.curation",
    "label": "siamese_search.api.curation",
    "propose_identities": "siamese_search.api.curation",
    "describe": "siamese_search.api.maintenance",
    "drop": "siamese_search.api.maintenance",
    "drop_old": "siamese_search.api.maintenance",
    "galleries": "siamese_search.api.maintenance",
    "optimise": "siamese_search.api.maintenance",
    "pull": "siamese_search.api.maintenance",
    "push": "siamese_search.api.maintenance",
    "reindex": "siamese_search.api.maintenance",
    "rollback": "siamese_search.api.maintenance",
    "verify": "siamese_search.api.maintenance",
    "map_gallery": "siamese_search.api.retrieval",
    "quantise_model": "siamese_search.api.training",
    "sweep": "siamese_search.api.training",
    "compare_models": "siamese_search.api.evaluation",
    "IngestSummary": "ingest.summary",
    "Failure": "siamese_search.datasets.records",
    "QueryResult": "siamese_search.retrieval.results",
    "SearchResult": "siamese_search.retrieval.results",
    "EvaluationReport": "siamese_search.evaluation.report",
    "TrainResult": "siamese_search.training.run",
    "SiameseSearchError": "siamese_search.errors",
    "Bundle": "siamese_search.model.bundle",
    "load_bundle": "siamese_search.model.bundle",
    "load_embedder": "siamese_search.model.embedder",
    "open_gallery": "siamese_search.gallery.opening",
    "list_galleries": "siamese_search.gallery.opening",
    "open_store": "siamese_search.gallery.opening",
    "read_image": "siamese_search.io.images",
    "draw_sheet": "siamese_search.render.sheets",
    "draw_star": "siamese_search.render.star",
    "write_html_sheet": "siamese_search.render.pages",
}

# Not ``open``: ``from siamese_search import *`` must not hide Python's own.
__all__ = [
    "AdaptResult",
    "Bundle",
    "EvaluationReport",
    "Failure",
    "Gallery",
    "IngestSummary",
    "QueryResult",
    "SearchResult",
    "SiameseSearchError",
    "TrainResult",
    "__version__",
    "adapt",
    "compare",
    "compare_models",
    "describe",
    "draw_sheet",
    "draw_star",
    "drop",
    "drop_old",
    "duplicates",
    "evaluate",
    "export",
    "galleries",
    "ingest",
    "label",
    "list_galleries",
    "load_bundle",
    "load_embedder",
    "map_gallery",
    "open_gallery",
    "open_store",
    "optimise",
    "propose_identities",
    "pull",
    "push",
    "quantise_model",
    "read_image",
    "reindex",
    "rollback",
    "search",
    "sweep",
    "timeline",
    "train",
    "verify",
    "write_html_sheet",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

"""Siamese Search: re-identification retrieval. The four verbs are here::

    import siamese_search as sss

    sss.ingest("photos/")
    for hit in sss.search("query.jpg", k=5)[0].results:
        print(hit.rank, hit.identity, hit.score, hit.path)

The public names are loaded on first use, so that ``import siamese_search`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingest.summary import Failure, IngestSummary
    from siamese_search.api import evaluate, ingest, train
    from siamese_search.curating import duplicates, export, label, propose_identities
    from siamese_search.errors import SiameseSearchError
    from siamese_search.evaluation.report import EvaluationReport
    from siamese_search.gallery.opening import list_galleries, open_gallery, open_store
    from siamese_search.gallery_map import map_gallery
    from siamese_search.image_comparison import compare
    from siamese_search.io.images import read_image
    from siamese_search.model.bundle import Bundle, load_bundle
    from siamese_search.model.embedder import load_embedder
    from siamese_search.model_comparison import compare_models
    from siamese_search.quantising import quantise_model
    from siamese_search.render.pages import write_html_sheet
    from siamese_search.render.sheets import draw_sheet
    from siamese_search.render.star import draw_star
    from siamese_search.retrieval.results import QueryResult, SearchResult
    from siamese_search.searching import search, timeline
    from siamese_search.sweeps import sweep
    from siamese_search.training.run import TrainResult
    from siamese_search.upkeep import (
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

__version__ = "0.1.0"

_HOMES = {
    "ingest": "siamese_search.api",
    "search": "siamese_search.searching",
    "timeline": "siamese_search.searching",
    "compare": "siamese_search.image_comparison",
    "train": "siamese_search.api",
    "evaluate": "siamese_search.api",
    "duplicates": "siamese_search.curating",
    "export": "siamese_search.curating",
    "label": "siamese_search.curating",
    "propose_identities": "siamese_search.curating",
    "describe": "siamese_search.upkeep",
    "drop": "siamese_search.upkeep",
    "drop_old": "siamese_search.upkeep",
    "galleries": "siamese_search.upkeep",
    "optimise": "siamese_search.upkeep",
    "pull": "siamese_search.upkeep",
    "push": "siamese_search.upkeep",
    "reindex": "siamese_search.upkeep",
    "rollback": "siamese_search.upkeep",
    "verify": "siamese_search.upkeep",
    "map_gallery": "siamese_search.gallery_map",
    "quantise_model": "siamese_search.quantising",
    "sweep": "siamese_search.sweeps",
    "compare_models": "siamese_search.model_comparison",
    "IngestSummary": "ingest.summary",
    "Failure": "ingest.summary",
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

__all__ = [
    "Bundle",
    "EvaluationReport",
    "Failure",
    "IngestSummary",
    "QueryResult",
    "SearchResult",
    "SiameseSearchError",
    "TrainResult",
    "__version__",
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

"""The verbs as functions: the command line is a thin skin over these, so a script and the shell do the same.

Whatever is not given comes from the settings (``sss.toml``, ``SSS_*`` variables, defaults). Every failure is a
:class:`~siamese_search.errors.SiameseSearchError` with a one-line message. ``import siamese_search as sss`` shows them
all; :mod:`ingest.run` has the verb of the worker. They can be had from here, too, each loaded on first use.
"""

from __future__ import annotations

from typing import Any

_VERBS = {
    "ingest.run": ("ingest",),
    "siamese_search.api.retrieval": ("compare", "map_gallery", "search", "timeline"),
    "siamese_search.api.adaptation": ("adapt",),
    "siamese_search.api.training": ("new_run_directory", "quantise_model", "sweep", "train"),
    "siamese_search.api.handle": ("Gallery", "open"),
    "siamese_search.api.evaluation": ("compare_models", "evaluate"),
    "siamese_search.api.curation": ("duplicates", "export", "label", "propose_identities"),
    "siamese_search.api.maintenance": (
        "describe", "drop", "drop_old", "galleries", "optimise", "pull", "push", "reindex", "rollback", "verify",
    ),
}  # fmt: skip
_HOMES = {verb: home for home, verbs in _VERBS.items() for verb in verbs}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

"""The batch-ingest worker: scan, plan, decode, embed, commit.

``run_ingest`` is the pipeline over an open gallery; ``stop_on_signals`` lets Ctrl-C end it between batches.
Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingest.pipeline import run_ingest
    from ingest.summary import IngestSummary, Progress
    from siamese_search.datasets.records import Failure
    from siamese_search.io.signals import stop_on_signals

__all__ = ["Failure", "IngestSummary", "Progress", "run_ingest", "stop_on_signals"]

_HOMES = {
    "run_ingest": "ingest.pipeline",
    "Failure": "siamese_search.datasets.records",
    "IngestSummary": "ingest.summary",
    "Progress": "ingest.summary",
    "stop_on_signals": "siamese_search.io.signals",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

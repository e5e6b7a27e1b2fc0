"""run_ingest(): the ingest pipeline over an open gallery."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.summary import IngestSummary, Progress

if TYPE_CHECKING:
    from siamese_search.gallery.base import Gallery
    from siamese_search.model.embedder import Embedder


def run_ingest(
    roots: Sequence[Path],
    gallery: Gallery,
    embedder: Embedder,
    *,
    layout: str = "auto",
    source: str | None = None,
    batch_size: int = 64,
    decode_threads: int = 0,
    reembed: bool = False,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> IngestSummary:
    """Bring the gallery up to date with the images under ``roots``."""
    raise NotImplementedError

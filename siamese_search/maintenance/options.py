"""What a re-indexing is asked for: one request, for every way to ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from siamese_search import options as shared
from siamese_search.options import Request, StrPath, option

if TYPE_CHECKING:
    from siamese_search.model.embedder import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexOptions(Request):
    """See :func:`siamese_search.api.maintenance.reindex`. wait: seconds to queue for a store in use."""

    model: StrPath | None = option(
        None, "The new model.  [default: the settings', else the bundled one]", metavar="BUNDLE"
    )
    store: StrPath | None = shared.store()
    gallery: str | None = shared.gallery()
    keep_vectors: bool = option(False, "Copy the vectors; only the storage settings are new.")
    storage: str | None = shared.storage()
    quantise: str | None = shared.quantise()
    drop_missing: bool = option(False, "Leave out images that cannot be read any more.")
    batch_size: int | None = shared.batch_size()
    threads: int | None = shared.threads()
    device: Device = shared.embedding_device()
    wait: float = 10.0

"""The size of a gallery in a directory, on the embedded engine. ``benchmarks/plan.py`` holds it against real ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

from siamese_search.gallery.indexing import COMPACT_FROM, pays_index
from siamese_search.gallery.storage import Storage
from siamese_search.planning import figures


@dataclass(frozen=True, slots=True)
class EmbeddedSize:
    """Bytes on disk, part by part. ``optimised``: after ``sss optimise``; ``indexed``: with a graph."""

    optimised: bool
    indexed: bool
    vectors: float
    quantised: float
    graph: float
    payloads: float
    payload_indexes: float
    ids: float
    log: float

    @property
    def disk(self) -> float:
        return (
            self.vectors
            + self.quantised
            + self.graph
            + self.payloads
            + self.payload_indexes
            + self.ids
            + self.log
            + figures.EMBEDDED_FIXED
        )

    @property
    def resident(self) -> float:
        """What a search reads: all but the payloads, the log and, beside a quantised copy, the vectors.

        The estimate that ``sss info`` makes from the files (:func:`siamese_search.gallery.edge.footprint.measure`).
        """
        searched = self.quantised or self.vectors
        return searched + self.graph + self.payload_indexes + self.ids


def embedded_size(
    images: int,
    dim: int,
    storage: Storage,
    *,
    payload_bytes: float = figures.PAYLOAD_BYTES,
    optimised: bool | None = None,
    indexed: bool | None = None,
) -> EmbeddedSize:
    """The size of a gallery of ``images`` vectors of ``dim`` dimensions with payloads of so many bytes of JSON.

    optimised, indexed: as ``sss optimise`` would leave it where None (:mod:`siamese_search.gallery.indexing`).

        vectors          images × dim × 4 or 2
        quantised        images × (dim × 1, 1/2 or 1/8 + 8)
        payloads         images × (whole blocks of 128 bytes + 16)
        payload indexes  of identity, camera and source, by the byte as measured; other fields in proportion
        log              images × (dim × 5 or 3 + payload), of which the engine keeps the last full segment of 32 MiB
                         and the one that it writes to
    """
    indexed = pays_index(images, dim, storage) if indexed is None else indexed
    optimised = (indexed or images >= COMPACT_FROM) if optimised is None else optimised or indexed
    written = images * (dim * figures.LOG_BYTES[storage.vectors] + payload_bytes)
    extra = figures.EMBEDDED_QUANTISED_EXTRA[storage.quantisation]
    width = figures.QUANTISED_BYTES[storage.quantisation]
    blocks = math.ceil(payload_bytes / figures.PAYLOAD_BLOCK) * figures.PAYLOAD_BLOCK
    return EmbeddedSize(
        optimised=optimised,
        indexed=indexed,
        vectors=images * dim * figures.VECTOR_BYTES[storage.vectors],
        quantised=images * (dim * width + extra),
        graph=images * figures.EMBEDDED_GRAPH_BYTES if indexed else 0.0,
        payloads=images * (blocks + figures.PAYLOAD_TRACKER),
        payload_indexes=images * figures.EMBEDDED_INDEX_BYTES[optimised] * indexed_share(payload_bytes),
        ids=images * figures.EMBEDDED_ID_BYTES[optimised],
        log=written if written < figures.LOG_SEGMENT else figures.LOG_SEGMENT + written % figures.LOG_SEGMENT,
    )


def indexed_bytes(payload_bytes: float) -> float:
    """The bytes of a payload in indexed fields: all but key, path, checksum, size and time; at least a quarter."""
    return max(payload_bytes - figures.UNINDEXED_BYTES, payload_bytes / 4)


def indexed_share(payload_bytes: float) -> float:
    """The indexed bytes, as a multiple of those of an ingest without metadata."""
    return indexed_bytes(payload_bytes) / indexed_bytes(figures.PAYLOAD_BYTES)

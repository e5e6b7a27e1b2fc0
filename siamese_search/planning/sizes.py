"""The size of a gallery: in a directory, on the embedded engine, and on Qdrant servers, with the nodes and shards.

``benchmarks/plan.py`` holds the first against real ones. For servers the formulas are those of Qdrant's documentation,
Capacity Planning; what stays in memory is what this project's collections keep there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from siamese_search.gallery.storage import COMPACT_FROM, Storage, pays_index
from siamese_search.planning import figures
from siamese_search.settings import MOST_SHARDS


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """Bytes, part by part."""

    vectors: float
    quantised: float
    graph: float
    payloads: float
    payload_indexes: float
    ids: float

    @property
    def whole(self) -> float:
        return float(sum(getattr(self, part.name) for part in fields(_Parts)))

    def rounded(self) -> dict[str, int]:
        """The parts by name, in whole bytes."""
        return {part.name: round(getattr(self, part.name)) for part in fields(_Parts)}

    @property
    def resident(self) -> float:
        """What a search reads: all but the payloads and, beside a quantised copy, the vectors.

        The estimate that ``sss info`` makes from the files (:func:`siamese_search.gallery.edge.footprint.measure`).
        """
        return (self.quantised or self.vectors) + self.graph + self.payload_indexes + self.ids


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedSize(_Parts):
    """On disk. ``optimised``: after ``sss optimise``; ``indexed``: with a graph."""

    optimised: bool
    indexed: bool
    log: float

    @property
    def disk(self) -> float:
        return self.whole + self.log + figures.EMBEDDED_FIXED


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

    optimised, indexed: as ``sss optimise`` would leave it where None (:mod:`siamese_search.gallery.storage`).

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
    usual = indexed_bytes(figures.PAYLOAD_BYTES)  # of an ingest without metadata
    blocks = math.ceil(payload_bytes / figures.PAYLOAD_BLOCK) * figures.PAYLOAD_BLOCK
    return EmbeddedSize(
        optimised=optimised,
        indexed=indexed,
        vectors=images * dim * figures.VECTOR_BYTES[storage.vectors],
        quantised=images * (dim * width + extra),
        graph=images * figures.EMBEDDED_GRAPH_BYTES if indexed else 0.0,
        payloads=images * (blocks + figures.PAYLOAD_TRACKER),
        payload_indexes=images * figures.EMBEDDED_INDEX_BYTES[optimised] * indexed_bytes(payload_bytes) / usual,
        ids=images * figures.EMBEDDED_ID_BYTES[optimised],
        log=written if written < figures.LOG_SEGMENT else figures.LOG_SEGMENT + written % figures.LOG_SEGMENT,
    )


def indexed_bytes(payload_bytes: float) -> float:
    """The bytes of a payload in indexed fields: all but key, path, checksum, size and time; at least a quarter."""
    return max(payload_bytes - figures.UNINDEXED_BYTES, payload_bytes / 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSize(_Parts):
    """Of all replicas together, without headroom."""

    storage: Storage

    @property
    def ram(self) -> float:
        """To plan for, headroom included. Beside a quantised copy the vectors are on disk (``on_disk = true``)."""
        return self.resident * figures.HEADROOM

    @property
    def disk(self) -> float:
        """To plan for, headroom included."""
        return self.whole * figures.HEADROOM


@dataclass(frozen=True, slots=True)
class Topology:
    """Nodes and shards. ``bound_by``: what asks for so many nodes (``memory``, ``points`` or ``replicas``)."""

    nodes: int
    bound_by: str
    shards: int


def cluster_size(
    images: int, dim: int, storage: Storage, *, replicas: int, payload_bytes: float = figures.PAYLOAD_BYTES, m: int = 16
) -> ClusterSize:
    """The size of ``images`` points in ``replicas`` copies; ``m``: edges per node of the HNSW graph.

    base             images × replicas
    vectors          base × dim × 4 or 2
    quantised        base × dim × 1, 1/2 or 1/8
    graph            base × m × 2 × 4 × 1.2
    payloads         base × payload × 1.5
    payload indexes  base × indexed payload × 2
    ids              base × 52
    """
    base = images * replicas
    return ClusterSize(
        storage=storage,
        vectors=base * dim * figures.VECTOR_BYTES[storage.vectors],
        quantised=base * dim * figures.QUANTISED_BYTES[storage.quantisation],
        graph=base * m * 2 * figures.LINK_BYTES * figures.GRAPH_FACTOR,
        payloads=base * payload_bytes * figures.PAYLOAD_FACTOR,
        payload_indexes=base * indexed_bytes(payload_bytes) * figures.PAYLOAD_INDEX_FACTOR,
        ids=base * figures.ID_BYTES,
    )


def topology(images: int, ram: float, *, replicas: int, node_ram: float) -> Topology:
    """How many nodes of ``node_ram`` bytes hold ``ram`` bytes, and in how many shards.

    nodes: the most of RAM ÷ 80 % of a node's, points ÷ 100 million, and what replicas need. shards: two to a node, so
    that twice as many nodes can share them; as many as a gallery may have (``[server] shards``) at most.
    """
    wanted = {
        "memory": math.ceil(ram / (node_ram * figures.NODE_SHARE)),
        "points": math.ceil(images * replicas / figures.POINTS_PER_NODE),
        "replicas": 1 if replicas == 1 else max(replicas, int(figures.NODES_WITH_REPLICAS)),
    }
    bound_by = max(wanted, key=lambda name: wanted[name])
    nodes = wanted[bound_by]
    return Topology(nodes, bound_by, min(int(figures.SHARDS_PER_NODE) * nodes, MOST_SHARDS))


def rule_of_thumb(images: int, dim: int, *, replicas: int) -> float:
    """RAM for float32 vectors by Qdrant's older rule: vectors × dimensions × 4 bytes × 1.5."""
    return images * replicas * dim * figures.VECTOR_BYTES["float32"] * figures.RULE_OF_THUMB

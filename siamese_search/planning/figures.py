"""Every constant of the plan, each with where it comes from; the sizes that follow; and numbers as people write them.

Those of the embedded engine are measured by ``benchmarks/plan.py``, which compares what follows from them with
galleries that it makes. Those of a server, and the formulas, are Qdrant's own, from its documentation (Capacity
Planning); no server was measured here. What stays in memory is what this project's collections keep there.
People write ``1e9``, ``100M``, ``1_000_000``; ``128GB``, ``64GiB``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation

from siamese_search.errors import UsageError, printable
from siamese_search.gallery.storage import COMPACT_FROM, Storage, pays_index
from siamese_search.settings import MOST_SHARDS

_CAPACITY = "Qdrant documentation, Capacity Planning (qdrant.tech/documentation/capacity-planning)"
_QUANTISATION = "Qdrant documentation, Quantization (qdrant.tech/documentation/manage-data/quantization)"
_PLAN = "benchmarks/plan.py (results/plan.json)"
_PAYLOAD = "benchmarks/million.py (the payload of its points, as compact JSON)"
_INGEST = "benchmarks/ingest.py (results/ingest-256x128.json)"
_WALK = "benchmarks/reingest.py (results/reingest.json)"
_GALLERY = "benchmarks/gallery.py (results/gallery.json)"
_SERVER = "benchmarks/server.py (results/server.json)"

#: No plan is for more: a quadrillion.
LARGEST = 10**15

_COUNT = re.compile(r"([0-9][0-9_.,]*(?:e[+-]?[0-9]{1,3})?)\s*([kmbgt]?)", re.IGNORECASE)
_BYTES = re.compile(r"([0-9][0-9_.,]*(?:e[+-]?[0-9]{1,3})?)\s*(?:(b)|([kmgtp])(i?)b?)?", re.IGNORECASE)
_THOUSANDS = {"": 0, "k": 1, "m": 2, "b": 3, "g": 3, "t": 4, "p": 5}


@dataclass(frozen=True, slots=True)
class Figure:
    """A constant: its value, unit, and the benchmark or the document that it comes from."""

    name: str
    value: float
    unit: str
    source: str


ALL: dict[str, Figure] = {}


def _figure(name: str, value: float, unit: str, source: str) -> float:
    ALL[name] = Figure(name, value, unit, source)
    return value


# --- a server -----------------------------------------------------------------------------------------------------
VECTOR_BYTES = {
    "float32": _figure("float32", 4.0, "bytes per dimension", _CAPACITY),
    "float16": _figure("float16", 2.0, "bytes per dimension", _CAPACITY),
}
#: A copy of this many bytes per dimension beside the vectors.
QUANTISED_BYTES = {
    "none": 0.0,
    "int8": _figure("int8", 1.0, "bytes per dimension (compression 4)", _QUANTISATION),
    "int4": _figure("int4", 0.5, "bytes per dimension (compression 8)", _QUANTISATION),
    "binary": _figure("binary", 0.125, "bytes per dimension (compression 32)", _QUANTISATION),
}
LINK_BYTES = _figure("link", 4.0, "bytes; 2 × m links to a point", _CAPACITY)
GRAPH_FACTOR = _figure("graph_factor", 1.2, "for the graph's other layers and bookkeeping", _CAPACITY)
PAYLOAD_FACTOR = _figure("payload_factor", 1.5, "disk per byte of payload", _CAPACITY)
PAYLOAD_INDEX_FACTOR = _figure("payload_index_factor", 2.0, "per byte of indexed payload", _CAPACITY)
ID_BYTES = _figure("id", 52.0, "bytes per point", _CAPACITY)
HEADROOM = _figure("headroom", 1.2, "for the system, the log and work in hand, RAM and disk", _CAPACITY)
NODE_SHARE = _figure("node_share", 0.8, "of a node's RAM may be planned for", _CAPACITY)
POINTS_PER_NODE = _figure("points_per_node", 100e6, "points, about the most a node holds", _CAPACITY)
SHARDS_PER_NODE = _figure("shards_per_node", 2.0, "at least, to leave room for growth", _CAPACITY)
NODES_WITH_REPLICAS = _figure("nodes_with_replicas", 3.0, "nodes at least, with 2 replicas", _CAPACITY)
RULE_OF_THUMB = _figure("rule_of_thumb", 1.5, "× vectors × dimensions × 4 bytes of RAM", _CAPACITY)
PAYLOAD_BYTES = int(_figure("payload", 190, "bytes per image, with paths of 40 characters", _PAYLOAD))
UNINDEXED_BYTES = int(_figure("payload_unindexed", 134, "of these: key, path, crc, size, mtime_ns", _PAYLOAD))

# --- the embedded engine ------------------------------------------------------------------------------------------
#: Beside dim × bytes, each quantised vector carries this.
EMBEDDED_QUANTISED_EXTRA = {
    "none": 0.0,
    "int8": _figure("embedded_int8_extra", 4.0, "bytes per vector", _PLAN),
    "int4": _figure("embedded_int4_extra", 8.0, "bytes per vector", _PLAN),
    "binary": 0.0,
}
PAYLOAD_BLOCK = int(_figure("embedded_payload_block", 128, "bytes; a payload takes whole ones", _PLAN))
PAYLOAD_TRACKER = _figure("embedded_payload_tracker", 16.0, "bytes per point", _PLAN)
EMBEDDED_INDEX_BYTES = {
    False: _figure("embedded_indexes", 98.0, "bytes per point, before optimising", _PLAN),
    True: _figure("embedded_indexes_optimised", 95.0, "bytes per point, optimised", _PLAN),
}
EMBEDDED_ID_BYTES = {
    False: _figure("embedded_ids", 29.0, "bytes per point, before optimising", _PLAN),
    True: _figure("embedded_ids_optimised", 44.0, "bytes per point, optimised", _PLAN),
}
EMBEDDED_GRAPH_BYTES = _figure("embedded_graph", 65.0, "bytes per point, m = 16, compressed links", _PLAN)
#: The log keeps its numbers as CBOR: a float16 takes 3 bytes, a float32 5.
LOG_BYTES = {
    "float32": _figure("log_float32", 5.0, "bytes per dimension in the log", _PLAN),
    "float16": _figure("log_float16", 3.0, "bytes per dimension in the log", _PLAN),
}
LOG_SEGMENT = int(
    _figure("log_segment", 2**25, "bytes; the log keeps the last full one and the one it writes to", _PLAN)
)
EMBEDDED_FIXED = _figure("embedded_fixed", 0.2e6, "bytes of a gallery without points", _PLAN)

# --- time ---------------------------------------------------------------------------------------------------------
WORKER_RATE = _figure("worker_rate", 157.0, "images per second, a worker on 2 CPU cores at 256×128", _INGEST)
EMBED_MS = _figure("embed", 12.3, "ms of one core to decode and embed an image on the CPU", _INGEST)
WALK_RATE = _figure("walk", 22_041.0, "files per second that one process finds and looks up", _WALK)
EMBEDDED_WRITES = _figure("embedded_writes", 12_683.0, "points per second into a directory store", _GALLERY)
SERVER_WRITES = _figure(
    "server_writes", 24_273.0, "points per second that a client can send, whatever the server", _SERVER
)
SEARCH_MS = _figure("search", 1.2, "ms of one core for 10 results with payloads, besides the scan", _PLAN)
#: ns of one core to score a vector of 512 dimensions in a scan, by the format that is searched.
SCAN_NS = {
    name: _figure(f"scan_{name}", value, "ns per vector of 512 dimensions", _PLAN)
    for name, value in (("float32", 130.0), ("float16", 79.0), ("int8", 41.0), ("int4", 19.0), ("binary", 12.0))
}
#: A search in a graph of so many points, and what building it cost.
GRAPH_POINTS = _figure("graph_points", 100_000.0, "points in the graph that was measured", _PLAN)
GRAPH_SEARCH_MS = _figure("graph_search", 0.6, "ms of one core, 10 of so many points, int4", _PLAN)
GRAPH_BUILD_MS = _figure("graph_build", 0.75, "ms of one core per point, the copying included, int4", _PLAN)


def read_count(text: str) -> int:
    """A whole number from 1 to LARGEST: ``1e9``, ``100M``, ``1B`` (a billion), ``1_000_000``; else UsageError."""
    found = _COUNT.fullmatch(text.strip())
    value = _number(found[1]) * 1000 ** _THOUSANDS[found[2].lower()] if found else Decimal(0)
    if value < 1 or value > LARGEST or value != value.to_integral_value():
        raise UsageError(
            f"{printable(text[:40])!r} is not a count: write a whole number such as 1e9, 100M or 1_000_000"
        )
    return int(value)


def read_bytes(text: str) -> int:
    """Bytes, at least 1: ``128GB`` (10^9), ``64GiB`` (2^30), ``512M``, ``2000``. UsageError for anything else."""
    found = _BYTES.fullmatch(text.strip())
    value = Decimal(0)
    if found:
        value = _number(found[1]) * (1024 if found[4] else 1000) ** _THOUSANDS[(found[3] or "").lower()]
    if value < 1 or value > LARGEST * 1000:
        raise UsageError(f"{printable(text[:40])!r} is not a size: write it as 128GB, 64GiB or 512M")
    return int(value)


def _number(text: str) -> Decimal:
    """0 for what is none. A comma may only part thousands: 1,5 could be either of two numbers."""
    if "," in text and not re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+", text):
        return Decimal(0)
    try:
        return Decimal(text.replace("_", "").replace(",", ""))
    except InvalidOperation:
        return Decimal(0)


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
        return self.whole + self.log + EMBEDDED_FIXED


def embedded_size(
    images: int,
    dim: int,
    storage: Storage,
    *,
    payload_bytes: float = PAYLOAD_BYTES,
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
    written = images * (dim * LOG_BYTES[storage.vectors] + payload_bytes)
    extra = EMBEDDED_QUANTISED_EXTRA[storage.quantisation]
    width = QUANTISED_BYTES[storage.quantisation]
    usual = indexed_bytes(PAYLOAD_BYTES)  # of an ingest without metadata
    blocks = math.ceil(payload_bytes / PAYLOAD_BLOCK) * PAYLOAD_BLOCK
    return EmbeddedSize(
        optimised=optimised,
        indexed=indexed,
        vectors=images * dim * VECTOR_BYTES[storage.vectors],
        quantised=images * (dim * width + extra),
        graph=images * EMBEDDED_GRAPH_BYTES if indexed else 0.0,
        payloads=images * (blocks + PAYLOAD_TRACKER),
        payload_indexes=images * EMBEDDED_INDEX_BYTES[optimised] * indexed_bytes(payload_bytes) / usual,
        ids=images * EMBEDDED_ID_BYTES[optimised],
        log=written if written < LOG_SEGMENT else LOG_SEGMENT + written % LOG_SEGMENT,
    )


def indexed_bytes(payload_bytes: float) -> float:
    """The bytes of a payload in indexed fields: all but key, path, checksum, size and time; at least a quarter."""
    return max(payload_bytes - UNINDEXED_BYTES, payload_bytes / 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSize(_Parts):
    """Of all replicas together, without headroom."""

    storage: Storage

    @property
    def ram(self) -> float:
        """To plan for, headroom included. Beside a quantised copy the vectors are on disk (``on_disk = true``)."""
        return self.resident * HEADROOM

    @property
    def disk(self) -> float:
        """To plan for, headroom included."""
        return self.whole * HEADROOM


@dataclass(frozen=True, slots=True)
class Topology:
    """Nodes and shards. ``bound_by``: what asks for so many nodes (``memory``, ``points`` or ``replicas``)."""

    nodes: int
    bound_by: str
    shards: int


def cluster_size(
    images: int, dim: int, storage: Storage, *, replicas: int, payload_bytes: float = PAYLOAD_BYTES, m: int = 16
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
        vectors=base * dim * VECTOR_BYTES[storage.vectors],
        quantised=base * dim * QUANTISED_BYTES[storage.quantisation],
        graph=base * m * 2 * LINK_BYTES * GRAPH_FACTOR,
        payloads=base * payload_bytes * PAYLOAD_FACTOR,
        payload_indexes=base * indexed_bytes(payload_bytes) * PAYLOAD_INDEX_FACTOR,
        ids=base * ID_BYTES,
    )


def topology(images: int, ram: float, *, replicas: int, node_ram: float) -> Topology:
    """How many nodes of ``node_ram`` bytes hold ``ram`` bytes, and in how many shards.

    nodes: the most of RAM ÷ 80 % of a node's, points ÷ 100 million, and what replicas need. shards: two to a node, so
    that twice as many nodes can share them; as many as a gallery may have (``[server] shards``) at most.
    """
    wanted = {
        "memory": math.ceil(ram / (node_ram * NODE_SHARE)),
        "points": math.ceil(images * replicas / POINTS_PER_NODE),
        "replicas": 1 if replicas == 1 else max(replicas, int(NODES_WITH_REPLICAS)),
    }
    bound_by = max(wanted, key=lambda name: wanted[name])
    nodes = wanted[bound_by]
    return Topology(nodes, bound_by, min(int(SHARDS_PER_NODE) * nodes, MOST_SHARDS))


def rule_of_thumb(images: int, dim: int, *, replicas: int) -> float:
    """RAM for float32 vectors by Qdrant's older rule: vectors × dimensions × 4 bytes × 1.5."""
    return images * replicas * dim * VECTOR_BYTES["float32"] * RULE_OF_THUMB

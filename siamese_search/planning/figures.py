"""Every constant of the plan, each with where it comes from; and numbers as people write them.

Those of the embedded engine are measured by ``benchmarks/plan.py``, which compares what follows from them with
galleries that it makes. Those of a server are Qdrant's own, from its documentation; no server was measured here.
People write ``1e9``, ``100M``, ``1_000_000``; ``128GB``, ``64GiB``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from siamese_search.errors import UsageError, printable

_CAPACITY = "Qdrant documentation, Capacity Planning (qdrant.tech/documentation/capacity-planning)"
_QUANTISATION = "Qdrant documentation, Quantization (qdrant.tech/documentation/manage-data/quantization)"
_PLAN = "benchmarks/plan.py (results/plan.json)"

# --- what a point of ours holds ---------------------------------------------------------------------------------------
_PAYLOAD = "benchmarks/million.py (the payload of its points, as compact JSON)"

# --- time ---------------------------------------------------------------------------------------------------------
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
    "float32": _figure("scan_float32", 130.0, "ns per vector of 512 dimensions", _PLAN),
    "float16": _figure("scan_float16", 79.0, "ns per vector of 512 dimensions", _PLAN),
    "int8": _figure("scan_int8", 41.0, "ns per vector of 512 dimensions", _PLAN),
    "int4": _figure("scan_int4", 19.0, "ns per vector of 512 dimensions", _PLAN),
    "binary": _figure("scan_binary", 12.0, "ns per vector of 512 dimensions", _PLAN),
}
#: A search in a graph of so many points, and what building it cost.
GRAPH_POINTS = _figure("graph_points", 100_000.0, "points in the graph that was measured", _PLAN)
GRAPH_SEARCH_MS = _figure("graph_search", 0.6, "ms of one core, 10 of so many points, int4", _PLAN)
GRAPH_BUILD_MS = _figure("graph_build", 0.75, "ms of one core per point, the copying included, int4", _PLAN)


def read_count(text: str) -> int:
    """A whole number from 1: ``1e9``, ``1.5M``, ``2k``, ``1B`` (or ``1G``, a billion), ``1_000_000``, ``1,000,000``.

    Raises UsageError for anything else, for less than 1 and for more than LARGEST.
    """
    found = _COUNT.fullmatch(text.strip())
    value = _number(found[1]) * 1000 ** _THOUSANDS[found[2].lower()] if found else Decimal(0)
    if value < 1 or value > LARGEST or value != value.to_integral_value():
        raise UsageError(
            f"{printable(text[:40])!r} is not a count: write a whole number such as 1e9, 100M or 1_000_000"
        )
    return int(value)


def read_bytes(text: str) -> int:
    """Bytes, at least 1: ``128GB`` (10^9), ``64GiB`` (2^30), ``512M``, ``2000``.

    Raises UsageError for anything else.
    """
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

"""plan(): sizes, nodes, hours and a query's budget for so many images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass
from typing import Any

from siamese_search.errors import UsageError
from siamese_search.gallery.storage import DEFAULT_STORAGE, OVERSAMPLING, QUANTISATIONS, VECTORS, Storage
from siamese_search.options import Request, option
from siamese_search.planning import figures

_HOUR = 3600.0

#: The rows of the table: how vectors are kept, and what is searched.
CHOICES = (
    Storage("float32"),
    Storage("float16"),
    Storage("float16", "int8"),
    Storage("float16", "int4"),
    Storage("float16", "binary"),
)


def embedding_hours(
    images: int, workers: int, rate: float, *, walk: float = figures.WALK_RATE, writes: float = math.inf
) -> float:
    """Hours in which so many workers (GPUs), each embedding ``rate`` images per second, embed them all.

        images ÷ min(workers × rate, walk, writes) ÷ 3600

    walk: files per second that the process finds which hands them out. writes: images per second that the store takes.
    """
    return images / min(workers * rate, walk, writes) / _HOUR


def sending_hours(images: int, workers: int) -> float:
    """Hours in which so many workers send vectors to a server, if it takes what they can send. A lower bound."""
    return images / (workers * figures.SERVER_WRITES) / _HOUR


def graph_hours(images: int, *, replicas: int, shards: int, cores: int) -> float:
    """Hours in which ``cores`` in all build the HNSW graphs; each replica builds its own.

        images × replicas × build × log(points of a shard) ÷ log(points measured) ÷ cores

    An insertion is a search, whose cost grows with the logarithm of the points (Malkov and Yashunin, 2016).
    """
    cpu_ms = images * replicas * figures.GRAPH_BUILD_MS * _growth(images / shards)
    return cpu_ms / 1000 / cores / _HOUR


def graph_search_ms(points: float) -> float:
    """ms of one core for the 10 nearest in a graph of so many points: as measured, × log ÷ log."""
    return figures.GRAPH_SEARCH_MS * _growth(points)


def scan_ms(points: int, dim: int, storage: Storage) -> float:
    """ms of one core for a search without a graph: every vector is scored, in the format that is searched first.

    what any search takes + points × ns a vector × dim ÷ 512
    """
    return figures.SEARCH_MS + points * figures.SCAN_NS[storage.searched] * dim / 512 / 1e6


def _growth(points: float) -> float:
    return max(1.0, math.log(max(points, 2.0)) / math.log(figures.GRAPH_POINTS))


@dataclass(frozen=True, slots=True)
class QueryBudget:
    """What one query costs a cluster. All but the network and the disk's latency, which were not measured.

    embed_ms: the query image, decoded and embedded on a CPU. search_ms: in one shard; shards work side by side.
    cpu_ms: all shards together. candidates: scored again per shard; reads: pages from disk for them, in all.
    busy_cores, reads_per_second: at ``queries_per_second``, over all nodes.
    """

    k: int
    embed_ms: float
    search_ms: float
    cpu_ms: float
    candidates: int
    reads: int
    queries_per_second: float
    busy_cores: float
    reads_per_second: float


def query_budget(images: int, storage: Storage, *, shards: int, queries_per_second: float, k: int = 10) -> QueryBudget:
    """A query goes to one replica of each shard. A quantised copy hands over k × oversampling candidates, whose
    vectors are read from disk, a page each, unless the system still holds it.
    """
    search = graph_search_ms(images / shards)
    candidates = math.ceil(k * OVERSAMPLING.get(storage.quantisation, 0.0))
    reads = candidates * shards
    return QueryBudget(
        k=k,
        embed_ms=figures.EMBED_MS,
        search_ms=search,
        cpu_ms=search * shards,
        candidates=candidates,
        reads=reads,
        queries_per_second=queries_per_second,
        busy_cores=search * shards * queries_per_second / 1000,
        reads_per_second=reads * queries_per_second,
    )


def worker_counts(asked: int | None) -> Sequence[int]:
    """The numbers of workers to show: powers of two up to 64, and the one asked for."""
    return sorted({*(2**power for power in range(7)), *([asked] if asked else [])})


def _count(value: Any) -> int:
    return value if isinstance(value, int) else figures.read_count(str(value))


def _bytes(value: Any) -> int:
    return value if isinstance(value, int) else figures.read_bytes(str(value))


@dataclass(frozen=True, slots=True)
class Question(Request):
    """What is planned for. ``workers`` and ``rate``: GPUs and images per second of each; None where not said."""

    images: int = option(MISSING, "Images, such as 1e9, 100M, 1_000_000.", kind=_count, low=1, metavar="N")
    dim: int = option(512, "Dimensions of a vector.", low=1, metavar="D")
    storage: Storage = DEFAULT_STORAGE
    replicas: int = option(2, "Copies of everything.", low=1, high=64, metavar="N")
    node_ram: int = option(
        128 * 10**9, "Memory of a server's node.", named="nodes_ram", kind=_bytes, typed="128GB", low=1, metavar="SIZE"
    )
    node_cores: int = option(16, "Cores of a server's node.", named="nodes_cores", low=1, metavar="N")
    payload_bytes: int = option(
        figures.PAYLOAD_BYTES,
        f"JSON stored with an image.  [default: {figures.PAYLOAD_BYTES}]",
        kind=_bytes,
        unsaid=True,
        low=1,
        metavar="SIZE",
    )
    m: int = option(16, "Edges per node of the graph.", low=2, high=256, metavar="M")
    workers: int | None = option(None, "GPUs that embed; each is a worker.", named="gpus", kind=int, low=1, metavar="N")
    rate: float | None = option(
        None,
        "Of one worker; measure yours with benchmarks/ingest.py.  [default: 157, of 2 CPU cores]",
        named="images_per_second",
        kind=float,
        low=0,
        low_open=True,
        metavar="N",
    )
    queries_per_second: float = option(10.0, "Searches to answer.", low=0, low_open=True, metavar="N")
    k: int = 10

    def __post_init__(self) -> None:
        """Raises UsageError for a number that nothing can be planned for."""
        Request.__post_init__(self)
        if self.k < 1:
            raise UsageError(f"k must be at least 1, not {self.k}")
        if self.rate == math.inf or self.queries_per_second == math.inf:
            raise UsageError("images and queries per second must be below infinity")


@dataclass(frozen=True, slots=True)
class Row:
    """A way to keep the vectors, with what it takes on a server."""

    size: figures.ClusterSize
    topology: figures.Topology


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer. ``rows``: the usual storages, and the one asked for where it is not among them."""

    question: Question
    rows: tuple[Row, ...]
    chosen: Row
    embedded: figures.EmbeddedSize
    embedded_search_ms: float
    rate: float
    hours: Mapping[int, float]
    embedded_hours: Mapping[int, float]
    graph_hours: float
    keep_vectors_hours: Mapping[int, float]
    query: QueryBudget

    @property
    def points_per_shard(self) -> float:
        return self.question.images / self.chosen.topology.shards

    @property
    def walk_hours(self) -> float:
        """Hours in which one process finds all files: an ingest of one directory takes no less."""
        return self.question.images / figures.WALK_RATE / _HOUR

    @property
    def server_settings(self) -> dict[str, Any]:
        """The table ``[server]`` of an ``sss.toml`` that makes such a gallery."""
        asked = self.question
        quantisation = asked.storage.quantisation
        return {
            "shards": self.chosen.topology.shards,
            "replicas": asked.replicas,
            "on_disk": quantisation != "none",  # the copy is in memory, the vectors need not be
            "quantisation": quantisation,
            "m": asked.m,
        }

    def to_json(self) -> dict[str, Any]:
        """As ``sss plan --json`` prints it: bytes, hours, milliseconds."""
        asked, chosen = self.question, self.chosen
        disk, ram = chosen.size.disk, chosen.size.ram
        return {
            "images": asked.images,
            "dim": asked.dim,
            "storage": asked.storage.to_json(),
            **{name: getattr(asked, name) for name in ("replicas", "node_ram", "node_cores", "payload_bytes", "m")},
            "server": [self._row_json(row) for row in self.rows],
            "rule_of_thumb_ram": round(figures.rule_of_thumb(asked.images, asked.dim, replicas=asked.replicas)),
            "settings": self.server_settings,
            "embedded": {
                "optimised": self.embedded.optimised,
                "indexed": self.embedded.indexed,
                "disk": round(self.embedded.disk),
                "resident": round(self.embedded.resident),
                "search_ms": round(self.embedded_search_ms, 3),
            },
            "ingest": {
                "images_per_second": self.rate,
                "measured": asked.rate is None,
                "workers": [
                    {
                        "workers": count,
                        "hours": round(self.hours[count], 3),
                        "embedded_hours": round(self.embedded_hours[count], 3),
                        "keep_vectors_hours": round(self.keep_vectors_hours[count], 3),
                    }
                    for count in self.hours
                ],
                "graph_hours": round(self.graph_hours, 3),
                "walk_hours": round(self.walk_hours, 3),
            },
            "reindex": {
                "transient_disk": round(disk),
                "peak_disk": round(2 * disk),
                "peak_ram": round(2 * ram),
                "peak_disk_per_node": round(2 * disk / chosen.topology.nodes),
            },
            "query": {
                name: round(value, 3) if isinstance(value, float) else value
                for name, value in asdict(self.query).items()
            },
            "figures": [asdict(figure) for figure in figures.ALL.values()],
        }

    def _row_json(self, row: Row) -> dict[str, Any]:
        return {
            "storage": row.size.storage.to_json(),
            "asked": row == self.chosen,
            "ram": round(row.size.ram),
            "disk": round(row.size.disk),
            "nodes": row.topology.nodes,
            "bound_by": row.topology.bound_by,
            "shards": row.topology.shards,
            "points_per_shard": round(self.question.images / row.topology.shards),
            "parts": row.size.rounded(),
        }


def plan(question: Question) -> Plan:
    """Answer it. Pure arithmetic: nothing is opened, measured or asked."""
    asked = question
    choices = [*CHOICES, *([asked.storage] if asked.storage not in CHOICES else [])]
    choices.sort(key=lambda one: (VECTORS.index(one.vectors), QUANTISATIONS.index(one.quantisation)))
    rows = tuple(_row(asked, storage) for storage in choices)
    chosen = next(row for row in rows if row.size.storage == asked.storage)
    shards, nodes = chosen.topology.shards, chosen.topology.nodes
    embedded = figures.embedded_size(asked.images, asked.dim, asked.storage, payload_bytes=asked.payload_bytes)
    scan = scan_ms(asked.images, asked.dim, asked.storage)
    search_ms = figures.SEARCH_MS + graph_search_ms(asked.images) if embedded.indexed else scan
    rate = figures.WORKER_RATE if asked.rate is None else asked.rate
    counts = worker_counts(asked.workers)
    return Plan(
        question=asked, rows=rows, chosen=chosen, embedded=embedded,
        embedded_search_ms=search_ms, rate=rate,
        hours={count: embedding_hours(asked.images, count, rate) for count in counts},
        embedded_hours={
            count: embedding_hours(asked.images, count, rate, writes=figures.EMBEDDED_WRITES) for count in counts
        },
        graph_hours=graph_hours(asked.images, replicas=asked.replicas, shards=shards, cores=nodes * asked.node_cores),
        keep_vectors_hours={count: sending_hours(asked.images, count) for count in counts},
        query=query_budget(
            asked.images, asked.storage, shards=shards, queries_per_second=asked.queries_per_second, k=asked.k
        ),
    )  # fmt: skip


def _row(asked: Question, storage: Storage) -> Row:
    of = {"replicas": asked.replicas, "payload_bytes": asked.payload_bytes, "m": asked.m}
    size = figures.cluster_size(asked.images, asked.dim, storage, **of)
    return Row(size, figures.topology(asked.images, size.ram, replicas=asked.replicas, node_ram=asked.node_ram))

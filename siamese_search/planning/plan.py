"""plan(): sizes, nodes, hours and a query's budget for so many images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from siamese_search.errors import UsageError
from siamese_search.gallery.storage import DEFAULT_STORAGE, QUANTISATIONS, VECTORS, Storage
from siamese_search.planning import figures, work
from siamese_search.planning.cluster import ClusterSize, Topology, cluster_size, rule_of_thumb, topology
from siamese_search.planning.sizes import EmbeddedSize, embedded_size

#: The rows of the table: how vectors are kept, and what is searched.
CHOICES = (
    Storage("float32"),
    Storage("float16"),
    Storage("float16", "int8"),
    Storage("float16", "int4"),
    Storage("float16", "binary"),
)


@dataclass(frozen=True, slots=True)
class Question:
    """What is planned for. ``workers`` and ``rate``: GPUs and images per second of each; None where not said."""

    images: int
    dim: int = 512
    storage: Storage = DEFAULT_STORAGE
    replicas: int = 2
    node_ram: int = 128 * 10**9
    node_cores: int = 16
    payload_bytes: int = figures.PAYLOAD_BYTES
    m: int = 16
    workers: int | None = None
    rate: float | None = None
    queries_per_second: float = 10.0
    k: int = 10

    def __post_init__(self) -> None:
        """Raises UsageError for a number that nothing can be planned for."""
        whole = ("images", "dim", "replicas", "node_ram", "node_cores", "payload_bytes", "k")
        for name in whole:
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 2 <= self.m <= 256:
            raise UsageError(f"m must be from 2 to 256, not {self.m}")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"gpus must be at least 1, not {self.workers}")
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise UsageError(f"images-per-second must be above 0, not {self.rate}")
        if not 0 < self.queries_per_second < float("inf"):
            raise UsageError(f"queries-per-second must be above 0, not {self.queries_per_second}")


@dataclass(frozen=True, slots=True)
class Row:
    """A way to keep the vectors, with what it takes on a server."""

    size: ClusterSize
    topology: Topology


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer. ``rows``: the usual storages, and the one asked for where it is not among them."""

    question: Question
    rows: tuple[Row, ...]
    chosen: Row
    embedded: EmbeddedSize
    embedded_search_ms: float
    rate: float
    hours: Mapping[int, float]
    embedded_hours: Mapping[int, float]
    graph_hours: float
    keep_vectors_hours: Mapping[int, float]
    query: work.QueryBudget

    @property
    def points_per_shard(self) -> float:
        return self.question.images / self.chosen.topology.shards

    @property
    def walk_hours(self) -> float:
        """Hours in which one process finds all files: an ingest of one directory takes no less."""
        return self.question.images / figures.WALK_RATE / 3600

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
            "replicas": asked.replicas,
            "node_ram": asked.node_ram,
            "node_cores": asked.node_cores,
            "payload_bytes": asked.payload_bytes,
            "m": asked.m,
            "server": [self._row_json(row) for row in self.rows],
            "rule_of_thumb_ram": round(rule_of_thumb(asked.images, asked.dim, replicas=asked.replicas)),
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
            "query": {name: _rounded(value) for name, value in asdict(self.query).items()},
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
            "parts": {
                "vectors": round(row.size.vectors),
                "quantised": round(row.size.quantised),
                "graph": round(row.size.graph),
                "payloads": round(row.size.payloads),
                "payload_indexes": round(row.size.payload_indexes),
                "ids": round(row.size.ids),
            },
        }


def plan(question: Question) -> Plan:
    """Answer it. Pure arithmetic: nothing is opened, measured or asked."""
    asked = question
    choices = [*CHOICES, *([asked.storage] if asked.storage not in CHOICES else [])]
    order = {
        storage: (VECTORS.index(storage.vectors), QUANTISATIONS.index(storage.quantisation))
        for storage in choices
    }
    rows = tuple(_row(asked, storage) for storage in sorted(choices, key=lambda one: order[one]))
    chosen = next(row for row in rows if row.size.storage == asked.storage)
    shards, nodes = chosen.topology.shards, chosen.topology.nodes
    embedded = embedded_size(asked.images, asked.dim, asked.storage, payload_bytes=asked.payload_bytes)
    rate = figures.WORKER_RATE if asked.rate is None else asked.rate
    counts = work.worker_counts(asked.workers)
    return Plan(
        question=asked,
        rows=rows,
        chosen=chosen,
        embedded=embedded,
        embedded_search_ms=figures.SEARCH_MS + work.graph_search_ms(asked.images)
        if embedded.indexed
        else work.scan_ms(asked.images, asked.dim, asked.storage),
        rate=rate,
        hours={count: work.embedding_hours(asked.images, count, rate) for count in counts},
        embedded_hours={
            count: work.embedding_hours(asked.images, count, rate, writes=figures.EMBEDDED_WRITES)
            for count in counts
        },
        graph_hours=work.graph_hours(
            asked.images, replicas=asked.replicas, shards=shards, cores=nodes * asked.node_cores
        ),
        keep_vectors_hours={count: work.sending_hours(asked.images, count) for count in counts},
        query=work.query_budget(
            asked.images, asked.storage, shards=shards, queries_per_second=asked.queries_per_second, k=asked.k
        ),
    )


def _row(asked: Question, storage: Storage) -> Row:
    size = cluster_size(
        asked.images,
        asked.dim,
        storage,
        replicas=asked.replicas,
        payload_bytes=asked.payload_bytes,
        m=asked.m,
    )
    return Row(size, topology(asked.images, size.ram, replicas=asked.replicas, node_ram=asked.node_ram))


def _rounded(value: float) -> float:
    return round(value, 3) if isinstance(value, float) else value

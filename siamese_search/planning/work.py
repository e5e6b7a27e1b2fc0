"""How long it takes to fill a store, to index it again, and to answer a query."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from siamese_search.gallery.storage import OVERSAMPLING, Storage
from siamese_search.planning import figures

_HOUR = 3600.0


def embedding_hours(
    images: int, workers: int, rate: float, *, walk: float = figures.WALK_RATE, writes: float = math.inf
) -> float:
    """Hours in which so many workers (GPUs), each embedding ``rate`` images per second, embed them all.

        images ÷ min(workers × rate, walk, writes) ÷ 3600

    walk: files per second that the process finds which hands them out; several directories, each with an ingest of its
    own, are walked side by side. writes: images per second that the store takes; a directory store has one writer.
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


def query_budget(
    images: int, storage: Storage, *, shards: int, queries_per_second: float, k: int = 10
) -> QueryBudget:
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

"""The embedded engine: a gallery in a directory, on Qdrant Edge.

Search is exact until :meth:`EmbeddedGallery.optimise` builds an HNSW index, which it does from 100,000 points
on: below, an exact search takes under 10 ms. Vectors are stored as sent (Dot distance on unit vectors).
"""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import qdrant_edge as edge

from siamese_search.errors import GalleryReplacedError, StoreError, UsageError, printable
from siamese_search.gallery import layout
from siamese_search.gallery.base import Gallery, GalleryInfo, Hit, Payload, StoredPoint, Vectors
from siamese_search.gallery.checksums import vector_crc
from siamese_search.gallery.convert import (
    INDEX_FROM,
    bool_fields,
    decode_bools,
    encode_bools,
    to_filter,
    to_points,
    to_vector,
)
from siamese_search.gallery.fields import UNINDEXED, settle
from siamese_search.gallery.filters import Condition, check
from siamese_search.gallery.lease import ShardLease
from siamese_search.gallery.optimiser import run_in_child
from siamese_search.gallery.rows import canonical_ids, json_path, unit_rows

#: Points per engine call: large enough to be fast, small enough to let a waiting search in soon.
_CHUNK = 1000
_QUERY_CHUNK = 64
_MAX_K = 2**31


class EmbeddedGallery(Gallery):
    """One gallery of a directory store. Made by :func:`siamese_search.gallery.open_gallery`.

    Thread-safe. Several processes may have it open: each takes its turn (:mod:`.lease`), so calls may wait
    and raise StoreBusyError naming the holder. ``mode`` "r" refuses writes.

    It stands for one generation until it is closed. After another was published, a reader goes on in its own
    (as long as that is kept), so that no answer mixes two; a writer's next call raises GalleryReplacedError, so
    that nothing is written where nobody looks. A reader's does too once its generation has been deleted.
    """

    #: From this many points on, :meth:`optimise` builds an HNSW index.
    index_from = INDEX_FROM

    def __init__(
        self,
        store: Path,
        generation: Path,
        *,
        mode: str = "r",
        wait: float = 10.0,
        building: bool = False,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """building: the generation is not to be the current one, even for writing."""
        self.generation, self._mode, self._wait = generation, mode, wait
        self._building, self._on_close = building, on_close
        header = layout.read_header(generation)
        self.name, self.model = header.name, header.model
        self.store = os.fspath(store)
        self._what = f"gallery {self.name!r} in {printable(self.store)}"
        self._lease = ShardLease(self._locate, self._what, wait)

    def upsert(self, ids: Sequence[str], vectors: Vectors, payloads: Sequence[Payload]) -> None:
        self._writable()
        rows = unit_rows(vectors, self.dim)
        if not len(ids) == len(rows) == len(payloads):
            raise ValueError(f"{len(ids)} ids, {len(rows)} vectors and {len(payloads)} payloads do not match")
        names = canonical_ids(ids)
        for start in range(0, len(names), _CHUNK):
            part = slice(start, start + _CHUNK)
            with self._lease.use(writing=True) as shard:
                # Settled under the lock: another writer may have added fields since our last turn.
                settled, changed = settle(payloads[part], self._lease.types, row_offset=start)
                bools = bool_fields({**self._lease.types, **changed})
                for row, payload in zip(rows[part], settled):
                    payload["crc"] = vector_crc(row)
                    encode_bools(payload, bools)
                if settled and "crc" not in self._lease.types:
                    changed["crc"] = "int"
                if changed:
                    self._lease.add_fields(shard, changed)
                shard.update(edge.UpdateOperation.upsert_points(to_points(names[part], rows[part], settled)))

    def delete(self, ids: Sequence[str]) -> None:
        self._writable()
        names = canonical_ids(ids)
        for start in range(0, len(names), _CHUNK):
            with self._lease.use(writing=True) as shard:
                shard.update(edge.UpdateOperation.delete_points(list(names[start : start + _CHUNK])))

    def query_batch(
        self,
        vectors: Vectors,
        k: int,
        where: Sequence[Condition] = (),
        *,
        with_vectors: bool = False,
        with_payload: bool = True,
        exact: bool = False,
    ) -> list[list[Hit]]:
        out: list[list[Hit]] = []
        for rows in self._query_chunks(vectors, k):
            with self._lease.use() as shard:
                params = edge.SearchParams(exact=exact)
                ask = _Ask(self._filter(where), with_vectors, with_payload, params)
                bools = self._bools()
                for points, scores, bare in _nearest(shard, rows, min(k, _MAX_K), ask):
                    out.append(_hits(_filled(shard, points, ask) if bare else points, scores, bools))
        return out

    def query_ids(
        self, vectors: Vectors, k: int, where: Sequence[Condition] = (), *, exact: bool = False
    ) -> list[list[int]]:
        out: list[list[int]] = []
        for rows in self._query_chunks(vectors, k):
            with self._lease.use() as shard:
                ask = _Ask(self._filter(where), False, False, edge.SearchParams(exact=exact))
                for points, _, _ in _nearest(shard, rows, min(k, _MAX_K), ask):
                    ids: list[Any] = [point.id for point in points]
                    out.append([one.int for one in ids])
        return out

    def _query_chunks(self, vectors: Vectors, k: int) -> Iterator[Vectors]:
        """The query vectors, checked, a few at a time."""
        if k < 1:
            raise UsageError(f"k must be at least 1, not {k}")
        rows = unit_rows(vectors, self.dim, "query vector")
        for start in range(0, len(rows), _QUERY_CHUNK):
            yield rows[start : start + _QUERY_CHUNK]

    def retrieve(self, ids: Sequence[str], *, with_vectors: bool = False) -> list[StoredPoint | None]:
        names = canonical_ids(ids)
        found: dict[str, StoredPoint] = {}
        for start in range(0, len(names), _CHUNK):
            with self._lease.use() as shard:
                bools = self._bools()
                for record in shard.retrieve(list(names[start : start + _CHUNK]), True, with_vectors):
                    point = _stored(record, bools)
                    found[point.id] = point
        return [found.get(name) for name in names]

    def scroll(
        self,
        where: Sequence[Condition] = (),
        *,
        with_vectors: bool = False,
        fields: Sequence[str] | None = None,
        batch: int = 1000,
    ) -> Iterator[StoredPoint]:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, not {batch}")
        with self._lease.use():
            self._filter(where)  # an unknown field is an error now, not at the first next()
        selected: bool | list[str] = True
        if fields is not None:
            # A name that cannot be a field's is simply not there, as any other unknown one.
            selected = [json_path(name) for name in fields if name and '"' not in name and "\\" not in name]
        return self._pages(where, with_vectors, selected or False, batch)

    def _pages(
        self, where: Sequence[Condition], with_vectors: bool, selected: bool | list[str], batch: int
    ) -> Iterator[StoredPoint]:
        offset: Any = None
        while True:
            with self._lease.use() as shard:
                records, offset = shard.scroll(
                    edge.ScrollRequest(
                        offset=offset,
                        limit=batch,
                        filter=self._filter(where),
                        with_payload=selected,
                        with_vector=with_vectors,
                    )
                )
                bools = self._bools()
            for record in records:
                yield _stored(record, bools)
            if offset is None:
                return

    def count(self, where: Sequence[Condition] = ()) -> int:
        with self._lease.use() as shard:
            return shard.count(edge.CountRequest(exact=True, filter=self._filter(where)))

    def facet(self, field: str, where: Sequence[Condition] = (), limit: int = 100) -> dict[Any, int]:
        if limit < 1:
            raise UsageError(f"a facet's limit must be at least 1, not {limit}")
        with self._lease.use() as shard:
            wanted = self._filter(where)
            check(Condition(field, "present"), self._lease.types)
            kind = self._lease.types[field]
            if kind != "float" and field not in UNINDEXED:
                request = edge.FacetRequest(
                    json_path(field), limit=min(limit, _MAX_K), exact=True, filter=wanted
                )
                hits = [(hit.value, hit.count) for hit in shard.facet(request) if hit.count]
                if kind == "bool":
                    hits = [(value == "true", count) for value, count in hits]
                return dict(sorted(hits, key=_by_count))
        # The engine counts neither floats nor what has no index.
        counts = Counter(
            point.payload[field]
            for point in self.scroll([*where, Condition(field, "present")], fields=[field])
        )
        return dict(sorted(counts.items(), key=_by_count)[:limit])

    def fields(self) -> dict[str, str]:
        with self._lease.use():
            return dict(self._lease.types)

    def flush(self) -> None:
        self._lease.flush()

    def optimise(self, progress: Callable[[float], None] | None = None) -> bool:
        """As the contract; in a child process, because the engine freezes the process that it optimises in.

        ``progress`` is called some five times a second with the seconds passed. Interrupting (Ctrl-C) kills
        the child and leaves the gallery as usable as before. Others wait meanwhile, and are told for whom.
        """
        self._writable()
        with self._lease.use():
            pass  # opens, so that pending work and errors come up here
        self._lease.release()
        generation = self._locate()
        return run_in_child(
            generation,
            self._what,
            dim=self.dim,
            index_from=self.index_from,
            wait=self._wait,
            progress=progress,
        )

    def info(self) -> GalleryInfo:
        with self._lease.use() as shard:
            state = shard.info()
            return GalleryInfo(
                name=self.name,
                store=self.store,
                engine="qdrant-edge",
                points=shard.count(edge.CountRequest(exact=True)),
                indexed_points=state.indexed_vectors_count,
                model=self.model,
                size_bytes=layout.disk_bytes(self.generation),
                fields=dict(self._lease.types),
            )

    def write_mark(self) -> str | None:
        with self._lease.use():  # whoever writes has given way, and marks his next write again
            return f"{self.generation.name} {layout.read_mark(self.generation)}"

    def close(self) -> None:
        try:
            self._lease.close()
        finally:
            self._on_close()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the shard for the whole block, whoever waits."""
        with self._lease.use():
            yield

    def _locate(self) -> Path:
        """The generation, while it may be used. Asked under its lock: who deletes or replaces it holds that."""
        if (self._mode == "r" or self._building) and self.generation.is_dir():
            return self.generation
        # Raises by itself where the whole gallery has gone.
        if layout.current_generation(self.generation.parent) != self.generation:
            raise GalleryReplacedError(f"{self._what} was re-indexed meanwhile: run the command again")
        return self.generation

    def _bools(self) -> list[str]:
        return bool_fields(self._lease.types)

    def _writable(self) -> None:
        if self._mode != "w":
            raise StoreError(f"{self._what} is open for reading only")

    def _filter(self, where: Sequence[Condition]) -> edge.Filter | None:
        return to_filter([check(one, self._lease.types) for one in where]) if where else None


class _Ask:
    """What is the same for all queries of a batch."""

    def __init__(
        self,
        where: edge.Filter | None,
        with_vectors: bool,
        with_payload: bool,
        params: edge.SearchParams,
    ) -> None:
        self.where, self.params = where, params
        self.with_vectors, self.with_payload = with_vectors, with_payload

    def request(self, row: Vectors, limit: int, *, bare: bool = False) -> edge.QueryRequest:
        return edge.QueryRequest(
            limit=limit,
            query=edge.Query.Nearest(cast(Any, row)),  # an array: taken as it is, without a list of floats
            filter=self.where,
            params=self.params,
            with_payload=self.with_payload and not bare,
            with_vector=self.with_vectors and not bare,
        )


#: Points in order, the score of each, and whether their payload and vector are still to be fetched.
_Ranking = tuple[list[edge.ScoredPoint], list[float], bool]


def _nearest(shard: edge.EdgeShard, rows: Vectors, k: int, ask: _Ask) -> Iterator[_Ranking]:
    """The k nearest to each row [n, d], by score descending, then id ascending.

    The engine breaks ties as it likes, at the k-th place too. So one more is asked for, and where the score
    at the k-th place goes on to the last one fetched, more and more, until the tie ends or the points do.
    """
    requests = [ask.request(row, k + 1) for row in rows]
    results = (
        shard.query_batch(edge.QueryBatchRequest(requests))
        if len(requests) > 1
        else [shard.query(requests[0])]
    )
    for row, found in zip(rows, results):
        limit = k + 1
        points, scores = _ranked(found)
        bare = False
        while len(points) == limit and scores[k - 1] == scores[-1]:
            limit *= 8
            points, scores = _ranked(shard.query(ask.request(row, limit, bare=True)))
            bare = ask.with_payload or ask.with_vectors
        yield points[:k], scores[:k], bare


def _ranked(found: Sequence[edge.ScoredPoint]) -> tuple[list[edge.ScoredPoint], list[float]]:
    """Points by score descending, then id ascending, and their scores."""
    # Clipped before sorting: rounding puts equal vectors at 1.0000001, and a cosine ends at 1.
    scores = np.clip([point.score for point in found], -1.0, 1.0)
    if not (scores[1:] < scores[:-1]).all():  # an id costs more than all the rest: only ties ask for it
        keys = scores.tolist()
        order = sorted(range(len(keys)), key=lambda i: (-keys[i], cast(uuid.UUID, found[i].id).int))
        return [found[i] for i in order], scores[order].tolist()
    return list(found), scores.tolist()


def _hits(
    points: Sequence[edge.ScoredPoint | edge.Record], scores: Sequence[float], bools: Sequence[str]
) -> list[Hit]:
    return [
        Hit(
            str(point.id),
            score,
            decode_bools(point.payload, bools),
            None if point.vector is None else to_vector(point.vector),
        )
        for point, score in zip(points, scores)
    ]


def _filled(shard: edge.EdgeShard, points: Sequence[edge.ScoredPoint], ask: _Ask) -> list[edge.Record]:
    """The same points with what was asked for, in the same order."""
    wanted = shard.retrieve([point.id for point in points], ask.with_payload, ask.with_vectors)
    records = {record.id: record for record in wanted}
    return [records[point.id] for point in points]


def _stored(record: edge.Record, bools: Sequence[str]) -> StoredPoint:
    vector = None if record.vector is None else to_vector(record.vector)
    return StoredPoint(str(record.id), decode_bools(record.payload, bools), vector)


def _by_count(item: tuple[Any, int]) -> tuple[int, Any]:
    return -item[1], item[0]

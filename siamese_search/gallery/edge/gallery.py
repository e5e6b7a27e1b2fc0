"""The embedded engine: a gallery in a directory, on Qdrant Edge.

Search is exact, or goes through a quantised copy first, until :meth:`EmbeddedGallery.optimise` builds an HNSW index,
which pays only for large galleries (:func:`..storage.pays_index`). Dot distance on unit vectors keeps them as sent.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from siamese_search.errors import GalleryReplacedError, StoreError, UsageError, printable
from siamese_search.gallery.checks import vector_crc
from siamese_search.gallery.contract import (
    Gallery,
    GalleryInfo,
    Hit,
    OptimiseProgress,
    Payload,
    StoredPoint,
    Vectors,
)
from siamese_search.gallery.edge import journal, layout
from siamese_search.gallery.edge.convert import (
    FILTERS,
    Ask,
    bool_fields,
    decode_bools,
    encode_bools,
    filled,
    hits,
    nearest,
    search_params,
    to_points,
    to_vector,
)
from siamese_search.gallery.edge.footprint import has_index, measure
from siamese_search.gallery.edge.lease import ShardLease
from siamese_search.gallery.edge.optimise_child import run_in_child
from siamese_search.gallery.edge.tally import size
from siamese_search.gallery.fields import (
    CHUNK,
    UNINDEXED,
    canonical_ids,
    checked_points,
    chunks,
    gather,
    json_path,
    json_paths,
    most_frequent,
    one_per_id,
    reads_as,
    settle,
    unit_rows,
)
from siamese_search.gallery.filters import Condition, check
from siamese_search.gallery.storage import exact_if_filtered

_QUERY_CHUNK = 64
_MAX_K = 2**31


class EmbeddedGallery(Gallery):
    """One gallery of a directory store. Made by :func:`siamese_search.gallery.open_gallery`. Thread-safe.

    Several processes may have it open: each takes its turn (:mod:`.lease`), so calls may wait and raise StoreBusyError
    naming the holder. ``mode`` "r" refuses writes. It stands for one generation: see :meth:`Store.open`.
    """

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
        self.name, self.model, self.storage = header.name, header.model, header.storage
        self.store = os.fspath(store)
        self._what = f"gallery {self.name!r} in {printable(self.store)}"
        self._lease = ShardLease(self._locate, self._what, wait)

    def upsert(self, ids: Sequence[str], vectors: Vectors, payloads: Sequence[Payload]) -> None:
        self._writable()
        names, rows = checked_points(ids, vectors, payloads, self.dim)
        rows = self.storage.rounded(rows)
        for start in range(0, len(names), CHUNK):
            part = slice(start, start + CHUNK)
            room = 4 * rows[part].nbytes + 4 * len(str(payloads[part])) + 1024 * CHUNK
            with self._lease.use(writing=True, room=room) as shard:
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
                journal.note(self.generation, names[part])
                shard.update(edge.UpdateOperation.upsert_points(to_points(names[part], rows[part], settled)))

    def set_payload(self, ids: Sequence[str], payloads: Sequence[Payload]) -> None:
        self._writable()
        for some in chunks(list(one_per_id(canonical_ids(ids), payloads).items())):
            part = dict(some)
            with self._lease.use(writing=True, room=4 * len(str(part)) + 1024 * CHUNK) as shard:
                # The engine refuses ids that are not there.
                there = [str(record.id) for record in shard.retrieve(list(part), False, False)]
                changes, changed = gather({one: part[one] for one in there}, self._lease.types)
                bools = bool_fields({**self._lease.types, **changed})
                if changed:
                    self._lease.add_fields(shard, changed)
                journal.note(self.generation, there)
                for change in changes:
                    encode_bools(change.written, bools)
                    targets: list[Any] = list(change.ids)
                    if change.written:
                        shard.update(edge.UpdateOperation.set_payload(targets, change.written))
                    if change.removed:
                        paths = [json_path(name) for name in change.removed]
                        shard.update(edge.UpdateOperation.delete_payload(targets, paths))

    def delete(self, ids: Sequence[str]) -> None:
        self._writable()
        for part in chunks(canonical_ids(ids)):
            with self._lease.use(writing=True) as shard:
                journal.note(self.generation, part)
                shard.update(edge.UpdateOperation.delete_points(list(part)))

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
        params = self._params(k, where, exact)
        for rows in self._query_chunks(vectors, k):
            with self._lease.use() as shard:
                ask = Ask(self._filter(where), with_vectors, with_payload, params)
                bools = self._bools()
                for points, scores, bare in nearest(shard, rows, min(k, _MAX_K), ask):
                    out.append(hits(filled(shard, points, ask) if bare else points, scores, bools))
        return out

    def query_ids(
        self, vectors: Vectors, k: int, where: Sequence[Condition] = (), *, exact: bool = False
    ) -> list[list[int]]:
        out: list[list[int]] = []
        params = self._params(k, where, exact)
        for rows in self._query_chunks(vectors, k):
            with self._lease.use() as shard:
                ask = Ask(self._filter(where), False, False, params)
                for points, _, _ in nearest(shard, rows, min(k, _MAX_K), ask):
                    ids: list[Any] = [point.id for point in points]
                    out.append([one.int for one in ids])
        return out

    def _params(self, k: int, where: Sequence[Condition], exact: bool) -> edge.SearchParams:
        if where and not exact:
            with self._lease.use() as shard:
                exact = exact_if_filtered(size(shard), self.dim, self.storage.quantisation != "none")
        return search_params(self.storage, k, exact=exact, filtered=bool(where))

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
        for part in chunks(names):
            with self._lease.use() as shard:
                bools = self._bools()
                for record in shard.retrieve(list(part), True, with_vectors):
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
        return self._pages(where, with_vectors, json_paths(fields), batch)

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
            if not where:
                return size(shard)
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
                return most_frequent(dict(hits), limit)
        # The engine counts neither floats nor what has no index.
        counts = Counter(
            point.payload[field]
            for point in self.scroll([*where, Condition(field, "present")], fields=[field])
        )
        return most_frequent(counts, limit)

    def fields(self) -> dict[str, str]:
        with self._lease.use():
            return dict(self._lease.types)

    def narrow(self, field: str, kind: str) -> bool:
        self._writable()
        with self._lease.use(writing=True) as shard:
            if self._lease.types.get(field) != "str":
                return False
            if not reads_as(self.facet(field, limit=max(1, size(shard))), kind):
                return False
            self._lease.add_fields(shard, {field: kind})
            return True

    def flush(self) -> None:
        self._lease.flush()

    def optimise(self, *, index: bool | None = None, progress: OptimiseProgress | None = None) -> bool:
        """As the contract; in a child process, on a copy of the shard (:mod:`.optimise`). Interrupting (Ctrl-C) kills
        the child and leaves the gallery as it was.
        """
        self._writable()
        points = self.count()  # opens, so that pending work and errors come up here
        self._lease.release()
        return run_in_child(
            self._locate(), self._what, points=points, index=index, wait=self._wait, progress=progress
        )

    def info(self) -> GalleryInfo:
        with self._lease.use() as shard:
            state = shard.info()
            disk, resident = measure(self.generation, self.storage)
            return GalleryInfo(
                name=self.name,
                store=self.store,
                engine="qdrant-edge",
                points=size(shard),
                # A segment without a graph counts as indexed too: its configuration tells.
                indexed_points=state.indexed_vectors_count if has_index(self.generation) else 0,
                model=self.model,
                size_bytes=disk,
                fields=dict(self._lease.types),
                storage=self.storage,
                resident_bytes=resident,
                lost=self._lease.lost,
            )

    def write_mark(self) -> str | None:
        with self._lease.use():  # whoever writes has given way, and marks his next write again
            return f"{self.generation.name} {layout.read_mark(self.generation)}"

    def notes(self) -> dict[str, Any]:
        return dict(layout.read_header(self.generation).notes)

    def annotate(self, notes: Mapping[str, Any]) -> None:
        self._writable()
        with self._lease.use(writing=True):
            layout.write_header(self.generation, replace(layout.read_header(self.generation), notes=notes))

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
        return FILTERS.filter_of([check(one, self._lease.types) for one in where]) if where else None


def _stored(record: edge.Record, bools: Sequence[str]) -> StoredPoint:
    return StoredPoint(str(record.id), decode_bools(record.payload, bools), to_vector(record.vector))

"""The server engine: a gallery in a collection of a Qdrant server, one node or many.

Ties are ordered by id here too (among the points that an approximate index finds): queries fetch on until the tie at
the last place ends. There is no lock on a server: two writers that give a new field different types at once find out,
for each reads the fields back after it has written, and writes again if they are not those it wrote by.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from qdrant_client import QdrantClient, models

from siamese_search.errors import FilterError, GalleryReplacedError, StoreError, UsageError
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
from siamese_search.gallery.qdrant.collections import (
    add_fields,
    finish_fields,
    restore_indexing,
    search_params,
    wait_until_idle,
)
from siamese_search.gallery.qdrant.connection import Connection, MissingCollectionError
from siamese_search.gallery.qdrant.generation import Generation, read_generation
from siamese_search.gallery.qdrant.points import (
    FILTERS,
    counted,
    payload_operations,
    ranked_points,
    send,
    stored,
    to_payload,
    to_vector,
)

T = TypeVar("T")

_QUERY_CHUNK = 64
#: From this k on, the number of points is asked for first: a server may reserve memory for every place.
_LARGE_K = 10_000
#: Seconds for which what is known of the fields is taken for true when reading.
_FRESH = 2.0
_WRITE_ATTEMPTS = 10


class ServerGallery(Gallery):
    """One generation of a gallery on a server. Made by :class:`siamese_search.gallery.qdrant.store.ServerStore`.

    Thread-safe for reading; one thread writes. ``mode`` "r" refuses writes. Of generations see :meth:`Store.open`.
    """

    shared = True

    def __init__(
        self,
        connection: Connection,
        generation: Generation,
        *,
        mode: str = "r",
        wait: float = 10.0,
        watch: Callable[[Generation], None] = lambda _generation: None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """watch: called with the latest metadata after each write; may raise, when somebody else has taken over."""
        self._connection, self._mode, self._wait = connection, mode, wait
        self._watch, self._on_close, self._closed = watch, on_close, False
        self._generation, self._read_at = generation, 0.0
        self._info: models.CollectionInfo | None = None
        self.name, self.model, self.store = generation.gallery, generation.model, connection.location
        self.storage, self.collection = generation.storage, generation.collection
        self._what = f"gallery {self.name!r} in {self.store}"
        connection.try_grpc(self.collection, wait=wait)
        if mode == "w":
            finish_fields(self._run, self._refresh())

    def upsert(self, ids: Sequence[str], vectors: Vectors, payloads: Sequence[Payload]) -> None:
        self._writable()
        names, rows = checked_points(ids, vectors, payloads, self.dim)
        rows = self.storage.rounded(rows)
        for start in range(0, len(names), CHUNK):
            part = slice(start, start + CHUNK)
            self._upsert(names[part], rows[part], payloads[part], start)

    def _upsert(self, ids: list[str], rows: Vectors, payloads: Sequence[Payload], offset: int) -> None:
        def attempt(known: dict[str, str]) -> dict[str, str]:
            settled, changed = settle(payloads, known, row_offset=offset)
            for row, payload in zip(rows, settled):
                payload["crc"] = vector_crc(row)
            if settled and "crc" not in known:
                changed["crc"] = "int"
            if changed:
                add_fields(self._run, self._generation, changed)
            send(self._run, self._connection.grpc, self.collection, ids, rows, settled)
            return {**known, **changed}

        self._write(attempt)

    def _write(self, attempt: Callable[[dict[str, str]], dict[str, str]]) -> None:
        """Write until nobody has changed the fields meanwhile. attempt: from the known fields to those it wrote by."""
        for _ in range(_WRITE_ATTEMPTS):
            written = attempt(dict(self._generation.fields))
            now = self._refresh().fields
            self._watch(self._generation)
            if all(now.get(name) == kind for name, kind in written.items()):
                return
        raise StoreError(f"{self._what}: others keep changing the types of its fields; run the command again")

    def set_payload(self, ids: Sequence[str], payloads: Sequence[Payload]) -> None:
        self._writable()
        for part in chunks(list(one_per_id(canonical_ids(ids), payloads).items())):
            self._set_payload(dict(part))

    def _set_payload(self, part: dict[str, dict[str, Any]]) -> None:
        def attempt(known: dict[str, str]) -> dict[str, str]:
            changes, changed = gather(part, known)
            if changed:
                add_fields(self._run, self._generation, changed)
            operations = payload_operations(changes)
            if operations:
                self._run(QdrantClient.batch_update_points, self.collection, operations, wait=True)
            fields = {**known, **changed}
            return {name: fields[name] for change in changes for name in change.written}

        self._write(attempt)

    def delete(self, ids: Sequence[str]) -> None:
        self._writable()
        for part in chunks(canonical_ids(ids)):
            selector = models.PointIdsList(points=list(part))
            self._run(QdrantClient.delete, self.collection, selector, wait=True)
        self._refresh()
        self._watch(self._generation)

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
        floats = self._floats()
        return [
            [Hit(str(p.id), score, to_payload(p.payload, floats), to_vector(p.vector)) for p, score in ranked]
            for ranked in self._nearest(vectors, k, where, with_payload, with_vectors, exact)
        ]

    def query_ids(
        self, vectors: Vectors, k: int, where: Sequence[Condition] = (), *, exact: bool = False
    ) -> list[list[int]]:
        return [
            [uuid.UUID(str(point.id)).int for point, _ in ranked]
            for ranked in self._nearest(vectors, k, where, False, False, exact)
        ]

    def _nearest(
        self,
        vectors: Vectors,
        k: int,
        where: Sequence[Condition],
        with_payload: bool,
        with_vectors: bool,
        exact: bool,
    ) -> Iterator[list[tuple[models.ScoredPoint, float]]]:
        """The k nearest to each row, by score descending, then id ascending: see the module's first lines."""
        if k < 1:
            raise UsageError(f"k must be at least 1, not {k}")
        rows = unit_rows(vectors, self.dim, "query vector")
        wanted = self._filter(where)
        if k > _LARGE_K:
            k = min(k, max(1, self.count(where)))
        params = search_params(self._collection_info(), self.dim, exact=exact, filtered=bool(where))
        request = partial(
            models.QueryRequest, params=params, with_payload=with_payload, with_vector=with_vectors
        )

        def ask(rows: Vectors, limit: int) -> list[models.QueryResponse]:
            requests = [request(query=row.tolist(), filter=wanted, limit=limit) for row in rows]
            return self._run(QdrantClient.query_batch_points, self.collection, requests)

        for start in range(0, len(rows), _QUERY_CHUNK):
            part = rows[start : start + _QUERY_CHUNK]
            for row, answer in zip(part, ask(part, k + 1), strict=True):
                limit, ranked = k + 1, ranked_points(answer.points)
                while len(ranked) == limit and ranked[k - 1][1] == ranked[-1][1]:
                    limit *= 8
                    ranked = ranked_points(ask(row[None], limit)[0].points)
                yield ranked[:k]

    def retrieve(self, ids: Sequence[str], *, with_vectors: bool = False) -> list[StoredPoint | None]:
        names = canonical_ids(ids)
        floats = self._floats()
        found: dict[str, StoredPoint] = {}
        for part in chunks(names):
            records = self._run(
                QdrantClient.retrieve, self.collection, part, with_payload=True, with_vectors=with_vectors
            )
            found |= {str(record.id): stored(record, floats) for record in records}
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
        wanted = self._filter(where)  # an unknown field is an error now, not at the first next()
        return self._pages(wanted, with_vectors, json_paths(fields), batch)

    def _pages(
        self, wanted: models.Filter | None, with_vectors: bool, selected: bool | list[str], batch: int
    ) -> Iterator[StoredPoint]:
        offset: Any = None
        while True:
            records, offset = self._run(
                QdrantClient.scroll,
                self.collection,
                scroll_filter=wanted,
                limit=batch,
                offset=offset,
                with_payload=selected,
                with_vectors=with_vectors,
            )
            floats = self._floats()
            for record in records:
                yield stored(record, floats)
            if offset is None:
                return

    def count(self, where: Sequence[Condition] = ()) -> int:
        found = self._run(QdrantClient.count, self.collection, count_filter=self._filter(where), exact=True)
        return int(found.count)

    def facet(self, field: str, where: Sequence[Condition] = (), limit: int = 100) -> dict[Any, int]:
        if limit < 1:
            raise UsageError(f"a facet's limit must be at least 1, not {limit}")
        wanted = self._filter([*where, Condition(field, "present")])
        if self._generation.fields[field] == "float" or field in UNINDEXED:
            # The server counts neither floats nor what has no index.
            points = self.scroll([*where, Condition(field, "present")], fields=[field])
            return most_frequent(Counter(point.payload[field] for point in points), limit)
        # Of several shards each sends its own most frequent values only, so then all are asked for.
        shards = self._collection_info().config.params.shard_number or 1
        everything = max(1, self.count(where)) if shards > 1 or limit > _LARGE_K else None
        facet = partial(
            self._run, QdrantClient.facet, self.collection, json_path(field), facet_filter=wanted, exact=True
        )
        return counted(facet, limit, everything)

    def fields(self) -> dict[str, str]:
        return dict(self._refresh().fields)

    def narrow(self, field: str, kind: str) -> bool:
        self._writable()
        known = self._refresh().fields.get(field)
        if known != "str" or not reads_as(self.facet(field, limit=max(1, self.count())), kind):
            return False
        # A writer of text in between finds the other type, and writes again.
        add_fields(self._run, self._generation, {field: kind})
        self._refresh()
        return True

    def flush(self) -> None:
        """Nothing to do: the server has written an acknowledged batch to its log, and syncs that by itself."""
        self._open()

    def optimise(self, *, index: bool | None = None, progress: OptimiseProgress | None = None) -> bool:  # noqa: ARG002
        """As the contract. The server indexes by itself; this lets it begin after a bulk load, and waits for it."""
        self._writable()
        held_back = self._refresh().deferred
        if held_back:
            restore_indexing(self._connection, self.collection, held_back, wait=self._wait)
        # The optimiser starts a moment after the change: one look is not enough to say that it rests.
        look = partial(self._run, QdrantClient.get_collection, self.collection)
        return wait_until_idle(lambda: look().status, 3 if held_back else 1, progress) or bool(held_back)

    def info(self) -> GalleryInfo:
        self._refresh()
        return GalleryInfo(
            name=self.name,
            store=self.store,
            engine="qdrant",
            points=self.count(),
            indexed_points=self._collection_info().indexed_vectors_count or 0,
            model=self.model,
            size_bytes=None,
            fields=dict(self._generation.fields),
            storage=self.storage,
        )

    def notes(self) -> dict[str, Any]:
        return dict(self._refresh().notes)

    def annotate(self, notes: Mapping[str, Any]) -> None:
        self._writable()
        self._run(QdrantClient.update_collection, self.collection, metadata={"notes": dict(notes)})
        self._refresh()
        self._watch(self._generation)

    def close(self) -> None:
        """Release, and let the server (or the next writer's close) index what a bulk load has held back."""
        if self._closed:
            return
        try:
            if self._mode == "w" and (deferred := self._generation.deferred):
                with suppress(StoreError):
                    restore_indexing(self._connection, self.collection, deferred, wait=0)
        finally:
            self._closed = True
            self._on_close()

    def _open(self) -> None:
        if self._closed:
            raise StoreError(f"{self._what} is closed")

    def _run(self, operation: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """``operation(client, ...)``: a method of QdrantClient, carried out patiently, with its errors in our words."""
        self._open()
        what: dict[str, Any] = {"wait": self._wait, "collection": self.collection}
        try:
            return self._connection.call(lambda client: operation(client, *args, **kwargs), **what)
        except MissingCollectionError:
            raise GalleryReplacedError(
                f"{self._what} was re-indexed or dropped meanwhile: run the command again"
            ) from None

    def _refresh(self) -> Generation:
        """Read the collection's metadata again."""
        info = self._run(QdrantClient.get_collection, self.collection)
        generation = read_generation(info.config.metadata, self._what)
        if generation is None or generation.state == "dropped":
            raise GalleryReplacedError(f"{self._what} was dropped meanwhile")
        self._info, self._generation, self._read_at = info, generation, time.monotonic()
        return generation

    def _collection_info(self) -> models.CollectionInfo:
        if self._info is None:
            self._refresh()
        assert self._info is not None
        return self._info

    def _floats(self) -> list[str]:
        return [name for name, kind in self._generation.fields.items() if kind == "float"]

    def _filter(self, where: Sequence[Condition]) -> models.Filter | None:
        """The server's filter. Fields that are not known are looked for again before they are called unknown."""
        self._open()
        if not where:
            return None
        if time.monotonic() - self._read_at > _FRESH:
            self._refresh()
        try:
            checked = [check(one, self._generation.fields) for one in where]
        except FilterError:
            fields = self._refresh().fields
            checked = [check(one, fields) for one in where]
        wanted: models.Filter | None = FILTERS.filter_of(checked)
        return wanted

    def _writable(self) -> None:
        if self._mode != "w":
            raise StoreError(f"{self._what} is open for reading only")

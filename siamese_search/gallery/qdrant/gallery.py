"""The server engine: a gallery in a collection of a Qdrant server, one node or many.

There is no lock on a server: two writers that give a new field different types at once find out,
for each reads the fields back after it has written, and writes again if they are not those it wrote by.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any, TypeVar, cast

from qdrant_client import QdrantClient, models

from siamese_search.errors import FilterError, GalleryReplacedError, StoreError
from siamese_search.gallery.contract import GalleryInfo, OptimiseProgress, Payload, Vectors
from siamese_search.gallery.engine import Ask, EngineGallery, Read, with_checksums
from siamese_search.gallery.fields import chunks, gather, json_path
from siamese_search.gallery.filters import Condition, Where, check
from siamese_search.gallery.qdrant import collections
from siamese_search.gallery.qdrant.collections import add_fields, finish_fields, search_params, wait_until_idle
from siamese_search.gallery.qdrant.connection import Connection, MissingCollectionError
from siamese_search.gallery.qdrant.generation import Generation, read_generation
from siamese_search.gallery.qdrant.points import FILTERS, counted, payload_operations, send, to_payload

T = TypeVar("T")

#: From this k on, the number of points is asked for first: a server may reserve memory for every place.
_LARGE_K = 10_000
#: Seconds for which what is known of the fields is taken for true when reading.
_FRESH = 2.0
_WRITE_ATTEMPTS = 10


class ServerGallery(EngineGallery):
    """One generation of a gallery on a server. Thread-safe for reading; one thread writes."""

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
        connection.try_grpc(self.collection, wait=wait)
        if mode == "w":
            finish_fields(self._run, self._refresh())

    @property
    def _types(self) -> Mapping[str, str]:
        return self._generation.fields

    def _turn(self, *, writing: bool = False) -> AbstractContextManager[Any]:  # noqa: ARG002 - there is no lock
        return nullcontext()

    def _put(self, ids: list[str], rows: Vectors, payloads: Sequence[Payload], offset: int) -> None:
        def attempt(known: dict[str, str]) -> dict[str, str]:
            settled, changed = with_checksums(payloads, rows, known, offset)
            if changed:
                add_fields(self._run, self._generation, changed)
            send(self._run, self._connection.grpc, self.collection, ids, rows, settled)
            return {**known, **changed}

        self._write(attempt)

    def _write(self, attempt: Callable[[dict[str, str]], dict[str, str]]) -> None:
        """Write until nobody has changed the fields meanwhile. attempt: from the known fields to those it wrote by."""
        for _ in range(_WRITE_ATTEMPTS):
            written = attempt(dict(self._types))
            self._watch(self._refresh())
            if written.items() <= self._types.items():
                return
        raise StoreError(f"{self.what}: others keep changing the types of its fields; run the command again")

    def _change(self, changes: dict[str, dict[str, Any]]) -> None:
        def attempt(known: dict[str, str]) -> dict[str, str]:
            gathered, changed = gather(changes, known)
            if changed:
                add_fields(self._run, self._generation, changed)
            operations = payload_operations(gathered)
            if operations:
                self._run(QdrantClient.batch_update_points, self.collection, operations, wait=True)
            fields = {**known, **changed}
            return {name: fields[name] for change in gathered for name in change.written}

        self._write(attempt)

    def _remove(self, ids: list[str]) -> None:
        self._run(QdrantClient.delete, self.collection, models.PointIdsList(points=cast(Any, ids)), wait=True)
        self._watch(self._refresh())

    def _retype(self, changed: dict[str, str]) -> None:
        # A writer of text in between finds the other type, and writes again.
        add_fields(self._run, self._generation, changed)
        self._refresh()

    def _search(self, k: int, where: Where, exact: bool) -> tuple[int, Ask]:
        wanted = self._filter(where)
        if k > _LARGE_K:
            k = min(k, max(1, self.count(where)))
        params = search_params(self._collection_info(), self.dim, exact=exact, filtered=bool(where))

        def ask(rows: Vectors, limit: int, payload: bool, vectors: bool) -> Sequence[Sequence[Any]]:
            request = partial(models.QueryRequest, params=params, with_payload=payload, with_vector=vectors)
            requests = [request(query=row.tolist(), filter=wanted, limit=limit) for row in rows]
            answers = self._run(QdrantClient.query_batch_points, self.collection, requests)
            if len(answers) != len(requests):
                raise StoreError(f"{self.what}: {len(answers)} answers came to {len(requests)} questions")
            return [answer.points for answer in answers]

        return k, ask

    def _records(self, ids: list[Any], with_payload: bool, with_vectors: bool) -> Iterable[Any]:
        wanted: dict[str, bool] = {"with_payload": with_payload, "with_vectors": with_vectors}
        return [
            record
            for part in chunks(ids)
            for record in self._run(QdrantClient.retrieve, self.collection, part, **wanted)
        ]

    def _page(
        self, offset: Any, limit: int, where: Where, fields: bool | list[str], with_vectors: bool
    ) -> tuple[Iterable[Any], Any]:
        wanted: dict[str, Any] = {"limit": limit, "offset": offset, "scroll_filter": self._filter(where)}
        wanted |= {"with_payload": fields, "with_vectors": with_vectors}
        return self._run(QdrantClient.scroll, self.collection, **wanted)

    def _reader(self) -> Read:
        floats = [name for name, kind in self._types.items() if kind == "float"]
        return partial(to_payload, floats=floats)

    def count(self, where: Where = ()) -> int:
        found = self._run(QdrantClient.count, self.collection, count_filter=self._filter(where), exact=True)
        return int(found.count)

    def _counted(self, field: str, where: Where, limit: int) -> Mapping[Any, int]:
        wanted = self._filter([*where, Condition(field, "present")])
        # Of several shards each sends its own most frequent values only, so then all are asked for.
        shards = self._collection_info().config.params.shard_number or 1
        everything = max(1, self.count(where)) if shards > 1 or limit > _LARGE_K else None
        facet = partial(
            self._run, QdrantClient.facet, self.collection, json_path(field), facet_filter=wanted, exact=True
        )
        return counted(facet, limit, everything)

    def fields(self) -> dict[str, str]:
        return dict(self._refresh().fields)

    def flush(self) -> None:
        """Nothing to do: the server has written an acknowledged batch to its log, and syncs that by itself."""
        self._open()

    def optimise(self, *, index: bool | None = None, progress: OptimiseProgress | None = None) -> bool:  # noqa: ARG002
        """As the contract. The server indexes by itself; this lets it begin after a bulk load, and waits for it."""
        self._writable()
        held_back = self._refresh().deferred
        if held_back:
            collections.restore_indexing(self._connection, self.collection, held_back, wait=self._wait)
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
        self._watch(self._refresh())

    def close(self) -> None:
        """Release, and let the server (or the next writer's close) index what a bulk load has held back."""
        if self._closed:
            return
        try:
            if self._mode == "w" and (deferred := self._generation.deferred):
                with suppress(StoreError):
                    collections.restore_indexing(self._connection, self.collection, deferred, wait=0)
        finally:
            self._closed = True
            self._on_close()

    def _open(self) -> None:
        if self._closed:
            raise StoreError(f"{self.what} is closed")

    def _run(self, operation: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """``operation(client, ...)``: a method of QdrantClient, carried out patiently, with its errors in our words."""
        self._open()
        what: dict[str, Any] = {"wait": self._wait, "collection": self.collection}
        try:
            return self._connection.call(lambda client: operation(client, *args, **kwargs), **what)
        except MissingCollectionError:
            raise GalleryReplacedError(
                f"{self.what} was re-indexed or dropped meanwhile: run the command again"
            ) from None

    def _refresh(self) -> Generation:
        """Read the collection's metadata again."""
        info = self._run(QdrantClient.get_collection, self.collection)
        generation = read_generation(info.config.metadata, self.what)
        if generation is None or generation.state == "dropped":
            raise GalleryReplacedError(f"{self.what} was dropped meanwhile")
        self._info, self._generation, self._read_at = info, generation, time.monotonic()
        return generation

    def _collection_info(self) -> models.CollectionInfo:
        if self._info is None:
            self._refresh()
        assert self._info is not None
        return self._info

    def _filter(self, where: Where) -> Any:
        """The server's filter. Fields that are not known are looked for again before they are called unknown."""
        self._open()
        if not where:
            return None
        if time.monotonic() - self._read_at > _FRESH:
            self._refresh()
        try:
            checked = [check(one, self._types) for one in where]
        except FilterError:
            self._refresh()
            checked = [check(one, self._types) for one in where]
        return FILTERS.filter_of(checked)

"""The embedded engine: a gallery in a directory, on Qdrant Edge.

Search is exact, or goes through a quantised copy first, until :meth:`EmbeddedGallery.optimise` builds an HNSW index.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import qdrant_edge as edge

from siamese_search.errors import GalleryReplacedError
from siamese_search.gallery.contract import GalleryInfo, OptimiseProgress, Payload, Vectors
from siamese_search.gallery.edge import convert, journal, layout
from siamese_search.gallery.edge.convert import FILTERS, bool_fields, encode_bools, search_params, to_points
from siamese_search.gallery.edge.footprint import check_writable, has_index, measure
from siamese_search.gallery.edge.lease import ShardLease
from siamese_search.gallery.edge.optimise import run_in_child
from siamese_search.gallery.engine import Ask, EngineGallery, Read, with_checksums
from siamese_search.gallery.fields import CHUNK, gather, json_path
from siamese_search.gallery.filters import Where, check
from siamese_search.gallery.storage import exact_if_filtered

_MAX_K = 2**31


class EmbeddedGallery(EngineGallery):
    """One gallery of a directory store. Thread-safe.

    Several processes may have it open: each takes its turn (:mod:`.lease`), so calls may wait and raise StoreBusyError
    naming the holder.
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
        self._lease = ShardLease(self._locate, self.what, wait)

    @property
    def _types(self) -> Mapping[str, str]:
        return self._lease.types

    def _turn(self, *, writing: bool = False) -> AbstractContextManager[Any]:
        return self._lease.use(writing=writing)

    def _put(self, ids: list[str], rows: Vectors, payloads: Sequence[Payload], offset: int) -> None:
        room = 4 * rows.nbytes + 4 * len(str(payloads)) + 1024 * CHUNK
        with self._lease.use(writing=True, room=room) as shard:
            # Settled under the lock: another writer may have added fields since our last turn.
            settled, changed = with_checksums(payloads, rows, self._types, offset)
            bools = bool_fields({**self._types, **changed})
            for payload in settled:
                encode_bools(payload, bools)
            if changed:
                self._lease.add_fields(shard, changed)
            journal.note(self.generation, ids)
            shard.update(edge.UpdateOperation.upsert_points(to_points(ids, rows, settled)))

    def _change(self, changes: dict[str, dict[str, Any]]) -> None:
        with self._lease.use(writing=True, room=4 * len(str(changes)) + 1024 * CHUNK) as shard:
            # The engine refuses ids that are not there.
            there = [str(record.id) for record in shard.retrieve(list(changes), False, False)]
            gathered, changed = gather({one: changes[one] for one in there}, self._types)
            bools = bool_fields({**self._types, **changed})
            if changed:
                self._lease.add_fields(shard, changed)
            journal.note(self.generation, there)
            for change in gathered:
                encode_bools(change.written, bools)
                targets: list[Any] = list(change.ids)
                if change.written:
                    shard.update(edge.UpdateOperation.set_payload(targets, change.written))
                if change.removed:
                    paths = [json_path(name) for name in change.removed]
                    shard.update(edge.UpdateOperation.delete_payload(targets, paths))

    def _remove(self, ids: list[str]) -> None:
        with self._lease.use(writing=True) as shard:
            journal.note(self.generation, ids)
            shard.update(edge.UpdateOperation.delete_points(cast(Any, ids)))

    def _retype(self, changed: dict[str, str]) -> None:
        with self._lease.use(writing=True) as shard:
            self._lease.add_fields(shard, changed)

    def _filter(self, where: Where) -> Any:
        return FILTERS.filter_of([check(one, self._types) for one in where])

    def _search(self, k: int, where: Where, exact: bool) -> tuple[int, Ask]:
        if where and not exact:
            with self._lease.use():
                exact = exact_if_filtered(self._lease.size(), self.dim, self.storage.quantisation != "none")
        params = search_params(self.storage, k, exact=exact, filtered=bool(where))

        def ask(rows: Vectors, limit: int, payload: bool, vectors: bool) -> Sequence[Sequence[Any]]:
            with self._lease.use() as shard:
                wanted = self._filter(where)
                requests = [
                    edge.QueryRequest(
                        limit=limit,
                        query=edge.Query.Nearest(cast(Any, row)),  # an array: taken without a list of floats
                        filter=wanted,
                        params=params,
                        with_payload=payload,
                        with_vector=vectors,
                    )
                    for row in rows
                ]
                if len(requests) == 1:
                    return [shard.query(requests[0])]
                return shard.query_batch(edge.QueryBatchRequest(requests))

        return min(k, _MAX_K), ask

    def _records(self, ids: list[Any], with_payload: bool, with_vectors: bool) -> Iterable[Any]:
        with self._lease.use() as shard:
            return shard.retrieve(ids, with_payload, with_vectors)

    def _page(
        self, offset: Any, limit: int, where: Where, fields: bool | list[str], with_vectors: bool
    ) -> tuple[Iterable[Any], Any]:
        with self._lease.use() as shard:
            wanted = self._filter(where)
            return shard.scroll(
                edge.ScrollRequest(
                    offset=offset, limit=limit, filter=wanted, with_payload=fields, with_vector=with_vectors
                )
            )

    def _reader(self) -> Read:
        return partial(convert.decode_bools, names=bool_fields(self._types))

    def count(self, where: Where = ()) -> int:
        with self._lease.use() as shard:
            if not where:
                return self._lease.size()
            return shard.count(edge.CountRequest(exact=True, filter=self._filter(where)))

    def _counted(self, field: str, where: Where, limit: int) -> Mapping[Any, int]:
        request = partial(edge.FacetRequest, json_path(field), limit=min(limit, _MAX_K), exact=True)
        with self._lease.use() as shard:
            hits = [hit for hit in shard.facet(request(filter=self._filter(where))) if hit.count]
        bools = self._types[field] == "bool"
        return {hit.value == "true" if bools else hit.value: hit.count for hit in hits}

    def fields(self) -> dict[str, str]:
        with self._lease.use():
            return dict(self._lease.types)

    def flush(self) -> None:
        self._lease.flush()

    def optimise(self, *, index: bool | None = None, progress: OptimiseProgress | None = None) -> bool:
        """As the contract; in a child process, on a copy of the shard (:mod:`.optimise`). Interrupting (Ctrl-C) kills
        the child and leaves the gallery as it was.
        """
        self._writable()
        check_writable(self._locate(), self.what)
        points = self.count()  # opens, so that pending work and errors come up here
        self._lease.release()
        return run_in_child(self._locate(), self.what, points=points, index=index, wait=self._wait, progress=progress)

    def info(self) -> GalleryInfo:
        with self._lease.use() as shard:
            state = shard.info()
            disk, resident = measure(self.generation, self.storage)
            return GalleryInfo(
                name=self.name,
                store=self.store,
                engine="qdrant-edge",
                points=self._lease.size(),
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

    def alone(self) -> AbstractContextManager[Any]:
        """Hold the shard for the whole block, whoever waits."""
        return self._lease.use()

    def _locate(self) -> Path:
        """The generation, while it may be used. Asked under its lock: who deletes or replaces it holds that."""
        if (self._mode == "r" or self._building) and self.generation.is_dir():
            return self.generation
        # Raises by itself where the whole gallery has gone.
        if layout.current_generation(self.generation.parent) != self.generation:
            raise GalleryReplacedError(f"{self.what} was re-indexed meanwhile: run the command again")
        return self.generation

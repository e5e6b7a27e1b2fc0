"""Forwarding: a gallery around another, for whoever must see its calls; and Serial, which makes them wait in turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from siamese_search.gallery.contract import (
    Gallery,
    GalleryInfo,
    Hit,
    OptimiseProgress,
    Payload,
    StoredPoint,
    Vectors,
)
from siamese_search.gallery.filters import Condition


class Forwarding(Gallery):
    """Passes every call on to the gallery inside, each within :meth:`around`."""

    def __init__(self, inside: Gallery) -> None:
        self._inside = inside
        self.name, self.store, self.shared = inside.name, inside.store, inside.shared
        self.model, self.storage = inside.model, inside.storage

    def around(self, call: str) -> AbstractContextManager[object]:
        """What the call of this name happens within. What an iterator does later (``scroll``) is not."""
        del call
        return nullcontext()

    def upsert(self, ids: Sequence[str], vectors: Vectors, payloads: Sequence[Payload]) -> None:
        with self.around("upsert"):
            self._inside.upsert(ids, vectors, payloads)

    def set_payload(self, ids: Sequence[str], payloads: Sequence[Payload]) -> None:
        with self.around("set_payload"):
            self._inside.set_payload(ids, payloads)

    def delete(self, ids: Sequence[str]) -> None:
        with self.around("delete"):
            self._inside.delete(ids)

    def query_batch(
        self, vectors: Vectors, k: int, where: Sequence[Condition] = (), **options: bool
    ) -> list[list[Hit]]:
        with self.around("query_batch"):
            return self._inside.query_batch(vectors, k, where, **options)

    def query_ids(
        self, vectors: Vectors, k: int, where: Sequence[Condition] = (), *, exact: bool = False
    ) -> list[list[int]]:
        with self.around("query_ids"):
            return self._inside.query_ids(vectors, k, where, exact=exact)

    def retrieve(self, ids: Sequence[str], *, with_vectors: bool = False) -> list[StoredPoint | None]:
        with self.around("retrieve"):
            return self._inside.retrieve(ids, with_vectors=with_vectors)

    def scroll(
        self,
        where: Sequence[Condition] = (),
        *,
        with_vectors: bool = False,
        fields: Sequence[str] | None = None,
        batch: int = 1000,
    ) -> Iterator[StoredPoint]:
        with self.around("scroll"):
            return self._inside.scroll(where, with_vectors=with_vectors, fields=fields, batch=batch)

    def count(self, where: Sequence[Condition] = ()) -> int:
        with self.around("count"):
            return self._inside.count(where)

    def facet(self, field: str, where: Sequence[Condition] = (), limit: int = 100) -> dict[Any, int]:
        with self.around("facet"):
            return self._inside.facet(field, where, limit)

    def fields(self) -> dict[str, str]:
        with self.around("fields"):
            return self._inside.fields()

    def narrow(self, field: str, kind: str) -> bool:
        with self.around("narrow"):
            return self._inside.narrow(field, kind)

    def flush(self) -> None:
        with self.around("flush"):
            self._inside.flush()

    def optimise(self, *, index: bool | None = None, progress: OptimiseProgress | None = None) -> bool:
        with self.around("optimise"):
            return self._inside.optimise(index=index, progress=progress)

    def info(self) -> GalleryInfo:
        with self.around("info"):
            return self._inside.info()

    def write_mark(self) -> str | None:
        with self.around("write_mark"):
            return self._inside.write_mark()

    def notes(self) -> dict[str, Any]:
        with self.around("notes"):
            return self._inside.notes()

    def annotate(self, notes: Mapping[str, Any]) -> None:
        with self.around("annotate"):
            self._inside.annotate(notes)

    def close(self) -> None:
        with self.around("close"):
            self._inside.close()


class Serial(Forwarding):
    """The same gallery for several threads: each call waits for the one before it, for engines need not be safe."""

    def __init__(self, inside: Gallery) -> None:
        super().__init__(inside)
        self._lock = threading.Lock()

    def around(self, call: str) -> AbstractContextManager[object]:
        del call
        return self._lock

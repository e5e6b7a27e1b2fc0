"""What the gallery of every engine does alike: it checks what comes in, goes in parts, and orders what comes out.

And galleries around another, whatever its engine: :class:`Forwarding`, for whoever must see its calls.
"""

from __future__ import annotations

import threading
import uuid
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

from siamese_search.errors import StoreError, UsageError
from siamese_search.gallery.checks import vector_crc
from siamese_search.gallery.contract import Gallery, Hit, Payload, StoredPoint, Vectors
from siamese_search.gallery.fields import (
    CHUNK,
    UNINDEXED,
    beyond,
    canonical_ids,
    chunks,
    json_paths,
    most_frequent,
    one_per_id,
    reads_as,
    settle,
    unit_rows,
)
from siamese_search.gallery.filters import Condition, Where

_QUERY_CHUNK = 64

#: Asks for so many nearest of each row, float32 [n, d], with payload or not, with vectors or not: n lists, best first.
Ask = Callable[[Vectors, int, bool, bool], Sequence[Sequence[Any]]]
#: An engine's payload as it was sent.
Read = Callable[[Any], dict[str, Any]]


class EngineGallery(Gallery):
    """An open gallery of an engine, which gives the steps: each for a part, and in its own records."""

    _mode: str

    @property
    @abstractmethod
    def _types(self) -> Mapping[str, str]:
        """The fields as they are known, within :meth:`_turn`."""

    @abstractmethod
    def _turn(self, *, writing: bool = False) -> AbstractContextManager[Any]:
        """Where nobody else writes, as far as the engine can tell others to wait. May be entered again inside."""

    @abstractmethod
    def _put(self, ids: list[str], rows: Vectors, payloads: Sequence[Payload], offset: int) -> None:
        """Insert or replace points. offset: of the first among all that were given, for errors."""

    @abstractmethod
    def _change(self, changes: dict[str, dict[str, Any]]) -> None:
        """Change payload fields, by id."""

    @abstractmethod
    def _remove(self, ids: list[str]) -> None: ...

    @abstractmethod
    def _retype(self, changed: dict[str, str]) -> None:
        """Store fields by other types."""

    @abstractmethod
    def _filter(self, where: Where) -> Any:
        """The engine's filter. FilterError for what cannot be asked of these fields."""

    @abstractmethod
    def _search(self, k: int, where: Where, exact: bool) -> tuple[int, Ask]:
        """How to ask for the k nearest; k, perhaps less where there are not as many points."""

    @abstractmethod
    def _records(self, ids: list[Any], with_payload: bool, with_vectors: bool) -> Iterable[Any]:
        """The records of those ids that there are, in any order."""

    @abstractmethod
    def _page(
        self, offset: Any, limit: int, where: Where, fields: bool | list[str], with_vectors: bool
    ) -> tuple[Iterable[Any], Any]:
        """Records by ascending id from ``offset`` on, and where the next begin; ``None`` for none."""

    @abstractmethod
    def _counted(self, field: str, where: Where, limit: int) -> Mapping[Any, int]:
        """The ``limit`` most frequent values of an indexed field, or more of them."""

    @abstractmethod
    def _reader(self) -> Read:
        """How to read payloads, by the fields as they are known."""

    def upsert(self, ids: Sequence[str], vectors: Vectors, payloads: Sequence[Payload]) -> None:
        self._writable()
        rows = unit_rows(vectors, self.dim)
        if not len(ids) == len(rows) == len(payloads):
            raise ValueError(f"{len(ids)} ids, {len(rows)} vectors and {len(payloads)} payloads do not match")
        names, rows = canonical_ids(ids), self.storage.rounded(rows)
        for start in range(0, len(names), CHUNK):
            part = slice(start, start + CHUNK)
            self._put(names[part], rows[part], payloads[part], start)

    def set_payload(self, ids: Sequence[str], payloads: Sequence[Payload]) -> None:
        self._writable()
        for part in chunks(list(one_per_id(canonical_ids(ids), payloads).items())):
            self._change(dict(part))

    def delete(self, ids: Sequence[str]) -> None:
        self._writable()
        for part in chunks(canonical_ids(ids)):
            self._remove(list(part))

    def query_batch(
        self,
        vectors: Vectors,
        k: int,
        where: Where = (),
        *,
        with_vectors: bool = False,
        with_payload: bool = True,
        exact: bool = False,
    ) -> list[list[Hit]]:
        return [
            [
                Hit(str(one.id), score, read(one.payload), to_vector(one.vector, self.dim))
                for one, score in zip(points, scores, strict=True)
            ]
            for points, scores, read in self._nearest(vectors, k, where, exact, with_payload, with_vectors)
        ]

    def query_ids(self, vectors: Vectors, k: int, where: Where = (), *, exact: bool = False) -> list[list[int]]:
        found = self._nearest(vectors, k, where, exact, False, False)
        return [[_number(point.id) for point in points] for points, _, _ in found]

    def _nearest(
        self, vectors: Vectors, k: int, where: Where, exact: bool, with_payload: bool, with_vectors: bool
    ) -> Iterator[tuple[Sequence[Any], list[float], Read]]:
        """The k nearest to each row with their scores, by score descending, then id ascending.

        Engines break ties as they like. So one more is asked for, and where the score at the k-th place goes on to the
        last one fetched, more and more, until the tie ends or the points do.
        """
        if k < 1:
            raise UsageError(f"k must be at least 1, not {k}")
        rows = unit_rows(vectors, self.dim, "query vector")
        k, ask = self._search(k, where, exact)
        for start in range(0, len(rows), _QUERY_CHUNK):
            part = rows[start : start + _QUERY_CHUNK]
            answers: list[tuple[Sequence[Any], list[float], Read]] = []
            with self._turn():
                read = self._reader()
                for row, found in zip(part, ask(part, k + 1, with_payload, with_vectors), strict=True):
                    limit, (points, scores) = k + 1, _ranked(found)
                    while len(points) == limit and scores[k - 1] == scores[-1] and limit <= self.count(where):
                        limit *= 8
                        points, scores = _ranked(ask(row[None], limit, False, False)[0])
                    points, scores = points[:k], scores[:k]
                    if limit > k + 1 and (with_payload or with_vectors):
                        ids = [point.id for point in points]
                        there = {one.id: one for one in self._records(ids, with_payload, with_vectors)}
                        scores = [score for one, score in zip(ids, scores, strict=True) if one in there]
                        points = [there[one] for one in ids if one in there]
                    answers.append((points, scores, read))
            yield from answers

    def retrieve(self, ids: Sequence[str], *, with_vectors: bool = False) -> list[StoredPoint | None]:
        names = canonical_ids(ids)
        found: dict[str, StoredPoint] = {}
        for part in chunks(names):
            with self._turn():
                read = self._reader()
                points = [self._stored(one, read) for one in self._records(list(part), True, with_vectors)]
            found |= {point.id: point for point in points}
        return [found.get(name) for name in names]

    def scroll(
        self, where: Where = (), *, with_vectors: bool = False, fields: Sequence[str] | None = None, batch: int = 1000
    ) -> Iterator[StoredPoint]:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, not {batch}")
        with self._turn():
            self._filter(where)  # an unknown field is an error now, not at the first next()
        return self._pages(where, with_vectors, json_paths(fields), batch)

    def _pages(self, where: Where, with_vectors: bool, fields: bool | list[str], batch: int) -> Iterator[StoredPoint]:
        offset: Any = None
        while True:
            with self._turn():
                records, after = self._page(offset, batch, where, fields, with_vectors)
                read = self._reader()
            for record in records:
                yield self._stored(record, read)
            offset = beyond(offset, after)
            if offset is None:
                return

    def _stored(self, record: Any, read: Read) -> StoredPoint:
        return StoredPoint(str(record.id), read(record.payload), to_vector(record.vector, self.dim))

    def facet(self, field: str, where: Where = (), limit: int = 100) -> dict[Any, int]:
        if limit < 1:
            raise UsageError(f"a facet's limit must be at least 1, not {limit}")
        present = [*where, Condition(field, "present")]
        with self._turn():
            self._filter(present)
            if self._types[field] != "float" and field not in UNINDEXED:
                return most_frequent(self._counted(field, where, limit), limit)
        # Engines count neither floats nor what has no index.
        return most_frequent(Counter(one.payload[field] for one in self.scroll(present, fields=[field])), limit)

    def narrow(self, field: str, kind: str) -> bool:
        self._writable()
        with self._turn(writing=True):
            if self.fields().get(field) != "str" or not reads_as(self.facet(field, limit=max(1, self.count())), kind):
                return False
            self._retype({field: kind})
            return True

    def _writable(self) -> None:
        if self._mode != "w":
            raise StoreError(f"{self.what} is open for reading only")


def with_checksums(
    payloads: Sequence[Payload], rows: Vectors, known: Mapping[str, str], offset: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """:func:`~.fields.settle`, with the ``crc`` of each row, float32 [n, d]."""
    settled, changed = settle(payloads, known, row_offset=offset)
    for row, payload in zip(rows, settled):
        payload["crc"] = vector_crc(row)
    if settled and "crc" not in known:
        changed["crc"] = "int"
    return settled, changed


def to_vector(stored: Any, dim: int) -> Vectors | None:
    """An engine's vector as float32 [d]; None where it was not asked for, or is lost: an object, or of another form."""
    lost = stored is None or isinstance(stored, dict) or len(stored) != dim or isinstance(stored[0], list)
    return None if lost else np.array(stored, dtype=np.float32)


def _number(one: Any) -> int:
    return one.int if isinstance(one, uuid.UUID) else uuid.UUID(one).int


def _ranked(found: Sequence[Any]) -> tuple[Sequence[Any], list[float]]:
    """Points and their scores, by score descending, then id ascending (as text, whose order is the same)."""
    # Clipped before sorting: rounding puts equal vectors at 1.0000001, and a cosine ends at 1.
    scores = np.clip([point.score for point in found], -1.0, 1.0)
    keys: list[float] = scores.tolist()
    if not (scores[1:] < scores[:-1]).all():  # an id costs more than all the rest: only ties ask for it
        order = sorted(range(len(keys)), key=lambda place: (-keys[place], str(found[place].id)))
        return [found[place] for place in order], [keys[place] for place in order]
    return found, keys


F = TypeVar("F", bound=Callable[..., Any])


def _passed_on(method: F) -> F:
    """The same method of the gallery inside, within what is to be around it."""
    name = method.__name__

    @wraps(method, updated=())  # not its mark of being abstract
    def call(self: Forwarding, *args: Any, **options: Any) -> Any:
        with self.around(name):
            return getattr(self.inside, name)(*args, **options)

    return cast(F, call)


class Forwarding(Gallery):
    """Passes every call on to the gallery inside, each within what ``around`` gives for the call's name.

    What an iterator does later (``scroll``) is not.
    """

    def __init__(self, inside: Gallery, around: Callable[[str], AbstractContextManager[object]]) -> None:
        self.inside, self.around = inside, around
        self.name, self.store, self.shared = inside.name, inside.store, inside.shared
        self.model, self.storage = inside.model, inside.storage

    upsert = _passed_on(Gallery.upsert)
    set_payload = _passed_on(Gallery.set_payload)
    delete = _passed_on(Gallery.delete)
    query_batch = _passed_on(Gallery.query_batch)
    query_ids = _passed_on(Gallery.query_ids)
    retrieve = _passed_on(Gallery.retrieve)
    scroll = _passed_on(Gallery.scroll)
    count = _passed_on(Gallery.count)
    facet = _passed_on(Gallery.facet)
    fields = _passed_on(Gallery.fields)
    narrow = _passed_on(Gallery.narrow)
    flush = _passed_on(Gallery.flush)
    optimise = _passed_on(Gallery.optimise)
    info = _passed_on(Gallery.info)
    write_mark = _passed_on(Gallery.write_mark)
    notes = _passed_on(Gallery.notes)
    annotate = _passed_on(Gallery.annotate)
    close = _passed_on(Gallery.close)


def serial(inside: Gallery) -> Gallery:
    """The same gallery for several threads: each call waits for the one before it, for engines need not be safe."""
    lock = threading.Lock()
    return Forwarding(inside, lambda _: lock)

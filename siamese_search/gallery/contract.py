"""The contracts of a gallery and of the store that holds galleries: one for every engine.

A gallery has a *current* generation, which searches use. Re-indexing fills another one beside it (*building*),
publishes it in one atomic step, and keeps the former one (*previous*) to roll back to.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import NO_METADATA, MetadataValue, decode_key, is_somebody
from siamese_search.errors import ModelMismatchError, printable
from siamese_search.gallery.filters import Where
from siamese_search.gallery.storage import DEFAULT_STORAGE, Storage
from siamese_search.io.location import located
from siamese_search.io.resources import Closing

Payload = Mapping[str, Any]
Vectors = NDArray[np.float32]

#: Called some five times a second with what is being done, in a word or two, and the seconds passed.
OptimiseProgress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which model made (or will make) a gallery's vectors."""

    fingerprint: str
    dim: int
    name: str = ""  # for people: where the model came from

    def same_as(self, other: ModelRef) -> bool:
        return (self.fingerprint, self.dim) == (other.fingerprint, other.dim)

    def check(self, gallery: ModelRef, what: str) -> None:
        """Raise ModelMismatchError unless a gallery, ``what``, was made by this model."""
        if not self.same_as(gallery):
            raise ModelMismatchError(
                f"{what} was made by another model: {gallery}, not {self}; search with that model, or embed the"
                f" gallery again: sss reindex --model {quote(self.name or 'MODEL')}"
            )

    def __str__(self) -> str:
        short = f"{self.fingerprint.removeprefix('sha256:')[:12]}, {self.dim}-D"
        return f"{printable(self.name)} ({short})" if self.name else short


class Point:
    """What the payload of a stored point or of a hit says of its image. A label is text, or ``None`` where unknown."""

    __slots__ = ()
    payload: dict[str, Any]

    @property
    def identity(self) -> str | None:
        return self._label("identity")

    @property
    def camera(self) -> str | None:
        return self._label("camera")

    @property
    def is_somebody(self) -> bool:
        return is_somebody(self.identity, self.key)

    @property
    def metadata(self) -> dict[str, MetadataValue]:
        return {name: value for name, value in self.payload.items() if name not in NO_METADATA}

    @property
    def key(self) -> str:
        return str(self.payload.get("key", ""))

    @property
    def source(self) -> str:
        return str(self.payload.get("source", ""))

    @property
    def size(self) -> int | None:
        """Bytes of the file when it was ingested."""
        return self.payload.get("size")

    @property
    def mtime_ns(self) -> int | None:
        """When the file had been modified when it was ingested."""
        return self.payload.get("mtime_ns")

    @property
    def place(self) -> str:
        """Where the file was ingested from: a path (with surrogate escapes where needed) or a URL."""
        return decode_key(str(self.payload.get("path", "")))

    @property
    def path(self) -> Path:
        """The same as a ``Path``, or what stands for one (:func:`~siamese_search.io.location.located`)."""
        return located(self.place)

    def _label(self, name: str) -> str | None:
        value = self.payload.get(name)
        return None if value is None else str(value)


@dataclass(frozen=True, slots=True)
class StoredPoint(Point):
    """One point as stored. ``vector`` is float32 [d], or ``None`` unless asked for."""

    id: str
    payload: dict[str, Any]
    vector: Vectors | None = None


@dataclass(frozen=True, slots=True)
class Hit(Point):
    """One search result: cosine similarity in [-1, 1], higher is closer."""

    id: str
    score: float
    payload: dict[str, Any]
    vector: Vectors | None = None


@dataclass(frozen=True, slots=True)
class GalleryInfo:
    """What a person wants to know about a gallery.

    indexed_points: those in an HNSW index. size_bytes: the space on disk. resident_bytes: an estimate of the memory
    that a search needs for this gallery, over and above what the program itself takes. Either is None if unknown.
    lost: points that there must be and that no search finds, because the storage is damaged.
    """

    name: str
    store: str
    engine: str
    points: int
    indexed_points: int
    model: ModelRef
    size_bytes: int | None
    fields: dict[str, str] = field(default_factory=dict)  # payload field -> str | int | float | bool
    storage: Storage = DEFAULT_STORAGE
    resident_bytes: int | None = None
    lost: int = 0


def named(gallery: str, store: str) -> str:
    """A gallery and where it is, for messages."""
    return f"gallery {gallery!r} in {printable(store)}"


class Gallery(Closing, ABC):
    """An open gallery. Use it as a context manager; ``close`` is idempotent.

    Vectors are float32, finite and of unit length (to 1e-3); payload values str, int (64 bits), float (finite), bool or
    None (not stored): anything else raises ``ValueError`` naming the row. A field has one type: int and float mixed
    become float, any other mixture becomes str, stored values included. Engines add ``crc``, the CRC-32 of the stored
    vector's bytes, to every payload; what is stored is ``storage.rounded(sent)``. Any call may raise StoreBusyError
    while another process has its turn, and StoreError for damage.
    """

    name: str
    store: str
    model: ModelRef
    storage: Storage = DEFAULT_STORAGE
    shared: bool = False  # a server's: other machines may write to it at the same time

    @property
    def dim(self) -> int:
        return self.model.dim

    @property
    def what(self) -> str:
        """For messages."""
        return named(self.name, self.store)

    @abstractmethod
    def upsert(self, ids: Sequence[str], vectors: Vectors, payloads: Sequence[Payload]) -> None:
        """Insert or replace points, whole payload included. On return the points survive a process crash.

        ids: n uuid strings, of which the last one wins; vectors: float32 [n, d]; payloads: n flat mappings. n may be 0.
        Raises ValueError for what cannot be stored; large calls are written in parts, the earlier first.
        """

    @abstractmethod
    def set_payload(self, ids: Sequence[str], payloads: Sequence[Payload]) -> None:
        """Change some fields of points in place; their vectors and other fields stay. Durable and in parts as
        :meth:`upsert`.

        payloads: one per id. A value of None takes the field away. Ids that are not there are ignored; where an id
        occurs twice, fields of the later one win. Raises ValueError for what cannot be stored and for ``crc``.
        """

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> None:
        """Remove points; ids that are not there are ignored."""

    @abstractmethod
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
        """The k nearest points to each row of vectors [n, d] that meet all conditions; fewer where there are fewer.

        exact: bypass any approximate index. Without payloads (empty in each hit) long lists come several times faster.
        Raises FilterError for an unknown field (as do all methods that take conditions), UsageError for k < 1.
        """

    def query(
        self, vector: Vectors, k: int, where: Where = (), *, with_vectors: bool = False, exact: bool = False
    ) -> list[Hit]:
        """:meth:`query_batch` for one vector, float32 [d]."""
        row = np.asarray(vector, np.float32)[None, :]
        return self.query_batch(row, k, where, with_vectors=with_vectors, exact=exact)[0]

    def query_ids(self, vectors: Vectors, k: int, where: Where = (), *, exact: bool = False) -> list[list[int]]:
        """:meth:`query_batch`, but only the ids, as the integers of their UUIDs: for rankings of thousands."""
        found = self.query_batch(vectors, k, where, with_payload=False, exact=exact)
        return [[uuid.UUID(hit.id).int for hit in hits] for hits in found]

    @abstractmethod
    def retrieve(self, ids: Sequence[str], *, with_vectors: bool = False) -> list[StoredPoint | None]:
        """The points of these ids, in this order; ``None`` where there is none."""

    @abstractmethod
    def scroll(
        self, where: Where = (), *, with_vectors: bool = False, fields: Sequence[str] | None = None, batch: int = 1000
    ) -> Iterator[StoredPoint]:
        """All points that meet the conditions, by ascending id, in bounded memory.

        ``fields`` limits the payload to those keys. Points written during the scroll may or may not appear.
        """

    @abstractmethod
    def count(self, where: Where = ()) -> int:
        """How many points meet the conditions (exact)."""

    @abstractmethod
    def facet(self, field: str, where: Where = (), limit: int = 100) -> dict[Any, int]:
        """The most frequent values of a payload field with their counts: by count descending, then value."""

    @abstractmethod
    def fields(self) -> dict[str, str]:
        """Payload fields that exist in this gallery with their type: str, int, float or bool."""

    def narrow(self, field: str, kind: str) -> bool:  # noqa: ARG002 - for engines
        """Store a field of text as ``kind`` again, where all its values read as that; whether it was done."""
        return False

    @abstractmethod
    def flush(self) -> None:
        """Make everything written so far survive a power loss."""

    @abstractmethod
    def optimise(self, *, index: bool | None = None, progress: OptimiseProgress | None = None) -> bool:
        """Tidy up, and build or drop an HNSW index; True if something changed. May take minutes, while others go on.

        index: None builds one where it pays and keeps one that is there; a server decides by itself.
        """

    @abstractmethod
    def info(self) -> GalleryInfo:
        """Counts, size, model, fields."""

    def write_mark(self) -> str | None:
        """A text that changes whenever anybody writes to this generation; None where the engine cannot tell."""
        return None

    def notes(self) -> dict[str, Any]:
        """What :meth:`annotate` last kept in this generation's description; {} at first."""
        return {}

    def annotate(self, notes: Mapping[str, Any]) -> None:
        """Keep these JSON values in the description, durably, in place of the former ones."""
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """Flush and release. Safe to call twice."""


#: What is done to the current generation right before another takes its place.
Settle = Callable[[Gallery], None]


@dataclass(frozen=True, slots=True)
class Generations:
    """Which generations a gallery has, by the models that made them; None where there is none."""

    current: ModelRef
    previous: ModelRef | None = None
    building: ModelRef | None = None


class Store(Closing, ABC):
    """An open store. Use it as a context manager; ``close`` is idempotent.

    Methods that name a gallery raise GalleryNotFoundError (listing the galleries there are) where it does not
    exist, UsageError for what cannot be a name, StoreError for damage and for what cannot be reached.
    """

    location: str  # as the user gave it, without credentials: safe to print
    shared: bool = False  # a server: reached from any machine

    def what(self, name: str) -> str:
        """A gallery of it, for messages."""
        return named(name, self.location)

    @abstractmethod
    def names(self) -> list[str]:
        """The galleries, sorted; empty where there is no store yet."""

    def open(
        self,
        name: str,
        *,
        model: ModelRef | None = None,
        create: bool = False,
        mode: Literal["r", "w"] = "r",
        storage: Storage | None = None,
        wait: float = 10.0,
    ) -> Gallery:
        """Open the current generation. See :func:`siamese_search.gallery.open_gallery`.

        The gallery stands for that generation until it is closed. When another has become current, a reader goes on in
        its own; a writer's next call raises GalleryReplacedError, as a reader's once its own is deleted.
        """
        if create:
            if model is None or mode != "w":
                raise ValueError('create needs a model and mode "w"')
            self._create(name, model, storage or self.default_storage(), wait)
        return self._opened(name, model, mode, wait)

    @abstractmethod
    def _create(self, name: str, model: ModelRef, storage: Storage, wait: float) -> None:
        """Make the gallery where it is not there yet."""

    @abstractmethod
    def _opened(self, name: str, model: ModelRef | None, mode: Literal["r", "w"], wait: float) -> Gallery:
        """The current generation of a gallery that is there."""

    @abstractmethod
    def is_current(self, gallery: Gallery) -> bool:
        """Whether a gallery opened from this store is of the generation that :meth:`open` would give now."""

    @abstractmethod
    def generations(self, name: str) -> Generations:
        """The generations of a gallery."""

    @abstractmethod
    def build(self, name: str, model: ModelRef, *, storage: Storage | None = None, wait: float = 10.0) -> Gallery:
        """The building generation, open for writing: the one left unfinished by an earlier call with the same model and
        storage (default: as the current one's), its points kept, else a new, empty one; an unfinished one of others is
        deleted. Nobody else sees it before :meth:`publish`. One process builds at a time: StoreBusyError otherwise.
        """

    @abstractmethod
    def publish(self, name: str, settle: Settle | None = None, *, wait: float = 10.0) -> None:
        """Make the building generation current in one step; the former one becomes previous, an older one is deleted.
        The built gallery must be closed. A search in progress ends where it is. StoreError where nothing is built.

        settle: called before with the current generation, for a last look at it; as far as the engine can, nobody else
        writes to it from then until the swap. It may still write to the built gallery, and closes it. What it raises
        publishes nothing.
        """

    @abstractmethod
    def rollback(self, name: str) -> ModelRef:
        """Swap current and previous in one atomic step; returns the model now current.

        Called twice it changes nothing. StoreError where there is no previous generation.
        """

    @abstractmethod
    def drop_old(self, name: str) -> int:
        """Delete every generation but the current one; how many there were."""

    @abstractmethod
    def drop(self, name: str) -> None:
        """Delete a gallery with all its generations."""

    def default_storage(self, like: Storage = DEFAULT_STORAGE) -> Storage:
        """The storage where nothing else is said: of a new gallery, or of a copy of one stored ``like`` this."""
        return like

    def close(self) -> None:
        """Release connections. Safe to call twice; galleries opened from it may go with it."""

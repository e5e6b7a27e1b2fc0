"""The store contract: a place that holds galleries, a directory (embedded) or a server, behind the same verbs.

A gallery has a *current* generation, which searches use. Re-indexing fills another one beside it (*building*),
publishes it in one atomic step, and keeps the former one (*previous*) to roll back to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from siamese_search.gallery.contract import Gallery, ModelRef
from siamese_search.gallery.storage import DEFAULT_STORAGE, Storage


@dataclass(frozen=True, slots=True)
class Generations:
    """Which generations a gallery has, by the models that made them; None where there is none."""

    current: ModelRef
    previous: ModelRef | None = None
    building: ModelRef | None = None


class Store(ABC):
    """An open store. Use it as a context manager; ``close`` is idempotent.

    Methods that name a gallery raise GalleryNotFoundError (listing the galleries there are) where it does not
    exist, UsageError for what cannot be a name, StoreError for damage and for what cannot be reached.
    """

    location: str  # as the user gave it, without credentials: safe to print

    @abstractmethod
    def names(self) -> list[str]:
        """The galleries, sorted; empty where there is no store yet."""

    @abstractmethod
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
        """Open the current generation. See :func:`siamese_search.gallery.opening.open_gallery`.

        storage: of a gallery that is made by this call (default: :meth:`default_storage`); one that exists keeps
        its own.

        The gallery stands for that generation until it is closed. When another has become current, a reader
        goes on in its own; a writer's next call raises GalleryReplacedError, as does a reader's once its
        generation has been deleted.
        """

    @abstractmethod
    def generations(self, name: str) -> Generations:
        """The generations of a gallery."""

    @abstractmethod
    def build(
        self, name: str, model: ModelRef, *, storage: Storage | None = None, wait: float = 10.0
    ) -> Gallery:
        """The building generation, open for writing: the one left unfinished by an earlier call with the same
        model and storage (its points kept), else a new, empty one; an unfinished one of others is deleted.

        storage: None is :meth:`default_storage` like that of the current generation.

        Nobody else sees it before :meth:`publish`. One process builds at a time: StoreBusyError otherwise.
        """

    @abstractmethod
    def publish(self, name: str, *, wait: float = 10.0) -> None:
        """Make the building generation current in one atomic step; the former current one becomes previous.

        An older previous one is deleted. The built gallery must be closed. A search that has begun in the
        former generation ends there. StoreError where nothing is being built.
        """

    def publish_settled(self, name: str, settle: Callable[[Gallery], None], *, wait: float = 10.0) -> None:
        """:meth:`publish` after a last look at the current generation, with which ``settle`` is called.

        As far as the engine can, nobody else writes to it from then until the swap; searches may have to
        wait. ``settle`` may still write to the built gallery, and closes it. What it raises publishes nothing.
        """
        with self.open(name, wait=wait) as current:
            settle(current)
        self.publish(name, wait=wait)

    @abstractmethod
    def rollback(self, name: str, *, wait: float = 10.0) -> ModelRef:
        """Swap current and previous in one atomic step; returns the model now current.

        Called twice it changes nothing. StoreError where there is no previous generation.
        """

    @abstractmethod
    def drop_old(self, name: str) -> int:
        """Delete every generation but the current one; how many there were."""

    @abstractmethod
    def drop(self, name: str) -> None:
        """Delete a gallery with all its generations."""

    @abstractmethod
    def default_storage(self, like: Storage = DEFAULT_STORAGE) -> Storage:
        """The storage where nothing else is said: of a new gallery, or of a copy of one stored ``like`` this."""

    @abstractmethod
    def close(self) -> None:
        """Release connections. Safe to call twice; galleries opened from it may go with it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

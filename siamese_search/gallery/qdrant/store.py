"""The store on a Qdrant server: galleries are aliases, their generations collections (see generation.py).

Every step leaves a state from which the same command goes on, because the alias alone says which generation is current.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from qdrant_client import models

from siamese_search.errors import GalleryReplacedError, StoreBusyError, StoreError
from siamese_search.gallery.contract import Gallery, Generations, ModelRef, Settle, Store
from siamese_search.gallery.edge.layout import check_name, no_gallery
from siamese_search.gallery.qdrant.address import check_encryption, key_for, parse_address, read_authorities
from siamese_search.gallery.qdrant.collections import create_collection, update_metadata
from siamese_search.gallery.qdrant.connection import CollectionExistsError, Connection, MissingCollectionError
from siamese_search.gallery.qdrant.gallery import ServerGallery
from siamese_search.gallery.qdrant.generation import (
    RENEW_SECONDS,
    Generation,
    check_mine,
    collection_name,
    gallery_of,
    holder,
    lease,
    read_generation,
)
from siamese_search.gallery.storage import DEFAULT_STORAGE, Storage
from siamese_search.settings import ServerSettings, Settings, load_settings

#: Every first generation has this one: of workers that start together, one makes it and all find it.
_FIRST = "00000000"
_READ_WAIT = 10.0


def connect(location: str, *, settings: Settings | None = None) -> ServerStore:
    """The store at a URL; nothing is sent yet. settings: those in force, when None.

    Raises UsageError for a URL that cannot be or is not safe, SettingsError for a key that cannot be read.
    """
    settings = load_settings() if settings is None else settings
    address = parse_address(location)
    check_encryption(address, settings)
    key, withheld = key_for(address, settings)
    connection = Connection(
        address, key=key, grpc_port=settings.server.grpc_port, authorities=read_authorities(settings), withheld=withheld
    )
    return ServerStore(connection, settings.server)


class ServerStore(Store):
    """See :class:`Store`. Made by :func:`connect`. Its galleries go with it when it is closed."""

    shared = True

    def __init__(self, connection: Connection, settings: ServerSettings | None = None) -> None:
        self._connection, self._settings = connection, settings or ServerSettings()
        self.location = connection.location

    def names(self) -> list[str]:
        answer = self._connection.call(lambda client: client.get_aliases(), wait=_READ_WAIT)
        ours = [one.alias_name for one in answer.aliases if gallery_of(one.collection_name) == one.alias_name]
        return sorted(filter(self._is_gallery, ours))

    def _is_gallery(self, name: str) -> bool:
        try:
            found = self._read(name, _READ_WAIT)
        except StoreError:
            return True  # damaged, or of a later release: opening it says so
        return found is not None and found.gallery == name and found.state != "dropped"

    def _opened(self, name: str, model: ModelRef | None, mode: Literal["r", "w"], wait: float) -> Gallery:
        patience = self._patience(wait) if mode == "w" else wait
        current = self._healed(name, patience) if mode == "w" else self._current(name, patience)
        if model is not None:
            model.check(current.model, self.what(name))
        if mode == "r":
            return ServerGallery(self._connection, current, wait=patience)

        def watch(_latest: Generation) -> None:
            """A writer to a generation that is no longer current would write where nobody looks."""
            now = self._find(name, patience)
            if now is None or now.collection != current.collection:
                raise GalleryReplacedError(
                    f"{self.what(name)} was re-indexed or dropped meanwhile: run the command again"
                )

        return ServerGallery(self._connection, current, mode="w", wait=patience, watch=watch)

    def _patience(self, wait: float) -> float:
        """Seconds that a writer waits for a server that is away."""
        return max(wait, float(self._settings.wait))

    def is_current(self, gallery: Gallery) -> bool:
        assert isinstance(gallery, ServerGallery)
        return self._current(gallery.name, _READ_WAIT).collection == gallery.collection

    def generations(self, name: str) -> Generations:
        current = self._current(name, _READ_WAIT)
        previous, building = self._previous(current, _READ_WAIT), self._building(current, _READ_WAIT)
        return Generations(
            current.model, None if previous is None else previous.model, building[0].model if building else None
        )

    def build(self, name: str, model: ModelRef, *, storage: Storage | None = None, wait: float = _READ_WAIT) -> Gallery:
        patience = self._patience(wait)
        current = self._healed(name, patience)
        fresh = self._claim(current, model, storage or self.default_storage(current.storage), wait, patience)
        self._sweep(current, patience)
        renewed = time.monotonic()

        def watch(latest: Generation) -> None:
            nonlocal renewed
            check_mine(latest)
            if time.monotonic() - renewed > RENEW_SECONDS:
                update_metadata(self._connection, fresh.collection, {"builder": lease()}, wait=patience)
                renewed = time.monotonic()

        def release() -> None:
            with suppress(StoreError):  # the lease ends by itself
                update_metadata(self._connection, fresh.collection, {"builder": {}}, wait=0)

        return ServerGallery(self._connection, fresh, mode="w", wait=patience, watch=watch, on_close=release)

    def _claim(
        self, current: Generation, model: ModelRef, storage: Storage, wait: float, patience: float
    ) -> Generation:
        """The building generation with our lease on it, made if need be."""
        deadline = time.monotonic() + wait
        while True:
            building = self._building(current, patience)
            try:
                self._refuse_held(building)
                break
            except StoreBusyError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(min(0.5, max(0.0, deadline - time.monotonic())))
        fresh = None
        for one in building:
            if fresh is None and one.model.same_as(model) and one.storage == storage:
                fresh = one
            else:
                self._delete(one.collection, patience)
        if fresh is None:
            collection = collection_name(current.gallery, uuid.uuid4().hex[:8])
            with suppress(CollectionExistsError):  # the name is ours alone: only the answer got lost
                create_collection(
                    self._connection,
                    collection,
                    model,
                    "building",
                    self._settings,
                    storage,
                    builder=lease(),
                    wait=patience,
                )
        else:
            collection = fresh.collection
            update_metadata(self._connection, collection, {"builder": lease()}, wait=patience)
        # Somebody may have looked at the same moment: of several that build, the first by name goes on.
        for rival in self._building(current, patience):
            if rival.collection < collection and holder(rival.builder):
                self._delete(collection, patience)
                self._refuse_held([rival])
        claimed = self._read(collection, patience)
        if claimed is None:
            raise StoreBusyError(f"{self.what(current.gallery)} is being re-indexed by another process")
        check_mine(claimed)
        return claimed

    def publish(self, name: str, settle: Settle | None = None, *, wait: float = _READ_WAIT) -> None:
        if settle is not None:
            with self.open(name, wait=wait) as latest:
                settle(latest)
        patience = self._patience(wait)
        current = self._healed(name, patience)
        building = self._building(current, patience)
        if not building:
            raise StoreError(f"nothing is being built for {self.what(name)}: there is nothing to publish")
        fresh = building[0]
        self._refuse_held([fresh])
        self._switch(current, fresh, patience)
        update_metadata(self._connection, fresh.collection, {"state": "published"}, wait=patience)
        self._sweep(self._current(name, patience), patience)

    def rollback(self, name: str) -> ModelRef:
        wait = _READ_WAIT
        current = self._healed(name, wait)
        previous = self._previous(current, wait)
        if previous is None:
            raise StoreError(f"{self.what(name)} has no former generation to go back to")
        self._switch(current, previous, wait)
        return previous.model

    def _switch(self, former: Generation, current: Generation, wait: float) -> None:
        """Let the alias lead to another generation, in one step."""
        name = former.gallery
        update_metadata(self._connection, current.collection, {"previous": former.collection}, wait=wait)
        self._aliases([_no_alias(name), _alias(name, current.collection)], wait)

    def drop_old(self, name: str) -> int:
        wait = float(self._settings.wait)
        current = self._healed(name, wait)
        self._refuse_held(self._building(current, wait))
        update_metadata(self._connection, current.collection, {"previous": ""}, wait=wait)
        former = [one for one in self._of(name, wait) if one.collection != current.collection]
        for one in former:
            self._delete(one.collection, wait)
        return sum(one.state != "dropped" for one in former)

    def drop(self, name: str) -> None:
        wait = float(self._settings.wait)
        check_name(name)
        generations = self._of(name, wait)
        target = self._target(name, wait)
        if target is None and not generations:
            self._current(name, wait)  # says that there is none, and which there are
        self._refuse_held(generations)
        # Marked first: after a crash in between, nobody takes a half-deleted gallery for a whole one.
        for one in generations:
            update_metadata(self._connection, one.collection, {"state": "dropped"}, wait=wait)
        if target is not None:
            self._aliases([_no_alias(name)], wait)
        for one in generations:
            self._delete(one.collection, wait)

    def default_storage(self, like: Storage = DEFAULT_STORAGE) -> Storage:
        return Storage(like.vectors, self._settings.quantisation)

    def close(self) -> None:
        self._connection.close()

    def _create(self, name: str, model: ModelRef, storage: Storage, wait: float) -> None:
        wait = self._patience(wait)
        target = self._target(check_name(name), wait)
        if target is not None and target.state != "dropped":
            return
        first = collection_name(name, _FIRST)
        if any(one.state == "dropped" for one in self._of(name, wait)):
            self.drop(name)  # which somebody began
        try:
            create_collection(self._connection, first, model, "published", self._settings, storage, wait=wait)
        except CollectionExistsError:
            if self._read(first, wait) is None:
                raise self._not_ours(first) from None
        try:
            self._aliases([_alias(name, first)], wait)
        except CollectionExistsError:
            self._delete(first, wait)
            raise self._not_ours(name) from None

    def _not_ours(self, collection: str) -> StoreError:
        return StoreError(f"{self.location} has a collection {collection!r} that is not ours: choose another --gallery")

    def _aliases(self, operations: Sequence[models.AliasOperations], wait: float) -> None:
        self._connection.call(lambda client: client.update_collection_aliases(operations), wait=wait)

    def _current(self, name: str, wait: float) -> Generation:
        """The current generation. GalleryNotFoundError says which galleries there are."""
        found = self._find(check_name(name), wait)
        if found is None:
            raise no_gallery(name, self.location, self.names())
        return found

    def _find(self, name: str, wait: float) -> Generation | None:
        """The current generation, or None where there is no such gallery of ours."""
        target = self._target(name, wait)
        return None if target is None or target.state == "dropped" else target

    def _target(self, name: str, wait: float) -> Generation | None:
        """What the alias leads to. StoreError where the name is taken by something that is not ours."""
        found = self._read(name, wait, foreign=True)
        # A collection's own name is none of a gallery, though it looks like one.
        return found if found is not None and found.gallery == name else None

    def _read(self, collection: str, wait: float, *, foreign: bool = False) -> Generation | None:
        """A collection's (or alias's) generation; None where there is none. foreign: StoreError for one not ours."""
        try:
            info = self._connection.call(lambda client: client.get_collection(collection), wait=wait)
        except MissingCollectionError:
            return None
        found = read_generation(info.config.metadata, f"collection {collection!r} at {self.location}")
        if found is None:
            if foreign:
                raise self._not_ours(collection)
            return None
        vectors = info.config.params.vectors
        if not isinstance(vectors, models.VectorParams) or vectors.size != found.model.dim:
            size = vectors.size if isinstance(vectors, models.VectorParams) else "several kinds of"
            raise StoreError(
                f"{self.what(found.gallery)} is damaged: its collection has {size}-D vectors, its model"
                f" {found.model.dim}-D ones; drop it and ingest again"
            )
        return found

    def _of(self, name: str, wait: float) -> list[Generation]:
        """All generations of a gallery, by their collections' names."""
        answer = self._connection.call(lambda client: client.get_collections(), wait=wait)
        names = sorted(one.name for one in answer.collections if gallery_of(one.name) == name)
        found = [self._read(one, wait) for one in names]
        return [one for one in found if one is not None and one.gallery == name]

    def _previous(self, current: Generation, wait: float) -> Generation | None:
        if not current.previous or gallery_of(current.previous) != current.gallery:
            return None
        previous = self._read(current.previous, wait)
        return None if previous is None or previous.state != "published" else previous

    def _building(self, current: Generation, wait: float) -> list[Generation]:
        return [
            one
            for one in self._of(current.gallery, wait)
            if one.state == "building" and one.collection != current.collection
        ]

    def _refuse_held(self, generations: Sequence[Generation]) -> None:
        """Raise StoreBusyError where somebody builds one of these."""
        for one in generations:
            if who := holder(one.builder):
                raise StoreBusyError(f"{self.what(one.gallery)} is being re-indexed by {who}")

    def _healed(self, name: str, wait: float) -> Generation:
        """The current generation. Finishes a publication that ended right after the switch of the alias."""
        current = self._current(name, wait)
        if current.state == "building":
            update_metadata(self._connection, current.collection, {"state": "published"}, wait=wait)
        return current

    def _sweep(self, current: Generation, wait: float) -> None:
        """Delete what is neither current, nor previous, nor being built."""
        for one in self._of(current.gallery, wait):
            if one.collection not in (current.collection, current.previous) and one.state != "building":
                self._delete(one.collection, wait)

    def _delete(self, collection: str, wait: float) -> None:
        self._connection.call(lambda client: client.delete_collection(collection), wait=wait)


def _alias(name: str, collection: str) -> models.CreateAliasOperation:
    return models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=collection, alias_name=name))


def _no_alias(name: str) -> models.DeleteAliasOperation:
    return models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name))

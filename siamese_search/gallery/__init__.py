"""The vector store: one contract, several engines. Nothing here knows about images.

This is the door: from a store's location (a directory or a server's URL) to a Store, and to its galleries. It imports
no engine before one is opened.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from siamese_search.errors import UsageError
from siamese_search.io.location import protocol_of
from siamese_search.options import StrPath

if TYPE_CHECKING:
    from siamese_search.gallery.contract import Gallery, ModelRef, Store
    from siamese_search.gallery.storage import Storage
    from siamese_search.settings import Settings


def open_store(location: StrPath, *, settings: Settings | None = None) -> Store:
    """The store at a directory (which need not exist yet) or at a server's URL. Use it as a context manager.

    settings: for a server; those in force, when None. Raises UsageError for a location that can be neither, and
    whatever connecting to a server may raise.
    """
    text = os.fspath(location)
    if not text:
        raise UsageError("the store's name is empty: give a directory or a URL")
    if protocol_of(text) is not None:
        from siamese_search.gallery.qdrant.store import connect

        return connect(text, settings=settings)
    from siamese_search.gallery.edge.store import EmbeddedStore

    return EmbeddedStore(text)


def open_gallery(
    store: StrPath,
    name: str = "default",
    *,
    model: ModelRef | None = None,
    create: bool = False,
    mode: Literal["r", "w"] = "r",
    storage: Storage | None = None,
    wait: float = 10.0,
) -> Gallery:
    """Open a gallery of a store; use the result as a context manager.

    store: a directory or a URL. model: the model in hand; a gallery of another one is refused. create: make store and
    gallery where they do not exist (needs ``model`` and ``mode="w"``). storage: how a gallery that is made keeps its
    vectors. wait: seconds to queue while another process has its turn. Raises GalleryNotFoundError (naming the
    galleries that there are), ModelMismatchError, StoreBusyError (naming the holder; also from later calls), StoreError
    for what is not a store or cannot be written, UsageError for a name that cannot be one.
    """
    return open_store(store).open(name, model=model, create=create, mode=mode, storage=storage, wait=wait)


def list_galleries(store: StrPath) -> list[str]:
    """The names of a store's galleries, sorted; empty where there is no store yet. StoreError for anything else."""
    with open_store(store) as opened:
        return opened.names()

"""Forwarding: a gallery around another, for whoever must see its calls; and Serial, which makes them wait in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, TypeVar, cast

from siamese_search.gallery.contract import Gallery

F = TypeVar("F", bound=Callable[..., Any])


def _passed_on(method: F) -> F:
    """The same method of the gallery inside, within :meth:`Forwarding.around`."""
    name = method.__name__

    @wraps(method, updated=())  # not its mark of being abstract
    def call(self: Forwarding, *args: Any, **options: Any) -> Any:
        with self.around(name):
            return getattr(self.inside, name)(*args, **options)

    return cast(F, call)


class Forwarding(Gallery):
    """Passes every call on to the gallery inside, each within :meth:`around`."""

    def __init__(self, inside: Gallery) -> None:
        self.inside = inside
        self.name, self.store, self.shared = inside.name, inside.store, inside.shared
        self.model, self.storage = inside.model, inside.storage

    def around(self, call: str) -> AbstractContextManager[object]:
        """What the call of this name happens within. What an iterator does later (``scroll``) is not."""
        del call
        return nullcontext()

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


class Serial(Forwarding):
    """The same gallery for several threads: each call waits for the one before it, for engines need not be safe."""

    def __init__(self, inside: Gallery) -> None:
        super().__init__(inside)
        self._lock = threading.Lock()

    def around(self, call: str) -> AbstractContextManager[object]:
        del call
        return self._lock

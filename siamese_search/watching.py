"""Watching as a function: :func:`watch` keeps a gallery in step with directories until it is told to stop."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from siamese_search.errors import GalleryNotFoundError, UsageError, printable
from siamese_search.io.location import protocol_of, redacted
from siamese_search.workspace import LazyEmbedder, StrPath, open_to_write, place_of

if TYPE_CHECKING:
    from ingest.watching.watch import Observer, WatchOptions
    from siamese_search.gallery.contract import Gallery
    from siamese_search.model.embedder import Device, Embedder
    from siamese_search.settings import Settings


def watch(
    directories: Sequence[StrPath],
    options: WatchOptions,
    observer: Observer,
    stop: threading.Event,
    *,
    store: StrPath | None = None,
    gallery: str | None = None,
    model: StrPath | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    device: Device = "auto",
    failures: StrPath | None = None,
    storage: str | None = None,
    quantise: str | None = None,
    around: Callable[[Embedder], Embedder] = lambda embedder: embedder,
    around_store: Callable[[Gallery], Gallery] = lambda gallery: gallery,
) -> bool:
    """Ingest all images under ``directories``, then what changes there, until ``stop`` is set.

    options: see :class:`~ingest.watching.watch.WatchOptions` (its batch size is the settings' where ``batch_size`` is
    not given). observer: told of everything that happens. storage, quantise: how a new gallery keeps its vectors;
    asked of an existing one at the first opening only, for it may be re-indexed. The rest is as for
    :func:`siamese_search.api.ingest`. around: what to put around an embedder that has been loaded.
    around_store: the same for the gallery, each time it is opened.

    Returns whether the first full ingest came to its end. Raises what :meth:`ingest.watching.watch.Watcher.run` raises.
    """
    from ingest.failures import FailureLog
    from ingest.watching.watch import Watcher
    from siamese_search.settings import load_settings

    for one in directories:
        if protocol_of(one) is not None:
            raise UsageError(
                f"{printable(redacted(os.fspath(one)))}: --watch needs files on this machine; ingest a URL again when"
                " something may have changed"
            )
    settings = load_settings()
    opener = _Opener(
        settings, store, gallery, model, device, settings.threads if threads is None else threads, around
    )
    opener.storage, opener.around_store = (storage, quantise), around_store
    options = replace(options, batch_size=settings.batch_size if batch_size is None else batch_size)
    with nullcontext() if failures is None else FailureLog(failures) as log:
        watcher = Watcher([Path(one) for one in directories], opener.open, options, observer, stop, log)
        watcher.run()
    return watcher.first_done


class _Opener:
    """Opens the gallery anew each time, and keeps the model loaded until the gallery has another one."""

    def __init__(
        self,
        settings: Settings,
        store: StrPath | None,
        gallery: str | None,
        model: StrPath | None,
        device: Device,
        threads: int,
        around: Callable[[Embedder], Embedder],
    ) -> None:
        self._place = (settings, store, gallery, model)
        self._device, self._threads, self._around = device, threads, around
        self._embedder: Embedder | None = None
        self.storage: tuple[str | None, str | None] = (None, None)  # asked for at the first opening only
        self.around_store: Callable[[Gallery], Gallery] = lambda gallery: gallery

    @contextmanager
    def open(self) -> Iterator[tuple[Gallery, Embedder]]:
        from siamese_search.gallery.opening import open_gallery

        # A writer waits minutes for a server that is away, in silence; a reader is back after seconds, and whoever
        # watches waits by itself, says so, and can be stopped.
        with suppress(GalleryNotFoundError), open_gallery(*place_of(*self._place[:3])):
            pass
        storage, quantise = self.storage
        with open_to_write(*self._place, storage=storage, quantise=quantise) as (opened, bundle):
            self.storage = (None, None)
            if self._embedder is None or self._embedder.fingerprint != bundle.fingerprint:
                self._embedder = self._around(LazyEmbedder(bundle, self._device, self._threads))
            yield self.around_store(opened), self._embedder

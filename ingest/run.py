"""The worker's verbs: :func:`ingest` brings a gallery up to date, :func:`watch` keeps it in step with directories."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from siamese_search.errors import GalleryNotFoundError, UsageError, printable
from siamese_search.io.location import protocol_of, redacted
from siamese_search.workspace import (
    LazyEmbedder,
    Notify,
    StrPath,
    current_settings,
    open_to_write,
    place_of,
    root_of,
)

if TYPE_CHECKING:
    from ingest.distributed.session import RayOptions
    from ingest.pipeline import Prune
    from ingest.scan import Shard
    from ingest.summary import IngestSummary, Progress
    from ingest.watching.watch import Observer, WatchOptions
    from siamese_search.gallery.contract import Gallery
    from siamese_search.model.embedder import Device, Embedder
    from siamese_search.settings import Settings


def ingest(
    *directories: StrPath,
    store: StrPath | None = None,
    gallery: str | None = None,
    model: StrPath | None = None,
    layout: str = "auto",
    source: str | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    device: Device = "auto",
    reembed: bool = False,
    checksum: bool = False,
    follow_links: bool = False,
    prune: Prune = "no",
    shard: str | Shard | None = None,
    failures: StrPath | None = None,
    storage: str | None = None,
    quantise: str | None = None,
    around: Callable[[Gallery, Embedder], tuple[Gallery, Embedder]] | None = None,
    engine: Literal["process", "ray"] = "process",
    ray: RayOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    notify: Notify | None = None,
) -> IngestSummary:
    """Bring a gallery up to date with the images under ``directories``, listed in ``.csv`` files, or at URLs.

    URLs ([cloud] extra): ``s3://bucket/prefix`` and ``gs://bucket/prefix``, or an image or a list of URLs at
    ``https://``. What is stored of them holds no credentials.

    The gallery is made where there is none, with ``model`` (default: the settings', else the bundled one); an
    existing gallery keeps the model that it was made with. Unchanged files are not embedded again.
    source: name of the source, where the same images have different paths on different machines.
    reembed: embed unchanged files too. checksum: compare files by content instead of by modification time, so that
    a file that was only touched is not embedded again, an edited one is noticed whatever its time, and one that was
    moved keeps its point and metadata. follow_links: enter links to directories, take links out of a directory.
    prune: ``"safe"`` removes the points of files under ``directories`` that have gone, unless the disk seems to be
    missing or more than a fifth of them would go; ``"anyway"`` removes them even then (not for a missing disk).
    shard: ``"0/4"`` … ``"3/4"``: only that part of the files, by a hash of their key, so that four processes, on one
    machine or on several, do what one would (:mod:`ingest.scan`). failures: a file that gets every failure as a line
    of JSON. storage (``float32``, ``float16``), quantise (``none``,
    ``int8``, ``int4``, ``binary``): how a gallery that is made keeps its vectors. stop: set it to end after the batch
    in hand. engine: ``"ray"`` decodes and embeds on the workers of a Ray cluster
    (:class:`~ingest.distributed.session.RayOptions`), each of which has ``threads`` CPUs, or a GPU; what comes of it is
    the same. around: what to put around the gallery and the embedder, to measure them.
    progress, notify: called with each moment of progress, and with lines for people.

    Returns the counts and the failures: an image that cannot be read never stops the rest.
    Raises DataError (no such directory, no images), StoreError, ModelMismatchError, BundleError; for a cluster also
    ClusterError and MissingExtraError.
    """
    from ingest import run_ingest
    from ingest.failures import FailureLog
    from ingest.scan import check_combination, parse_shard, survey_roots

    settings = current_settings()
    if not directories:
        raise UsageError("nothing to ingest; name at least one directory of images")
    if prune not in ("no", "safe", "anyway"):
        raise UsageError(f"prune is {prune!r}; choose from no, safe, anyway")
    part = parse_shard(shard) if isinstance(shard, str) else shard
    check_combination(part, checksum=checksum, prune=prune != "no")
    if engine not in ("process", "ray"):
        raise UsageError(f"engine is {engine!r}; choose from process, ray")
    if engine == "ray":
        from ingest.distributed.pipeline import RayPipeline
        from ingest.distributed.session import RayOptions

        ray = ray or RayOptions()
        ray.check()
    elif ray is not None:
        raise UsageError("an address and workers of a cluster are for the engine ray")
    # Before a gallery is made; and only once, for the names of a large tree take a while.
    roots = survey_roots([root_of(directory) for directory in directories], layout, follow_links=follow_links)
    if notify is not None and layout == "auto":
        for root in roots:
            notify(
                f"{getattr(root, 'url', root.root)}: layout {root.detection.layout}: {root.detection.reason}"
            )
    threads = settings.threads if threads is None else threads
    with (
        nullcontext() if failures is None else FailureLog(failures) as log,
        open_to_write(settings, store, gallery, model, storage=storage, quantise=quantise) as (
            opened,
            bundle,
        ),
    ):
        embedder: Embedder = LazyEmbedder(bundle, device, threads)
        if around is not None:
            opened, embedder = around(opened, embedder)
        cluster = None
        if engine == "ray" and ray is not None:
            local = [root for root in roots if not hasattr(root, "url")]
            places = [os.path.realpath(root.detection.base) for root in local]
            cluster = RayPipeline(bundle, ray, settings, device=device, threads=threads, places=places)
        return run_ingest(
            roots,
            opened,
            embedder,
            layout=layout,
            source=source,
            batch_size=settings.batch_size if batch_size is None else batch_size,
            reembed=reembed,
            checksum=checksum,
            prune=prune,
            shard=part,
            failures=log,
            progress=progress,
            stop=stop,
            pipeline=cluster,
        )


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
    :func:`ingest.run.ingest`. around: what to put around an embedder that has been loaded.
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

"""The worker's verbs: :func:`ingest` brings a gallery up to date, :func:`watch` keeps it in step with directories."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.options import IngestOptions, RayOptions
from siamese_search.errors import GalleryNotFoundError, UsageError, listed, printable
from siamese_search.io.location import protocol_of, redacted
from siamese_search.options import layout_of, request
from siamese_search.workspace import (
    LazyEmbedder,
    Notify,
    StrPath,
    current_settings,
    open_to_write,
    root_of,
    store_in_use,
)

if TYPE_CHECKING:
    from ingest.options import WatchOptions
    from ingest.summary import IngestSummary, Progress
    from ingest.watching.watch import Observer
    from siamese_search.gallery.contract import Gallery
    from siamese_search.model.embedder import Embedder

_log = logging.getLogger(__name__)


@request(IngestOptions)
def ingest(
    *directories: StrPath,
    options: IngestOptions,
    around: Callable[[Gallery, Embedder], tuple[Gallery, Embedder]] | None = None,
    ray: RayOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    notify: Notify | None = None,
) -> IngestSummary:
    """Bring a gallery up to date with the images under ``directories``, listed in ``.csv`` files, or at URLs.

    URLs ([cloud] extra): ``s3://bucket/prefix`` and ``gs://bucket/prefix``, or an image or a list of URLs at
    ``https://``. What is stored of them holds no credentials.

    The gallery is made where there is none; an existing one keeps the model that it was made with. With checksums a
    moved file keeps its point and metadata. prune: ``"safe"`` removes the points of files that have gone, unless the
    disk seems to be missing or more than a fifth of them would go; ``"anyway"`` removes them even then (not for a
    missing disk). stop: set it to end after the batch in hand. ray: of a cluster, for the engine ``"ray"``
    (:class:`~ingest.options.RayOptions`). around: what to put around the gallery and the embedder, to measure them.
    progress: called with each moment (:class:`siamese_search.ProgressBar` shows it). notify: with lines for people.

    Returns the counts and the failures: an image that cannot be read never stops the rest. Raises DataError (no such
    directory, no images), StoreError, ModelMismatchError, BundleError; ClusterError and MissingExtraError for a
    cluster.
    """
    from ingest import run_ingest
    from ingest.plan import Overlap
    from ingest.scan import check_combination, check_images, survey_roots
    from ingest.summary import FailureLog
    from siamese_search.datasets.remote_survey import RemoteSurvey

    settings = current_settings()
    if not directories:
        raise UsageError("nothing to ingest; name at least one directory of images")
    options = options.settled(settings)
    check_combination(options.part, checksum=options.checksum, prune=options.prune != "no")
    if options.engine == "ray":
        from ingest.distributed.pipeline import RayPipeline

        ray = ray or RayOptions()
        ray.check()
    elif ray is not None:
        raise UsageError("an address and workers of a cluster are for the engine ray")
    # Before a gallery is made; and only once, for the names of a large tree take a while.
    roots = survey_roots(
        [root_of(directory) for directory in directories],
        layout_of(options),
        follow_links=options.follow_links,
        images_root=options.base(),
        prune=options.prune,
    )
    check_images(roots, options.prune)
    if notify is not None:
        for root in roots:
            if options.layout == "auto" or root.rows is not None:
                found = root.detection
                place = root.url if isinstance(root, RemoteSurvey) else root.root
                notify(f"{place}: layout {found.layout}: {found.reason}")
    with (
        nullcontext() if options.failures is None else FailureLog(options.failures) as log,
        open_to_write(
            options.store, options.gallery, options.model, storage=options.storage, quantise=options.quantise
        ) as (opened, bundle),
    ):
        if options.source is None:
            known = Overlap(opened)
            for here in [root.source for root in roots]:
                for there in known.beside(here):
                    one, two, outer = map(printable, (here, there, min(here, there, key=len)))
                    both = "one of the two lies in the other: an image in both stands there once, as one of"
                    _log.warning("%s: the gallery also has images of %s, and %s %s", one, two, both, outer)
        embedder: Embedder = LazyEmbedder(bundle, options.device, options.threads or 0)
        if around is not None:
            opened, embedder = around(opened, embedder)
        cluster = None
        if options.engine == "ray" and ray is not None:
            local = [root for root in roots if not isinstance(root, RemoteSurvey)]
            places = [os.path.realpath(root.detection.base) for root in local]
            cluster = RayPipeline(
                bundle, ray, settings, device=options.device, threads=options.threads or 0, places=places
            )
        summary: IngestSummary = run_ingest(
            roots,
            opened,
            embedder,
            options=options,
            failures=log,
            progress=progress,
            stop=stop,
            pipeline=cluster,
        )
        if summary.new:
            own = {root.source for root in roots} if options.source is None else {options.source}
            _warn_of_namesakes(opened, own)
        return summary


def _warn_of_namesakes(gallery: Gallery, own: set[str]) -> None:
    """Say it where a source of an ingest and another one, which lies elsewhere, name the same identities."""
    from ingest.plan import Overlap
    from siamese_search.datasets.records import DISTRACTOR_IDENTITY, JUNK_IDENTITY
    from siamese_search.gallery.filters import Condition

    if not {"source", "identity"} <= gallery.fields().keys():
        return
    sources = gallery.facet("source", limit=20)
    if len(sources) < 2:
        return
    known = Overlap(gallery)
    named = {
        str(source): set(
            map(str, gallery.facet("identity", [Condition("source", "=", (source,))], limit=10_000))
        )
        for source in sources
    }
    shared: set[str] = set()
    places: set[str] = set()
    for one in own & named.keys():
        for other in named.keys() - {one, *known.beside(one)}:
            if both := (named[one] & named[other]) - {JUNK_IDENTITY, DISTRACTOR_IDENTITY}:
                shared |= both
                places |= {one, other}
    if shared:
        text = "identities of the same name in more than one source (%s) count as the same: %s"
        _log.warning(text, listed(sorted(places)), listed(sorted(shared)))


def watch(
    directories: Sequence[StrPath],
    options: WatchOptions,
    observer: Observer,
    stop: threading.Event,
    *,
    around: Callable[[Embedder], Embedder] = lambda embedder: embedder,
    around_store: Callable[[Gallery], Gallery] = lambda gallery: gallery,
) -> bool:
    """Ingest all images under ``directories``, then what changes there, until ``stop`` is set.

    options: see :class:`~ingest.options.WatchOptions`. observer: told of everything that happens. storage and quantise
    are asked of an existing gallery at the first opening only, for it may be re-indexed. around: what to put around an
    embedder that has been loaded. around_store: the same for the gallery, each time it is opened.

    Returns whether the first full ingest came to its end. Raises what :meth:`ingest.watching.watch.Watcher.run` raises.
    """
    from ingest.summary import FailureLog
    from ingest.watching.watch import Watcher

    for one in directories:
        if protocol_of(one) is not None:
            raise UsageError(
                f"{printable(redacted(os.fspath(one)))}: --watch needs files on this machine; ingest a URL again when"
                " something may have changed"
            )
    opener = _Opener(options.settled(current_settings()), around, around_store)
    with nullcontext() if options.failures is None else FailureLog(options.failures) as log:
        watcher = Watcher(
            [Path(one) for one in directories], opener.open, opener.options, observer, stop, log
        )
        watcher.run()
    return watcher.first_done


class _Opener:
    """Opens the gallery anew each time, and keeps the model loaded until the gallery has another one."""

    def __init__(
        self,
        options: WatchOptions,
        around: Callable[[Embedder], Embedder],
        around_store: Callable[[Gallery], Gallery],
    ) -> None:
        self.options = options
        self._around, self._around_store = around, around_store
        self._embedder: Embedder | None = None
        self._storage = (options.storage, options.quantise)  # asked for at the first opening only

    @contextmanager
    def open(self) -> Iterator[tuple[Gallery, Embedder]]:
        # A writer waits minutes for a server that is away, in silence; a reader is back after seconds, and whoever
        # watches waits by itself, says so, and can be stopped.
        asked = self.options
        with (
            suppress(GalleryNotFoundError),
            store_in_use(asked.store, asked.gallery) as (store, name),
            store.open(name),
        ):
            pass
        storage, quantise = self._storage
        with open_to_write(asked.store, asked.gallery, asked.model, storage=storage, quantise=quantise) as (
            opened,
            bundle,
        ):
            self._storage = (None, None)
            if self._embedder is None or self._embedder.fingerprint != bundle.fingerprint:
                self._embedder = self._around(LazyEmbedder(bundle, asked.device, asked.threads or 0))
            yield self._around_store(opened), self._embedder

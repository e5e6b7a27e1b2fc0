"""The worker's verbs: :func:`ingest` brings a gallery up to date, :func:`watch` keeps it in step with directories."""

from __future__ import annotations

import logging
import os
import shlex
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from ingest import run_ingest
from ingest.options import IngestOptions, RayOptions, WatchOptions
from ingest.pipeline import surveyed
from ingest.plan import beside
from ingest.summary import FailureLog, IngestSummary, Observer, Progress
from ingest.watching.watch import Watcher
from siamese_search.datasets.records import decode_key
from siamese_search.datasets.remote_survey import RemoteSurvey
from siamese_search.errors import GalleryNotFoundError, UsageError, amount, listed, printable
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.filters import Condition
from siamese_search.io.location import protocol_of, redacted
from siamese_search.model.embedder import Embedder
from siamese_search.options import request
from siamese_search.retrieval.ranking import people_of
from siamese_search.settings import load_settings
from siamese_search.workspace import LazyEmbedder, Notify, StrPath, open_to_write, root_of, store_in_use

#: What is put around a gallery and its embedder, to measure them.
Around = Callable[[Gallery, Embedder], tuple[Gallery, Embedder]]

_log = logging.getLogger(__name__)


@request(IngestOptions)
def ingest(
    *directories: StrPath,
    options: IngestOptions,
    around: Around = lambda gallery, embedder: (gallery, embedder),
    ray: RayOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    notify: Notify | None = None,
) -> IngestSummary:
    """Bring a gallery up to date with the images under ``directories``, listed in ``.csv`` files, or at URLs.

    URLs ([cloud] extra): ``s3://bucket/prefix`` and ``gs://bucket/prefix``, or an image or a list of URLs at
    ``https://``. What is stored of them holds no credentials.

    The gallery is made where there is none; an existing one keeps the model that it was made with. prune: nothing goes
    where the disk seems to be missing. stop: set it to end after the batch in hand. ray: of a cluster, for the engine
    ``"ray"`` (:class:`~ingest.options.RayOptions`). around: what to put around the gallery and the embedder, to measure
    them. progress: called with each moment (:class:`siamese_search.ProgressBar` shows it). notify: with lines for
    people.

    Returns the counts and the failures: an image that cannot be read never stops the rest. Raises DataError (no such
    directory, no images), StoreError, ModelMismatchError, BundleError; of a cluster ClusterError, MissingExtraError.
    """
    settings = load_settings()
    if not directories:
        raise UsageError("nothing to ingest; name at least one directory of images")
    options = options.settled(settings)
    if options.engine == "ray":
        ray = ray or RayOptions()
        ray.check()
    elif ray is not None:
        raise UsageError("an address and workers of a cluster are for the engine ray")
    # Before a gallery is made; and only once, for the names of a large tree take a while.
    roots = surveyed([root_of(directory) for directory in directories], options)
    if notify is not None:
        for root in roots:
            if options.layout == "auto" or root.rows is not None:
                found = root.detection
                notify(f"{root.shown}: layout {found.layout}: {found.reason}")
    with (
        nullcontext() if options.failures is None else FailureLog(options.failures) as log,
        open_to_write(
            options.store, options.gallery, options.model, storage=options.storage, quantise=options.quantise
        ) as (opened, bundle),
    ):
        embedder: Embedder = LazyEmbedder(bundle, options.device, options.threads or 0)
        opened, embedder = around(opened, embedder)
        cluster = None
        if ray is not None:
            from ingest.distributed.pipeline import RayPipeline

            places = [os.path.realpath(one.detection.base) for one in roots if not isinstance(one, RemoteSurvey)]
            cluster = RayPipeline(
                bundle, ray, settings, device=options.device, threads=options.threads or 0, places=places
            )
        summary: IngestSummary = run_ingest(
            roots, opened, embedder, options=options, failures=log, progress=progress, stop=stop, pipeline=cluster
        )
        pairs = {(here, there) for here, others in summary.overlaps.items() for there in others}
        for outer, inner in sorted({(min(pair, key=len), max(pair, key=len)) for pair in pairs}):
            text = "%s lies in %s, of which the gallery has images: an image in both stands there once, as one of %s"
            _log.warning(text, *map(printable, (inner, outer, outer)))
        if lost := [f"{printable(name)} ({amount(count, 'image')})" for name, count in sorted(summary.lost.items())]:
            _log.warning("no longer said by anything that was read, and so taken out of the gallery: %s", listed(lost))
        if summary.new:
            own = {root.source for root in roots} if options.source is None else {options.source}
            _warn_of_namesakes(opened, own)
        return summary


def _warn_of_namesakes(gallery: Gallery, own: set[str]) -> None:
    """Say it where a source of an ingest and another one, which lies elsewhere, name the same identities."""
    if not {"source", "identity"} <= gallery.fields().keys():
        return
    sources = gallery.facet("source", limit=20)
    if len(sources) < 2:
        return
    named = {
        str(source): set(map(str, gallery.facet("identity", [Condition("source", "=", (source,))], limit=10_000)))
        for source in sources
    }
    shared: set[str] = set()
    places: set[str] = set()
    for one in own & named.keys():
        for other in named.keys() - {one, *beside(one, named)}:
            if both := people_of(gallery, named[one] & named[other]):
                shared |= set(both)
                places |= {one, other}
    if shared:
        text = "identities of the same name in more than one source (%s) count as the same: %s"
        _log.warning(text, listed(sorted(places)), listed(sorted(shared)))
    gone = [place for place in sorted(places) if place.startswith("/") and not os.path.lexists(decode_key(place))]
    if gone:
        text = "%s is not there (any more): where it was moved, take its images out: sss ingest %s --prune-anyway"
        _log.warning(text, printable(gone[0]), shlex.quote(printable(gone[0])))


def watch(
    directories: Sequence[StrPath],
    options: WatchOptions,
    observer: Observer,
    stop: threading.Event,
    *,
    around: Around = lambda gallery, embedder: (gallery, embedder),
) -> bool:
    """Ingest all images under ``directories``, then what changes there, until ``stop`` is set.

    options: see :class:`~ingest.options.WatchOptions`. observer: told of everything that happens. storage and quantise
    are asked of an existing gallery at the first opening only, for it may be re-indexed. around: as for
    :func:`ingest`, each time the gallery is opened.

    Returns whether the first full ingest came to its end. Raises what :meth:`ingest.watching.watch.Watcher.run` raises.
    """
    if options.shard is not None:
        raise UsageError("a watch has all files: leave --shard out, or watch one directory in each process")
    for one in directories:
        if protocol_of(one) is not None:
            raise UsageError(
                f"{printable(redacted(os.fspath(one)))}: --watch needs files on this machine; ingest a URL again when"
                " something may have changed"
            )
    options = options.settled(load_settings())
    loaded: Embedder | None = None  # kept until the gallery has another model
    storage = {"storage": options.storage, "quantise": options.quantise}  # asked for at the first opening only

    @contextmanager
    def opened() -> Iterator[tuple[Gallery, Embedder]]:
        nonlocal loaded
        # A writer waits minutes for a server that is away, in silence; a reader is back after seconds, and whoever
        # watches waits by itself, says so, and can be stopped.
        with (
            suppress(GalleryNotFoundError),
            store_in_use(options.store, options.gallery) as (store, name),
            store.open(name),
        ):
            pass
        with open_to_write(options.store, options.gallery, options.model, **storage) as (gallery, bundle):
            storage.clear()
            if loaded is None or loaded.fingerprint != bundle.fingerprint:
                loaded = LazyEmbedder(bundle, options.device, options.threads or 0)
            yield around(gallery, loaded)

    with nullcontext() if options.failures is None else FailureLog(options.failures) as log:
        watcher = Watcher([Path(one) for one in directories], opened, options, observer, stop, log)
        watcher.run()
    return watcher.first_done

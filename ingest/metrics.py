"""The metrics of the worker, for Prometheus. Needs the ``[service]`` extra."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from functools import partial
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import numpy as np
from numpy.typing import NDArray

from ingest.summary import STAGES, IngestSummary, Progress, Stage
from siamese_search.errors import MissingExtraError, UsageError
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.engine import Forwarding
from siamese_search.model.embedder import Embedder, Started, begin

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, make_wsgi_app
except ModuleNotFoundError:
    raise MissingExtraError("--metrics-port", "service") from None

RESULTS = ("new", "changed", "moved", "unchanged", "failed", "removed")
#: Calls of a gallery that an ingest waits for. What is read as a stream (``scroll``) has no one duration.
STORE_CALLS = ("retrieve", "upsert", "delete", "flush")
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters and gauges in a registry of their own, so that several can live in one process."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        timer = partial(Histogram, buckets=_BUCKETS, registry=registry)
        self._images = counter("sss_ingest_images", "Images by what became of them.", ["result"])
        self._stages = counter("sss_ingest_stage_seconds", "Seconds for which each stage was busy.", ["stage"])
        self._bottleneck = gauge("sss_ingest_bottleneck", "1 for the stage that the others wait for.", ["stage"])
        self._batch = timer("sss_ingest_batch_seconds", "Forward passes, in seconds.")
        self._embedded = counter("sss_ingest_embedded_images", "Images that went through the network.")
        self._store = timer("sss_ingest_store_seconds", "Calls of the store, in seconds.", ["call"])
        self._queue = gauge("sss_ingest_queue_paths", "Paths that changed and wait.")
        self._lag = gauge("sss_ingest_lag_files", "Files found or changed that are not decided yet.")
        self._success = gauge("sss_ingest_last_success_timestamp_seconds", "When work was last finished.")
        self._store_up = gauge("sss_ingest_store_up", "Whether the store answers.")
        self._roots_up = gauge("sss_ingest_roots_up", "Whether all roots are there.")
        self._errors = counter("sss_ingest_warnings", "Troubles by kind.", ["event"])
        for metric, labels in (
            (self._images, RESULTS), (self._stages, STAGES), (self._bottleneck, STAGES), (self._store, STORE_CALLS)
        ):  # fmt: skip
            for label in labels:
                metric.labels(label)
        self._busy: dict[Stage, float] = {}
        self._counted = 0

    def worked(self, summary: IngestSummary) -> None:
        """Count a piece of work."""
        for result in RESULTS:
            self._images.labels(result).inc(getattr(summary, result))
        self._add(summary.stages, summary.embedded)
        self._busy, self._counted = {}, 0
        self._success.set(time.time())

    def warned(self, event: str) -> None:
        """Count a trouble."""
        self._errors.labels(event).inc()

    def moment(self, state: str, waiting: int, progress: Progress | None) -> None:
        """Set the gauges."""
        self._queue.set(waiting)
        self._lag.set(waiting + (progress.seen - progress.done if progress is not None else 0))
        self._store_up.set(state != "store away")
        self._roots_up.set(state != "root away")
        if progress is not None:
            self._add(progress.stages, progress.embedded)
            for stage in STAGES:
                self._bottleneck.labels(stage).set(stage == progress.bottleneck)

    def timed(self, embedder: Embedder) -> Embedder:
        """The same embedder; its batches are timed."""
        return _Timed(embedder, self._batch)

    def timed_store(self, gallery: Gallery) -> Gallery:
        """The same gallery; its :data:`STORE_CALLS` are timed, those that fail too."""
        return Forwarding(
            gallery, lambda call: self._store.labels(call).time() if call in STORE_CALLS else nullcontext()
        )

    def serve(self, port: int, host: str) -> int:
        """Answer at http://host:port/metrics from now on; the port (0: the system chooses). Raises UsageError."""
        try:
            server = Endpoint(host, port, self.registry)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"metrics cannot be served at {host}:{port}: {reason}; choose another port") from None
        return int(server.server_port)

    def _add(self, busy: Mapping[Stage, float], images: int) -> None:
        """Busy seconds and images since the beginning of this piece of work, of which a part has been counted: all are
        counted while it goes on, for it may take hours.
        """
        for stage, seconds in busy.items():
            self._stages.labels(stage).inc(max(0.0, seconds - self._busy.get(stage, 0.0)))
        self._embedded.inc(max(0, images - self._counted))
        self._busy, self._counted = dict(busy), max(images, self._counted)


class _Timed:
    """An embedder around another."""

    def __init__(self, embedder: Embedder, histogram: Histogram) -> None:
        self._embedder, self._histogram = embedder, histogram
        self.dim, self.input_size, self.fingerprint = embedder.dim, embedder.input_size, embedder.fingerprint
        self.centres = embedder.centres

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self._histogram.time():
            return self._embedder.embed(images)

    def begin(self, images: NDArray[np.uint8]) -> Started:
        """As :func:`siamese_search.model.embedder.begin`; the time is that until the vectors are there."""
        started = time.perf_counter()
        vectors = begin(self._embedder, images)

        def finish() -> NDArray[np.float32]:
            fetched = vectors() if callable(vectors) else vectors
            self._histogram.observe(time.perf_counter() - started)
            return fetched

        return finish if callable(vectors) else finish()


#: Connections at a time; of more, the oldest is closed: one that asks at once has its answer within milliseconds.
MOST = 16
#: Seconds for one connection, request and answer together.
LIFETIME = 10.0


class _Handler(WSGIRequestHandler):
    timeout = LIFETIME

    def log_message(self, *_: Any) -> None:
        """A scrape is no event."""


class Endpoint(ThreadingMixIn, WSGIServer):
    """A server of one registry's metrics in a thread of its own: a few connections at a time, each for a few seconds.

    Whoever reaches it may open connections and say nothing; they are not to take the threads and descriptors of the
    ingest. Raises OSError, OverflowError for the port.
    """

    daemon_threads = True
    request_queue_size = 128  # five, the default, would make a client wait seconds while many connect at once

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        self._began: dict[Any, float] = {}
        self._lock = threading.Lock()
        super().__init__((host, port), _Handler)
        self.set_app(make_wsgi_app(registry))
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            for oldest in list(self._began)[: max(0, len(self._began) - MOST + 1)]:
                self._cut(oldest)
            self._began[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Called twice a second: end what takes too long, also where it sends a byte now and then."""
        with self._lock:
            for request, began in list(self._began.items()):
                if time.monotonic() - began > LIFETIME:
                    self._cut(request)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._began.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that are cut are no news; the log is for what concerns the ingest."""

    def _cut(self, request: Any) -> None:
        """End a connection; its thread then closes it."""
        del self._began[request]
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

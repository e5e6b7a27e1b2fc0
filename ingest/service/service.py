"""The worker as a service: an ingest or a watch that reports by JSON lines, metrics and a health file."""

from __future__ import annotations

import errno
import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ingest.service.health import HealthFile, forget
from ingest.service.jsonlog import JsonLog
from ingest.summary import IngestSummary, Progress
from ingest.watching.watch import Observer, State
from siamese_search.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_PARTIAL, UsageError
from siamese_search.io.location import redacted
from siamese_search.io.signals import stop_on_signals

if TYPE_CHECKING:
    from ingest.options import ServiceOptions
    from ingest.service.metrics import Metrics
    from siamese_search.gallery.contract import Gallery
    from siamese_search.model.embedder import Embedder

#: Seconds between two updates of the gauges while nothing changes.
_GAUGE_SECONDS = 0.25


def run_service(options: ServiceOptions, log: JsonLog) -> int:
    """Ingest, and go on where ``options.watch`` says so, until SIGTERM or SIGINT. Returns the exit code.

    0: done, or stopped while watching. 3: done, but some images failed. 130: stopped before the (first) ingest
    was complete. Everything else is an exception.
    """
    if options.watch and options.shard is not None:
        raise UsageError("a watch has all files: leave --shard out, or watch one directory in each process")
    metrics = None
    if options.metrics_port is not None:
        from ingest.service.metrics import Metrics

        metrics = Metrics()
        port = metrics.serve(options.metrics_port, options.metrics_host)
        log.write("info", "metrics", host=options.metrics_host, port=port)
    if options.health_file is not None:
        forget(options.health_file)
    reporter = Reporter(log, metrics, options.health_file)
    logging.basicConfig(level=logging.WARNING, handlers=[log], force=True)
    log.write("info", "started", roots=[redacted(root) for root in options.roots], watch=options.watch)
    with stop_on_signals() as stop:
        code = (_watch if options.watch else _once)(options, reporter, stop)
    log.write("info", "stopped", exit_code=code)
    return code


def _watch(options: ServiceOptions, reporter: Reporter, stop: threading.Event) -> int:
    from ingest.run import watch

    complete = watch(
        options.roots, options, reporter, stop, around=reporter.timed, around_store=reporter.timed_store
    )
    return EXIT_DONE if complete else EXIT_INTERRUPTED


def _once(options: ServiceOptions, reporter: Reporter, stop: threading.Event) -> int:
    from ingest.run import ingest

    reporter.moment("starting", 0)
    summary = ingest(
        *options.roots,
        options=options,
        around=lambda gallery, embedder: (reporter.timed_store(gallery), reporter.timed(embedder)),
        progress=lambda progress: reporter.moment("ingesting", 0, progress),
        stop=stop,
        notify=lambda message: reporter.said("info", "layout", message),
    )
    reporter.worked(summary)
    if summary.interrupted:
        return EXIT_INTERRUPTED
    if summary.prune_refused is not None:
        reporter.said("warning", "prune_refused", f"nothing more is pruned: {summary.prune_refused}")
    reporter.complete(summary)
    return EXIT_PARTIAL if summary.failed or summary.prune_refused is not None else EXIT_DONE


class Reporter(Observer):
    """Tells the log, the metrics and the health file."""

    def __init__(self, log: JsonLog, metrics: Metrics | None, health_file: Path | None) -> None:
        self._log, self._metrics = log, metrics
        self._health = None if health_file is None else HealthFile(health_file)
        self._health_written, self._health_lost = False, False
        self._last_success: float | None = None
        self._state = ""
        self._told = 0.0

    def said(self, level: Literal["info", "warning"], event: str, message: str) -> None:
        self._log.write(level, event, message=message)
        if level == "warning" and self._metrics is not None:
            self._metrics.warned(event)

    def worked(self, summary: IngestSummary) -> None:
        self._last_success = round(time.time(), 3)
        for failure in summary.failures:
            self._log.write("warning", "image_failed", path=failure.path, reason=failure.reason)
        self._log.write("info", "ingested", **_counts(summary))
        if self._metrics is not None:
            self._metrics.worked(summary)

    def complete(self, summary: IngestSummary) -> None:
        self._log.write(
            "info", "complete", **_counts(summary), gallery=summary.collection, store=summary.store
        )

    def moment(self, state: State, waiting: int, progress: Progress | None = None) -> None:
        now = time.monotonic()
        if state == self._state and now - self._told < _GAUGE_SECONDS:
            return
        self._told = now
        self._state = state
        if self._metrics is not None:
            self._metrics.moment(state, waiting, progress)
        if self._health is not None:
            self._say_health(self._health, state)

    def _say_health(self, health: HealthFile, state: State) -> None:
        """Write the health file. One that can never be written is a mistake; later, the work goes on without it."""
        try:
            health.write(state, self._last_success)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            if not self._health_written and not full:
                raise UsageError(f"the health file cannot be written: {error}") from None
            if not self._health_lost:
                self.said("warning", "health_file", f"the health file cannot be written: {error}; going on")
            self._health_lost = True
        else:
            if self._health_lost:
                self.said("info", "health_file", "the health file is written again")
            self._health_written, self._health_lost = True, False

    def timed(self, embedder: Embedder) -> Embedder:
        """The embedder, with its batches timed where there are metrics."""
        return embedder if self._metrics is None else self._metrics.timed(embedder)

    def timed_store(self, gallery: Gallery) -> Gallery:
        """The same for the gallery's calls."""
        return gallery if self._metrics is None else self._metrics.timed_store(gallery)


def _counts(summary: IngestSummary) -> dict[str, Any]:
    names = ("seen", "new", "changed", "moved", "unchanged", "removed", "failed", "seconds")
    return {**{name: getattr(summary, name) for name in names}, "bottleneck": summary.bottleneck}

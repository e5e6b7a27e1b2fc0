"""The worker as a service: an ingest or a watch that reports by JSON lines, metrics and a health file.

A probe reads the file, 200 bytes: one of the store itself would count its points once a minute.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from pythonjsonlogger.json import JsonFormatter

from ingest.summary import IngestSummary, Observer, Progress, State
from siamese_search.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_PARTIAL, UsageError, printable
from siamese_search.io.files import atomic_write_text, open_own, read_json
from siamese_search.io.location import redacted, redacted_text
from siamese_search.io.resources import stop_on_signals

if TYPE_CHECKING:
    from ingest.metrics import Metrics
    from ingest.options import ServiceOptions
    from siamese_search.gallery.contract import Gallery
    from siamese_search.model.embedder import Embedder


class JsonLog(logging.StreamHandler[TextIO]):
    """Writes ``{"time": …, "level": …, "event": …, …}`` lines, in ASCII, so that no value can end a line early,
    move a cursor or be invalid UTF-8. Thread-safe; a reader that has gone is no error.

    As the root logger's handler it also takes what libraries say (the store that does not answer), as event ``log``.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(_Lines([]))

    def write(self, level: str, event: str, **fields: object) -> None:
        """One line. time: UTC, RFC 3339 with milliseconds. fields: strings, numbers, booleans, lists and dicts."""
        number = logging.getLevelNamesMapping()[level.upper()]
        self.handle(logging.makeLogRecord({"levelno": number, "msg": {"event": event, **fields}}))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not isinstance(sys.exc_info()[1], (OSError, ValueError)):  # ValueError: the stream is closed
            super().handleError(record)


class _Lines(JsonFormatter):
    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """message_dict: not used, for it has tracebacks of libraries, and they may hold what is not to be logged."""
        del message_dict
        text = redacted_text(record.message)
        said = record.msg if isinstance(record.msg, dict) else {"event": "log", "message": text, "logger": record.name}
        now = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        level = logging.getLevelName(min(record.levelno, logging.ERROR)).lower()
        log_data |= _plain({"time": now.replace("+00:00", "Z"), "level": level, **said})


def _plain(value: object) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int)) else printable(str(value))


#: States in which the worker does what it is there for.
HEALTHY = frozenset({"starting", "scanning", "ingesting", "watching"})
_WRITE_SECONDS = 5.0
_MAX_BYTES = 1 << 16


class HealthFile:
    """Writes ``{"time", "state", "last_success"}`` (Unix seconds), at most every five seconds while nothing changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written, self._state = 0.0, ""

    def write(self, state: str, last_success: float | None) -> None:
        """Raises OSError where the file cannot be written."""
        now = time.monotonic()
        if state == self._state and now - self._written < _WRITE_SECONDS:
            return
        document = {"time": round(time.time(), 3), "state": state, "last_success": last_success}
        text = json.dumps(document) + "\n"
        try:
            atomic_write_text(self._path, text)
        except OSError:
            if not self._path.is_file():
                raise
            # A full disk has no room for a second file, but for these bytes where the former ones are.
            with open(self._path, "r+b", buffering=0, opener=open_own) as file:
                file.write(text.encode("ascii"))
                file.truncate()
        self._written, self._state = now, state


def trouble(path: Path, max_age: float, *, alive: bool = False) -> str | None:
    """Why the worker that writes this file is not healthy; ``None`` if it is.

    It is not where the file is missing or damaged, was written more than ``max_age`` seconds ago, or names a
    state other than :data:`HEALTHY`. alive: only whether the worker lives: one that waits for its store is not
    healthy, but nothing is won by starting it again.
    """
    name = printable(path)
    try:
        document = read_json(path, _MAX_BYTES)
        written, state = float(document["time"]), str(document["state"])
    except OSError as error:
        return f"{name}: {error.strerror or 'cannot be read'}"
    except (ValueError, KeyError, TypeError):
        return f"{name}: is no health file"
    age = time.time() - written
    # A file from the future is no proof either: somebody has set the clock back.
    if not -max_age <= age <= max_age:
        return f"{name}: written {age:.0f} s ago, more than {max_age:g} s"
    if state == "stopped" if alive else state not in HEALTHY:
        return f"{name}: {printable(state)}"
    return None


def forget(path: Path) -> None:
    """Remove the file of a former worker, so that a probe cannot take it for this one's."""
    with suppress(OSError):
        path.unlink()


#: Seconds between two updates of the gauges while nothing changes.
_GAUGE_SECONDS = 0.25


def run_service(options: ServiceOptions, log: JsonLog) -> int:
    """Ingest, and go on where ``options.watch`` says so, until SIGTERM or SIGINT. Returns the exit code.

    0: done, or stopped while watching. 3: done, but some images failed. 130: stopped before the (first) ingest
    was complete. Everything else is an exception.
    """
    metrics = None
    if options.metrics_port is not None:
        from ingest.metrics import Metrics

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

    complete = watch(options.roots, options, reporter, stop, around=reporter.timed)
    return EXIT_DONE if complete else EXIT_INTERRUPTED


def _once(options: ServiceOptions, reporter: Reporter, stop: threading.Event) -> int:
    from ingest.run import ingest

    reporter.moment("starting", 0)
    summary = ingest(
        *options.roots,
        options=options,
        around=reporter.timed,
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
        self._log.write("info", "complete", **_counts(summary), gallery=summary.collection, store=summary.store)

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

    def timed(self, gallery: Gallery, embedder: Embedder) -> tuple[Gallery, Embedder]:
        """Both, with the calls of the one and the batches of the other timed where there are metrics."""
        if self._metrics is None:
            return gallery, embedder
        return self._metrics.timed_store(gallery), self._metrics.timed(embedder)


def _counts(summary: IngestSummary) -> dict[str, Any]:
    names = ("seen", "new", "changed", "moved", "unchanged", "removed", "failed", "seconds")
    return {**{name: getattr(summary, name) for name in names}, "bottleneck": summary.bottleneck}

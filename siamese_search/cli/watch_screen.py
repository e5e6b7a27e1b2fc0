"""``sss ingest --watch``: what a watch tells, for people or as a JSON line for every piece of work."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ingest.options import WatchOptions
from ingest.watching.watch import Observer, State
from siamese_search.cli.output import ingested, note, warn, write_json, write_text
from siamese_search.cli.progress import Bar
from siamese_search.errors import EXIT_DONE, EXIT_INTERRUPTED

if TYPE_CHECKING:
    from ingest.summary import IngestSummary, Progress


def run_watch(directories: Sequence[str], options: WatchOptions, *, json: bool) -> int:
    """Watch until a signal comes. That is how a watch ends, so the exit code is 0; 130 before the first full
    ingest was complete."""
    from ingest.run import watch
    from siamese_search.io.resources import stop_on_signals

    with Bar("ingest", "images") as bar, stop_on_signals() as stop:
        complete = watch(directories, options, WatchScreen(bar, json=json), stop)
    if complete:
        return EXIT_DONE
    note("sss: interrupted; what was finished is kept, and the same command goes on from there")
    return EXIT_INTERRUPTED


class WatchScreen(Observer):
    """The summaries on stdout, everything else on stderr; a progress bar for the first ingest."""

    def __init__(self, bar: Bar, *, json: bool) -> None:
        self._bar, self._json = bar, json
        self._first = True
        self._done = self._failed = 0  # of the parts of the first ingest that are over
        self._last: Progress | None = None

    def said(self, level: Literal["info", "warning"], event: str, message: str) -> None:  # noqa: ARG002
        text = message if level == "info" else f"sss: warning: {message}"
        self._bar.note(text)

    def worked(self, summary: IngestSummary) -> None:
        if not self._first and _counts(summary):
            self._write(summary, f"{time.strftime('%H:%M:%S')} {_counts(summary)} ({summary.seconds:.1f} s)")

    def complete(self, summary: IngestSummary) -> None:
        self._bar.close()
        self._first = False
        self._write(summary, ingested(summary))
        note("sss: watching; Ctrl-C ends it")

    def _write(self, summary: IngestSummary, text: str) -> None:
        for failure in summary.failures:
            warn(f"skipped {failure.shown}: {failure.reason}")
        if self._json:
            write_json(summary.to_json(), lines=True)
        else:
            write_text(text)
        sys.stdout.flush()

    def moment(self, state: State, waiting: int, progress: Progress | None = None) -> None:  # noqa: ARG002
        if not self._first or progress is None:
            return
        if self._last is not None and progress.seen < self._last.seen:  # another part has begun
            self._done += self._last.done
            self._failed += self._last.failed
        self._last = progress
        failed = self._failed + progress.failed
        self._bar.update(self._done + progress.done, None, extra=f"{failed} failed" if failed else "")


def _counts(summary: IngestSummary) -> str:
    """``2 new, 1 removed``: only what there is."""
    names = ("new", "changed", "moved", "removed", "failed")
    return ", ".join(f"{getattr(summary, name)} {name}" for name in names if getattr(summary, name))

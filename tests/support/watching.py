"""A watch over real files, with the model and the store of ``fakes``, and what it must end in."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

from fakes import ColourEmbedder, MemoryGallery

from ingest.options import IngestOptions, WatchOptions
from ingest.pipeline import in_process, ingest_files
from ingest.scan import scan_files, survey_roots
from ingest.summary import Observer
from ingest.watching.watch import Watcher

DEADLINE = 60.0


def wait_until(condition, what="the condition"):
    """Wait for a condition, for as long as a busy machine may take."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come about in {DEADLINE:.0f} s")
        time.sleep(0.02)


class Record(Observer):
    """Keeps everything that is told."""

    def __init__(self):
        self.lines, self.summaries, self.states, self.first = [], [], [], None

    def said(self, level, event, message):
        self.lines.append((level, event, message))

    def worked(self, summary):
        self.summaries.append(summary)

    def complete(self, summary):
        self.first = summary

    def moment(self, state, waiting, progress=None):  # noqa: ARG002
        if not self.states or self.states[-1] != state:
            self.states.append(state)

    def events(self):
        return [event for _, event, _ in self.lines]

    def total(self, name):
        return sum(getattr(summary, name) for summary in self.summaries)

    def failures(self):
        return [failure for summary in self.summaries for failure in summary.failures]


class Watch:
    """A watcher in a thread of its own."""

    def __init__(self, roots, gallery, open_gallery=None, **options):
        self.gallery, self.record, self.stop, self.error = gallery, Record(), threading.Event(), None
        self.embedder = ColourEmbedder()

        @contextmanager
        def opened():
            yield gallery, self.embedder

        options = {"settle_seconds": 0.2, "rescan_minutes": 0, **options}
        self.watcher = Watcher(roots, open_gallery or opened, WatchOptions(**options), self.record, self.stop)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.watcher.run()
        except Exception as error:
            self.error = error

    def wait_complete(self):
        wait_until(lambda: self.watcher.first_done or self.error, "the first ingest")
        assert self.error is None, self.error

    def close(self):
        self.stop.set()
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()


@contextmanager
def watching(*roots, gallery=None, **options):
    """A watch that has completed its first ingest."""
    watch = Watch(list(roots), MemoryGallery() if gallery is None else gallery, **options)
    try:
        watch.wait_complete()
        yield watch
    finally:
        watch.close()
    assert watch.error is None, watch.error


def contents(gallery):
    """Point id -> (vector, payload)."""
    return {one: (vector.tobytes(), payload) for one, (vector, payload) in dict(gallery.points).items()}


def fresh(*roots, layout="auto", source=None):
    """What an ingest of these roots into an empty gallery makes."""
    gallery = MemoryGallery()
    chunks = scan_files(survey_roots(list(roots), layout), source)
    work = in_process(ColourEmbedder())
    ingest_files([chunks], gallery, work, IngestOptions(), failures=None, progress=None, stop=None)
    return contents(gallery)

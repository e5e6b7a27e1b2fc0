"""Watcher: a first full ingest, then what changes below the roots reaches the gallery soon after it settles.

    threads "watch"       file events of one root each, by watchfiles
    the calling thread    settle → look up, decode, embed, commit (:func:`ingest.pipeline.ingest_files`) → remove

The gallery is open only while there is work, so that it is free for everybody in between. Full scans (the first,
one every now and then, and one after events were lost) go through the same pipeline, and whatever has settled
meanwhile goes first. Deletions are events: what is merely absent is pruned by full scans, where that is asked for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np

from ingest.options import WatchOptions
from ingest.pipeline import check_arguments, in_process, ingest_files
from ingest.prune import prune
from ingest.scan import ScannedFile, check_roots
from ingest.summary import FailureLog, IngestSummary, Observer, Progress, State
from ingest.watching.locate import remove_below, remove_files
from ingest.watching.watched_root import WatchedRoot
from siamese_search.errors import GalleryReplacedError, ModelMismatchError, StoreError, amount, printable
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.filters import Condition
from siamese_search.model.embedder import Embedder

#: Opens the gallery together with the embedder of its model; the embedder outlives the block.
Open = Callable[[], AbstractContextManager[tuple[Gallery, Embedder]]]

_IDLE_SECONDS = 0.5
_BUSY_SECONDS = 0.05
#: The gallery stays open for paths that are about to settle, but not for a file that grows and grows.
_PATIENCE_SECONDS = 2.0
_NOBODY = "00000000-0000-0000-0000-000000000000"
#: A scan is interrupted that often, to look at the roots.
_SLICE_SECONDS = 10.0
_BACKOFF_SECONDS = (0.5, 60.0)
#: Without events (polling), files of a disk that was unmounted below the root look deleted: no more than this
#: share of a source's points is believed at once, beyond a handful.
_BELIEVED_SHARE, _BELIEVED_FILES = 0.2, 20
_COUNTS = ("seen", "new", "changed", "moved", "unchanged", "removed", "embedded")


class Watcher:
    """Watches directories and CSV files, and keeps a gallery in step with them. See :meth:`run`."""

    def __init__(
        self,
        roots: Sequence[Path],
        open_gallery: Open,
        options: WatchOptions,
        observer: Observer,
        stop: threading.Event,
        failures: FailureLog | None = None,
    ) -> None:
        """failures: gets every image that cannot be used."""
        self._open, self._options, self._observer, self._stop = open_gallery, options, observer, stop
        self._failures, self._say = failures, observer.said
        self._wake = threading.Event()
        self._roots: list[WatchedRoot] = []
        self._directories = {path: path if path.is_dir() else path.parent for path in check_roots(roots)}
        places = self._directories.values()
        self._nested = any(one in other.parents for one in places for other in places)
        self._first: IngestSummary | None = None
        self.first_done = False  # whether the first full ingest came to its end
        self._retry_at, self._backoff = 0.0, _BACKOFF_SECONDS[0]
        self._away = self._had_waiting = False

    def run(self) -> None:
        """Watch until ``stop`` is set; then finish and commit the batch in hand.

        Raises DataError for a root that is not there or does not fit its layout, ModelMismatchError, and
        StoreError where the first opening of the store fails (unless ``patient``). Later troubles with the
        store or a root are told, and waited out.
        """
        self._observer.moment("starting", 0)
        try:
            for path in self._directories:
                self._roots.append(WatchedRoot(path, self._options, self._others(path), self._say, self._wake.set))
            while not self._stop.is_set():
                now = time.monotonic()
                for root in self._roots:
                    root.look(now)
                # Opened at the first sign of work, so that it is open when that work has settled.
                fresh, self._had_waiting = (bool(self._waiting()) and not self._had_waiting, bool(self._waiting()))
                if now >= self._retry_at and (fresh or self._due(now)):
                    self._work()
                self._end_first()
                self._observer.moment(self._state(), self._waiting())
                self._wake.wait(_BUSY_SECONDS if self._waiting() or not self.first_done else _IDLE_SECONDS)
                self._wake.clear()
        finally:
            for root in self._roots:
                root.close()
            self._observer.moment("stopped", self._waiting())

    # One turn.

    def _due(self, now: float) -> bool:
        return any(root.due(now) for root in self._roots)

    def _waiting(self) -> int:
        return sum(root.waiting_paths for root in self._roots)

    def _work(self) -> None:
        """Ingest and remove until nothing is due or about to settle, with the gallery open."""
        try:
            with self._open() as (gallery, embedder):
                gallery.retrieve([_NOBODY])  # opening read the header only: this loads the points
                self._opened(embedder)
                patience = time.monotonic() + _PATIENCE_SECONDS
                while not self._stop.is_set():
                    if self._due(time.monotonic()):
                        self._slice(gallery, embedder)
                        patience = time.monotonic() + _PATIENCE_SECONDS
                    elif self._waiting() and time.monotonic() < patience:
                        self._stop.wait(_BUSY_SECONDS)
                    else:
                        break
                    for root in self._roots:
                        root.look(time.monotonic())
        except GalleryReplacedError:
            self._put_back()  # re-indexed meanwhile: the next turn opens the new generation
        except ModelMismatchError:
            raise
        except StoreError as error:
            self._put_back()
            if not self._away and not self._options.patient and self._first is None:
                raise
            self._away = True
            self._say("warning", "store_away", f"{error}; tried again in {self._backoff:.3g} s")
            self._retry_at = time.monotonic() + self._backoff
            self._backoff = min(2 * self._backoff, _BACKOFF_SECONDS[1])

    def _slice(self, gallery: Gallery, embedder: Embedder) -> None:
        began = time.monotonic()
        check_arguments(gallery, embedder, self._options)
        summary = ingest_files(
            [self._chunks()],
            gallery,
            in_process(embedder),
            replace(self._options, reembed=self._options.reembed and not self.first_done),
            failures=self._failures,
            progress=self._progress,
            stop=self._stop,
        )
        if summary.interrupted:
            self._tell(summary)
            return
        for root in self._roots:
            summary.removed += self._remove(gallery, root)
            root.done()
            if root.take_scan_ended() and self._options.prune != "no":
                self._prune(gallery, root, summary)
        summary.seconds = time.monotonic() - began
        self._tell(summary)

    def _chunks(self) -> Iterator[list[ScannedFile]]:
        """What has settled, and ends with it, so that it is committed at once; else the scans, for a while."""
        ends, roots = time.monotonic() + _SLICE_SECONDS, self._roots
        while not self._stop.is_set() and time.monotonic() < ends:
            found = False
            for root in roots:
                settled = root.settling.due(time.monotonic())
                if chunk := root.next_chunk(time.monotonic()):
                    yield chunk
                    found = True
                if (settled and chunk) or root.has_removals:
                    ends = 0.0
                if found and self._nested:
                    roots = [root]  # what it stores is there when another root comes by the same image
                    break
            if not found:
                return

    def _remove(self, gallery: Gallery, root: WatchedRoot) -> int:
        if not root.has_removals or root.locator is None:
            return 0
        files, removed = sorted(root.removed_files), 0
        # Asked after the files were found absent: a disk that went away meanwhile took nothing with it.
        if not root.still_there():
            self._say("warning", "removal_refused", f"{printable(root.base)}: has gone: no point is removed")
        elif root.polling and self._suspicious(gallery, root, len(files)):
            self._say(
                "warning",
                "removal_refused",
                f"{printable(root.base)}: {amount(len(files), 'file')} seem to be gone, too many to believe while"
                " polling: no point is removed; if they are, run `sss ingest --prune`",
            )
        else:
            removed = remove_files(gallery, root.locator, files)
            removed += remove_below(gallery, root.locator, sorted(root.removed_directories))
        root.forget_removals()
        return removed

    def _suspicious(self, gallery: Gallery, root: WatchedRoot, files: int) -> bool:
        if files <= _BELIEVED_FILES or root.locator is None or "source" not in gallery.fields():
            return False
        points = gallery.count([Condition("source", "=", (root.locator.source,))])
        return files > _BELIEVED_SHARE * points

    def _prune(self, gallery: Gallery, root: WatchedRoot, summary: IngestSummary) -> None:
        """Remove what a full scan did not find; of roots that share a source, all of them vouch for it."""
        sources = {place.source for place in root.places}
        places = [place for one in self._roots for place in one.places if place.source in sources]
        pruned = prune(gallery, places, anyway=self._options.prune == "anyway")
        summary.removed += pruned.removed
        if pruned.refused is not None:
            self._say("warning", "prune_refused", f"nothing is pruned: {pruned.refused}")

    # Telling.

    def _opened(self, embedder: Embedder) -> None:
        """The store is there."""
        if self._away:
            self._say("info", "store_back", "the store is there again")
        self._away, self._backoff = False, _BACKOFF_SECONDS[0]
        if self._first is None:
            # The model is loaded by its first image: now, and not when somebody waits for that image.
            embedder.embed(np.zeros((1, *embedder.input_size, 3), np.uint8))

    def _put_back(self) -> None:
        for root in self._roots:
            root.failed(time.monotonic())

    def _tell(self, summary: IngestSummary) -> None:
        if not self.first_done:
            self._first = self._first or IngestSummary(summary.collection, summary.store, summary.model)
            _add(self._first, summary)
        if summary.seen or summary.removed or summary.failed:
            self._observer.worked(summary)

    def _end_first(self) -> None:
        """The first ingest is complete when every root was scanned and nothing is left to do."""
        going_on = self.first_done or self._away or self._stop.is_set()
        if not going_on and all(root.settled_first for root in self._roots):
            self.first_done = True
            if self._first is not None:
                self._observer.complete(self._first)

    def _progress(self, progress: Progress) -> None:
        self._observer.moment("scanning" if self._scanning() else "ingesting", self._waiting(), progress)

    def _scanning(self) -> bool:
        return any(root.scanning for root in self._roots)

    def _state(self) -> State:
        if self._away:
            return "store away"
        if not all(root.present for root in self._roots):
            return "root away"
        return "scanning" if self._scanning() else "ingesting" if self._due(time.monotonic()) else "watching"

    def _others(self, path: Path) -> list[str]:
        """The directories of the other roots, where all have one source."""
        if self._options.source is None:
            return []
        return [str(directory) for one, directory in self._directories.items() if one != path]


def _add(total: IngestSummary, part: IngestSummary) -> None:
    """Add the counts of a part; the first failures are kept."""
    for name in _COUNTS:
        setattr(total, name, getattr(total, name) + getattr(part, name))
    total.seconds += part.seconds
    total.interrupted = total.interrupted or part.interrupted
    for stage, seconds in part.stages.items():
        total.stages[stage] = total.stages.get(stage, 0.0) + seconds
    for failure in part.failures:
        total.fail(failure.path, failure.reason)
    total.failed += part.failed - len(part.failures)

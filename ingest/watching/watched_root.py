"""WatchedRoot: one root of a watch, from the events below it to chunks of files that are worth a look."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

from ingest.options import WatchOptions
from ingest.prune import Place, directory_identity, places_of
from ingest.scan import CHUNK, ScannedFile, scan_files
from ingest.watching.events import Delivery, Events, Settling, signature_of
from ingest.watching.locate import Locator, Say, absent, has_images, locator_of, parents
from siamese_search.errors import DataError, printable
from siamese_search.io.signatures import may_be_image
from siamese_search.options import layout_of

#: Paths held back at a time (some 300 bytes each). Beyond it only a scan can keep up.
MAX_WAITING = 200_000
#: Seconds between two looks at whether the root is still there.
_LOOK_SECONDS = 1.0
#: After a scan for lost events the next one waits this many times as long as it took, and at least so many seconds.
_REST_FACTOR, _REST_SECONDS = 5.0, 2.0


class WatchedRoot:
    """The state of one root. Its methods are called from one thread at a time; events come in by ``inbox``.

    path: absolute, links resolved. others: as for :class:`~ingest.watching.locate.Locator`. Raises DataError where its
    layout does not fit; a directory without images is none yet: its layout is decided by the first that come.
    """

    def __init__(
        self, path: Path, options: WatchOptions, others: Sequence[str], say: Say, wake: Callable[[], None]
    ) -> None:
        self.path, self._options, self._say, self._wake = path, options, say, wake
        self.table = not path.is_dir()
        self.locator: Locator | None = None  # until an image has come
        self._survey = partial(locator_of, path, options, others, say)
        #: Whether nobody has asked for a layout, so that other images may make it another one.
        self._layout_may_change = layout_of(options) == "auto" and not self.table
        if self.table or has_images(path, options.follow_links):
            self.locator = self._survey()
        self.base = os.fspath(path) if self.locator is None else self.locator.base
        self._prefix = os.path.join(self.base, "")  # noqa: PTH118
        self.inbox: deque[Delivery] = deque()
        self.settling = Settling(self.base, options.settle_seconds)
        self.directories: set[str] = set()
        self.removed_files: set[str] = set()
        self.removed_directories: set[str] = set()
        self._taken: list[str] = []
        self._handed: set[str] = set()  # out since the last done(): a point must not be written twice at a time
        self._scans: deque[Iterator[list[ScannedFile]]] = deque()
        self._scan_wanted, self._scan_not_before, self._scan_began = True, 0.0, 0.0
        self._full = self._layout_in_doubt = False
        self._loss = ""  # the last reason for a scan that was told
        self.places: list[Place] = []
        self.scanned = self.scan_ended = False  # ever; since the last call of take_scan_ended()
        self._next_rescan = float("inf")
        self._next_look = 0.0
        self._table_signature = self._table_seen = signature_of(os.fspath(path)) if self.table else None
        self._identity = directory_identity(self.base)
        self.present = self._identity is not None
        self._events = self._watch()

    # What there is to do.

    @property
    def scanning(self) -> bool:
        """Whether a scan is under way or about to begin."""
        return bool(self._scans) or (self._scan_wanted and self.present and self.locator is not None)

    @property
    def settled_first(self) -> bool:
        """Whether the first scan is done, or there is nothing to scan, and no path waits."""
        idle = not self.waiting_paths and not self.scanning
        return idle and (self.scanned or self.locator is None or not self.present)

    @property
    def waiting_paths(self) -> int:
        """Paths with changes that have not been dealt with."""
        return len(self.settling) + len(self.removed_files) + len(self.removed_directories)

    @property
    def polling(self) -> bool:
        return self._events.polling

    @property
    def has_removals(self) -> bool:
        return bool(self.removed_files or self.removed_directories)

    def due(self, now: float) -> bool:
        """Whether :meth:`next_chunk` or the removals have something to do."""
        return bool(self._scans) or self.has_removals or self.settling.due(now)

    def look(self, now: float) -> None:
        """Take in the events, see that the root is still there, begin the scans that are due."""
        self._take_events(now)
        if now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            self._look_at_root()
            if self.table:
                self._look_at_table()
            if now >= self._next_rescan:
                self._next_rescan, self._scan_wanted = float("inf"), True
                self._layout_in_doubt = self._layout_may_change and self.locator is not None
        if self._layout_in_doubt and self.present and not self._full and now >= self._scan_not_before:
            self._reconsider(now)
        if self._scan_wanted and self.present and not self._full and now >= self._scan_not_before:
            if self.locator is None:
                self._first_images()
            if self.locator is not None and self._events.ready:
                self._scan_wanted, self._full, self._scan_began = False, True, now
                self.places = places_of([self.locator.survey], self._options.source)
                self._scans.append(self._full_scan(self.locator))

    def next_chunk(self, now: float) -> list[ScannedFile]:
        """Files to ingest, those that have settled first; empty when there is nothing (see :meth:`due`)."""
        self._take_events(now)
        files: list[ScannedFile] = []
        while not files and self.settling.due(now):
            files = self._settled(now)
        while not files and self._scans:
            try:
                chunk = next(self._scans[0], None)
            except DataError as error:
                self._say("warning", "scan_failed", str(error))
                self._drop_scans()
                self._scheduled(now)
                break
            if chunk is None:
                self._scans.popleft()
            else:
                files = self._stable(chunk, now)
        return files

    # How it went.

    def done(self) -> None:
        """Everything that was handed out has been ingested."""
        self._taken.clear()
        self._handed.clear()

    def failed(self, now: float) -> None:
        """Nothing is known of what was handed out: it comes again."""
        for path in self._taken:
            self.settling.touch(path, now)
        self.done()
        if self._scans or self.scan_ended:
            self._drop_scans()
            self.scan_ended, self._scan_wanted = False, True

    def take_scan_ended(self) -> bool:
        """Whether a full scan has come to its end since the last call."""
        ended, self.scan_ended = self.scan_ended, False
        return ended

    def forget_removals(self) -> None:
        self.removed_files.clear()
        self.removed_directories.clear()

    def still_there(self) -> bool:
        """Whether the root is the directory that it was: not gone, not unmounted, not another of its name."""
        return self.present and directory_identity(self.base) == self._identity

    def close(self) -> None:
        self._events.close()

    # Events.

    def _watch(self) -> Events:
        directories = None
        if self.table and self.locator is not None:
            for record in self.locator.survey.stream():
                self._learn(self.locator.relative(record.path))
            directories = [os.path.join(self.base, one) for one in ("", *self.directories)]  # noqa: PTH118
        return Events(self.base, self._deliver, directories=directories, poll=self._options.poll)

    def _deliver(self, delivery: Delivery) -> None:
        self.inbox.append(delivery)
        self._wake()

    def _take_events(self, now: float) -> None:
        while self.inbox:
            delivery = self.inbox.popleft()
            name = printable(self.path)
            if delivery.kind == "polling":
                self._say(
                    "warning",
                    "polling",
                    f"{name}: the system has no watches left for so many directories ({delivery.reason}): it is read"
                    " again every few seconds instead; raise fs.inotify.max_user_watches and _instances",
                )
            elif delivery.kind == "lost":
                if not self._scan_wanted and delivery.reason != self._loss:
                    self._say("info", "events_lost", f"{name}: is scanned again: {delivery.reason}")
                self._scan_wanted, self._loss = True, delivery.reason
            elif self.present:
                for path in delivery.paths:
                    self._touch(path, now)

    def _touch(self, path: str, now: float) -> None:
        if len(self.settling) >= MAX_WAITING:
            if not self._scan_wanted:
                self._say("warning", "overrun", f"{printable(self.path)}: too many changes: it is scanned again")
                self._scan_wanted = True
        elif path and (
            may_be_image(path.rpartition("/")[2]) or path in self.directories or os.path.isdir(self._prefix + path)  # noqa: PTH112
        ):
            self.settling.touch(path, now)

    # Files.

    def _settled(self, now: float) -> list[ScannedFile]:
        there = []
        for path in islice(self.settling.settled(now), CHUNK):
            self._taken.append(path)
            full = self._prefix + path
            if os.path.isdir(full):  # noqa: PTH112
                if self.locator is not None:
                    self._scans.appendleft(self._directory_scan(self.locator, path))
            elif not absent(full):
                there.append(path)
            elif path in self.directories:
                self.removed_directories.add(path)
            else:
                self.removed_files.add(path)
        if self.locator is None:
            self._scan_wanted = True
            return []
        try:
            located = self.locator.locate(there)
        except DataError as error:
            self._say("warning", "scan_failed", str(error))
            return []
        files = []
        for file in located:
            path = self.locator.relative(file.record.path)
            self._doubt(self.locator, path)
            self._learn(path)
            if path in self._handed:
                self.settling.touch(path, now)
            else:
                self._handed.add(path)
                files.append(file)
        return files

    def _stable(self, chunk: list[ScannedFile], now: float) -> list[ScannedFile]:
        """The files of a scan that are not being written this moment; those wait until they have settled."""
        assert self.locator is not None
        written_since = time.time_ns() - int(self._options.settle_seconds * 1e9)
        files = []
        for file in chunk:
            path = self.locator.relative(file.record.path)
            if file.reason is None:
                self._learn(path)
            if file.mtime_ns > written_since and len(self.settling) < MAX_WAITING:
                self.settling.touch(path, now)
            elif path not in self._handed:
                self._handed.add(path)
                files.append(file)
        return files

    def _full_scan(self, locator: Locator) -> Iterator[list[ScannedFile]]:
        yield from scan_files([locator.survey], self._options.source)
        self._full = False
        self.scanned = self.scan_ended = True
        self._scheduled(time.monotonic())

    def _directory_scan(self, locator: Locator, directory: str) -> Iterator[list[ScannedFile]]:
        paths = locator.below(directory)
        while chunk := list(islice(paths, CHUNK)):
            self._doubt(locator, chunk[0])
            yield locator.locate(chunk)

    def _scheduled(self, now: float) -> None:
        """A full scan has ended: say when the next one may come, and when it has to."""
        self._rest(now)
        rescan = 60 * self._options.rescan_minutes
        self._next_rescan = now + rescan if rescan > 0 else float("inf")

    def _rest(self, now: float) -> None:
        self._scan_not_before = now + max(_REST_SECONDS, _REST_FACTOR * (now - self._scan_began))

    def _learn(self, path: str) -> None:
        for directory in parents(path):
            if directory in self.directories:
                return
            self.directories.add(directory)

    # The root itself.

    def _first_images(self) -> None:
        """Decide the layout of a root that was empty, if images have come."""
        try:
            if has_images(self.path, self._options.follow_links):
                self.locator = self._survey()
                return
        except DataError as error:
            self._say("warning", "survey_failed", str(error))
        self._scan_wanted = False  # until something happens in it

    def _doubt(self, locator: Locator, path: str) -> None:
        """Whether a new image may make the layout another one, as the second folder does of a flat directory."""
        if self._layout_may_change:
            top, inside, _ = path.partition("/")
            folders = locator.survey.detection.layout == "folders"
            self._layout_in_doubt |= not inside if folders else bool(inside) and top not in self.directories

    def _reconsider(self, now: float) -> None:
        """Decide the layout again, by all images that are there now; where it is another, all are scanned again."""
        self._layout_in_doubt = False
        former = self.locator
        with suppress(DataError):  # no images are left, or it cannot be read: the layout stays what it was
            self.locator = self._survey(former)
        if self.locator is not former:
            self._scans.clear()
            self._scan_wanted = True
        else:
            self._scan_began = now
            self._rest(time.monotonic())

    def _look_at_root(self) -> None:
        identity = directory_identity(self.base)
        if identity == self._identity:
            return
        name = printable(self.base)
        if self.present:
            self._say("warning", "root_gone", f"{name}: has gone or was unmounted: none of its points is removed")
            self._events.close()
            self._drop_scans()
            self.settling.clear()
            self.forget_removals()
        self._identity, self.present = identity, identity is not None
        if self.present:
            self._say("info", "root_back", f"{name}: is there: it is scanned again")
            self._begin_again()

    def _look_at_table(self) -> None:
        """A CSV that has changed, and holds still, is surveyed and scanned anew; one that is wrong waits."""
        before, self._table_seen = self._table_seen, signature_of(os.fspath(self.path))
        if self._table_seen in (None, self._table_signature) or self._table_seen != before or not self.present:
            return
        self._table_signature = self._table_seen
        try:
            self.locator = self._survey()
        except DataError as error:
            self._say("warning", "survey_failed", f"{error}; its former rows stay in force")
            return
        self._events.close()
        self.base = self.locator.base
        self._prefix = os.path.join(self.base, "")  # noqa: PTH118
        self._identity = directory_identity(self.base)
        self._drop_scans()
        self._begin_again()

    def _begin_again(self) -> None:
        """Watch anew, and scan all at once."""
        self._events = self._watch()
        self._scan_wanted, self._scan_not_before = True, 0.0

    def _drop_scans(self) -> None:
        self._scans.clear()
        self._full = False

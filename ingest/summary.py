"""IngestSummary: what one ingest did, and the failures it survived; Observer: who is told of a watch."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, Self, get_args

from siamese_search.datasets.records import Failure
from siamese_search.errors import DataError, UsageError, printable
from siamese_search.options import StrPath

#: Failures kept with their reason; beyond it they are only counted, so that memory stays bounded. A
#: :class:`FailureLog` lists them all.
MAX_FAILURES = 1_000

Stage = Literal["scan", "plan", "decode", "embed", "commit"]
STAGES: tuple[Stage, ...] = get_args(Stage)


def bottleneck(stages: Mapping[Stage, float]) -> Stage | None:
    """The stage that held up the others: the one that was busy longest; ``None`` before any was.

    They run side by side with bounded queues between them, so the others waited for it, and a faster one of the
    others would change nothing.
    """
    slowest = max(stages, key=lambda stage: stages[stage], default=None)
    return slowest if slowest is not None and stages[slowest] > 0 else None


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """Stored images that an ingest did not come by. gone: their file has gone, ``gone_example`` for one.

    unlisted: their file is there and in no row of the tables that were read, ``unlisted_example`` for one.
    """

    gone: int = 0
    unlisted: int = 0
    gone_example: str = ""
    unlisted_example: str = ""


@dataclass(slots=True)
class IngestSummary:
    """Counts of images. ``seen`` = new + changed + moved + unchanged + failed, unless the ingest was interrupted.

    new: embedded for the first time. changed: file or metadata differ from what was stored, and the point was replaced.
    moved: the same content as a stored file that has gone (with checksums): its point was taken over. unchanged:
    already stored. removed: points whose file has gone (0 until pruning is asked for); prune_refused: why none were
    removed, or no more. left: what the gallery holds of the same sources besides. failures: the first
    :data:`MAX_FAILURES`; ``failed`` counts them all. overlaps: source → the gallery's other ones that hold its
    directory, or lie in it. lost: field → stored images that have it no more. log: called with each failure, by its
    real path. seconds: wall-clock time. workers: of a cluster, 0 in one process; startup_seconds: until the first of
    them could begin, as part of seconds. embedded: forward passes paid for, in images (metadata-only changes cost
    none). stages: seconds that each stage was busy (of decode, per thread); they overlap.
    """

    collection: str
    store: str
    model: str
    seen: int = 0
    new: int = 0
    changed: int = 0
    moved: int = 0
    unchanged: int = 0
    removed: int = 0
    failed: int = 0
    embedded: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    prune_refused: str | None = None
    left: LeftBehind = field(default_factory=LeftBehind)
    workers: int = 0
    startup_seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    overlaps: dict[str, list[str]] = field(default_factory=dict, repr=False, compare=False)
    lost: Counter[str] = field(default_factory=Counter, repr=False, compare=False)
    log: Callable[[StrPath, str], None] | None = field(default=None, repr=False, compare=False)
    stages: dict[Stage, float] = field(default_factory=dict)

    @property
    def stored(self) -> int:
        """Files that are in the gallery now."""
        return self.new + self.changed + self.moved + self.unchanged

    @property
    def bottleneck(self) -> Stage | None:
        """The stage that the others waited for."""
        return bottleneck(self.stages)

    def busy(self, stage: Stage) -> float:
        """The share of the ingest's time in which this stage was at work, 0 to 1."""
        return min(1.0, self.stages.get(stage, 0.0) / self.seconds) if self.seconds > 0 else 0.0

    @property
    def images_per_second(self) -> float:
        """Images embedded per second of wall-clock time; 0.0 when nothing was embedded."""
        return self.embedded / self.seconds if self.seconds > 0 else 0.0

    def fail(self, path: StrPath, reason: str) -> None:
        """Count a failure, and keep it while there is room."""
        self.failed += 1
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(Failure.of(path, reason))
        if self.log is not None:
            self.log(path, reason)

    def to_json(self) -> dict[str, Any]:
        """The JSON contract of ``sss ingest --json``.

        ``failed`` lists at most :data:`MAX_FAILURES`; only when there were more is ``failed_total`` added, and
        ``prune_refused`` only when pruning was asked for and refused, ``gone`` and ``unlisted`` only where the gallery
        holds images that the run did not come by, ``workers`` and ``startup_seconds`` only where
        workers of a cluster embedded something.
        """
        counts = ("seen", "new", "changed", "moved", "unchanged", "removed")
        answer: dict[str, Any] = {
            **{name: getattr(self, name) for name in counts},
            "failed": [failure.to_json() for failure in self.failures],
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_per_second, 1),
            "stages": {stage: round(seconds, 3) for stage, seconds in self.stages.items()},
            "bottleneck": self.bottleneck,
            "collection": self.collection,
            "store": self.store,
            "model": self.model,
        }
        if self.workers:
            answer |= {"workers": self.workers, "startup_seconds": round(self.startup_seconds, 3)}
        more = {
            "failed_total": self.failed if self.failed > len(self.failures) else None,
            "gone": self.left.gone or None,
            "unlisted": self.left.unlisted or None,
            "prune_refused": self.prune_refused,
        }
        return answer | {name: value for name, value in more.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a running ingest, for a progress display. All counts are images so far.

    done: decided for good (committed, unchanged or failed). seen: found by the scan so far; it is the total
    once ``scanned`` is True. embedded: forward passes so far. total: of images, ``None`` while it is unknown.
    images_per_second: images done per second of late. stages: busy seconds of each stage so far.
    """

    done: int
    seen: int
    scanned: bool
    embedded: int
    failed: int
    total: int | None = None
    images_per_second: float = 0.0
    stages: Mapping[Stage, float] = field(default_factory=dict)

    @property
    def bottleneck(self) -> Stage | None:
        """The stage that the others wait for."""
        return bottleneck(self.stages)


#: Where a watch or a service stands.
State = Literal["starting", "scanning", "ingesting", "watching", "store away", "root away", "stopped"]


class Observer:
    """What a watch tells; every method may be called often, and may do nothing."""

    def said(self, level: Literal["info", "warning"], event: str, message: str) -> None:
        """A line for people; ``event`` is its name for programs."""

    def worked(self, summary: IngestSummary) -> None:
        """A piece of work is done: a burst of changes, a scan, or some seconds of a long one."""

    def complete(self, summary: IngestSummary) -> None:
        """The first full ingest came to its end; ``summary`` is all of it."""

    def moment(self, state: State, waiting: int, progress: Progress | None = None) -> None:
        """Where it stands; ``waiting``: paths that changed and are not in the gallery yet."""


_FAILURE_BEGINS = b'{"path"'


class FailureLog:
    """``{"path": …, "reason": …}``, one object per line and failure, in the order in which they were met.

    The file is made anew. Each line reaches the operating system at once, so that a crash or a ``kill -9`` keeps
    what was listed; :meth:`close` makes it survive a power loss. All of it is ASCII: line breaks in names are
    ``\\n``, bytes that are not UTF-8 are ``\\udcXX``, which ``os.fsencode`` makes the real name of again.

    Raises UsageError for a file that is not such a list (an image named by mistake must not be emptied) or that another
    run has open, as shards do that were given the same name; DataError where it cannot be written: on the call itself
    when it cannot be made, else in :meth:`close`, because a full disk must not end the ingest. Not thread-safe.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        self._error: OSError | None = None
        _check_ours(self.path)
        try:
            # Emptied only once it is ours: of two runs that are given the same file one would lose its list.
            # Not waiting: a named pipe that nobody reads would hold the run, and its signals, for ever.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
            os.set_blocking(descriptor, True)
            self._file: IO[str] = os.fdopen(descriptor, "w", buffering=1, encoding="ascii", newline="\n")
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                self._lock()
                os.ftruncate(descriptor, 0)
        except OSError as error:
            raise self._failed(error) from None

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UsageError(
                f"{printable(self.path)}: another run is listing its failures there; give each its own file"
            ) from None
        except OSError:  # a file system without locks
            return

    def write(self, path: StrPath, reason: str) -> None:
        """Add one failure. ``path``: the real one, not printable text."""
        if self._error is None:
            try:
                self._file.write(json.dumps({"path": os.fspath(path), "reason": reason}) + "\n")
            except OSError as error:
                self._error = error

    def close(self) -> None:
        """Sync and close; safe to call twice."""
        if not self._file.closed:
            try:
                with self._file:
                    if stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):  # a pipe has nothing to sync
                        os.fsync(self._file.fileno())
            except OSError as error:
                self._error = self._error or error
        if self._error is not None:
            first, self._error = self._error, None
            raise self._failed(first)

    def _failed(self, error: OSError) -> DataError:
        return DataError(
            f"{printable(self.path)}: the list of failures cannot be written ({error.strerror or error});"
            " name another file with --failures"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with nullcontext() if kind is None else suppress(DataError):  # what ended the ingest matters more
            self.close()


def _check_ours(path: Path) -> None:
    """Refuse what nobody can have meant to overwrite."""
    from siamese_search.io.images import is_image_name

    if is_image_name(path.name):
        raise UsageError(f"{printable(path)} has the name of an image; name another file with --failures")
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return
        with path.open("rb") as handle:
            start = handle.read(len(_FAILURE_BEGINS))
    except OSError:
        return  # opening it for writing will say what is wrong
    if start and start != _FAILURE_BEGINS:
        raise UsageError(f"{printable(path)} is there and is not a list of failures; name another file with --failures")

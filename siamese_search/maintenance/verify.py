"""verify_gallery(): is the gallery what was ingested, and are the images still what they were?

Streams: a gallery of any size takes the memory of a few thousand points.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Literal

from siamese_search.errors import ImageError, SiameseSearchError
from siamese_search.gallery.checks import is_sound
from siamese_search.gallery.contract import Gallery, StoredPoint
from siamese_search.io.files import digest_file
from siamese_search.io.location import PROTOCOLS, FileStamp, protocol_of
from siamese_search.io.remote import look_up
from siamese_search.options import Progress

Kind = Literal["damaged", "missing", "changed", "unreadable"]

#: Problems that a summary lists; it counts all.
MOST_LISTED = 10_000
_BATCH = 1000
_FIELDS = ("path", "key", "source", "size", "mtime_ns", "digest", "crc")
#: Reading files waits for the disk; hashing them releases the interpreter lock.
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one image: of which kind, and how in words. path: the real one, not always safe to print."""

    kind: Kind
    path: str
    key: str
    reason: str


@dataclass(slots=True, kw_only=True)
class VerifySummary:
    """What was found, in the order of the JSON. problems: the first MOST_LISTED; the others are counts.

    points: looked at. lost: there must be so many more. damaged: their vector is not the one that was stored. missing:
    their file is not there. changed: it is another one than was ingested. unreadable: nobody can tell. unchecked: with
    checksums asked for, the payload holds none (only size and time were compared).
    """

    points: int = 0
    lost: int = 0
    damaged: int = 0
    missing: int = 0
    changed: int = 0
    unreadable: int = 0
    unchecked: int = 0
    problems: list[Problem] = field(default_factory=list)
    seconds: float = 0.0
    collection: str
    store: str

    @property
    def wrong(self) -> int:
        """All problems together; a point may have two."""
        return self.lost + self.damaged + self.missing + self.changed + self.unreadable

    def add(self, problem: Problem) -> None:
        setattr(self, problem.kind, getattr(self, problem.kind) + 1)
        if len(self.problems) < MOST_LISTED:
            self.problems.append(problem)

    def to_json(self) -> dict[str, Any]:
        """The JSON contract of ``sss verify --json``."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


def verify_gallery(
    gallery: Gallery, *, files: bool = True, checksum: bool = False, progress: Progress | None = None
) -> VerifySummary:
    """Compare every vector with its checksum and, with ``files``, every file with its payload.

    checksum: compare the content of files too, where the payload has a digest (``sss ingest --checksum``); a file
    whose content is the same counts as unchanged whatever its time. progress: called with points done and all.
    Raises StoreError; files never stop it.
    """
    started = time.monotonic()
    summary = VerifySummary(collection=gallery.name, store=gallery.store)
    total = gallery.count()
    lost = gallery.info().lost
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="verify") as pool:
        try:
            stored = gallery.scroll(with_vectors=True, fields=_FIELDS, batch=_BATCH)
            while points := list(islice(stored, _BATCH)):
                checks = pool.map(lambda point: _check_file(point, checksum), points) if files else ()
                for point in points:
                    lost -= point.vector is None  # it is there, and damaged
                    if not is_sound(point, gallery.dim):
                        reason = "the stored vector is not the one that its checksum is of"
                        summary.add(_problem(point, "damaged", reason))
                for problem in filter(None, checks):
                    summary.add(problem)
                if checksum and files:
                    summary.unchecked += sum("digest" not in point.payload for point in points)
                summary.points += len(points)
                if progress is not None:
                    progress(summary.points, max(total, summary.points))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    summary.lost = max(0, lost)
    summary.seconds = time.monotonic() - started
    return summary


def _check_file(point: StoredPoint, checksum: bool) -> Problem | None:
    """What is wrong with a point's file; None where nothing is. Of an object elsewhere, as far as a listing tells."""
    path = point.place
    if not path:
        return _problem(point, "unreadable", "the gallery does not say where its file is")
    remote = protocol_of(path) in PROTOCOLS
    try:
        found = look_up(path) if remote else _look_up_file(path)
        if found.size != point.size:
            return _problem(point, "changed", f"{found.size:,} bytes, was {point.size or 0:,}")
        if checksum and (remote or "digest" in point.payload):
            if not remote and digest_file(path) != point.payload["digest"]:
                return _problem(point, "changed", "its content is another")
        elif found.mtime_ns != point.mtime_ns:
            return _problem(point, "changed", f"modified {_when(found.mtime_ns)}, after it was ingested")
    except ImageError as error:
        return _problem(point, "missing" if error.reason == "no such file" else "unreadable", error.reason)
    except SiameseSearchError as error:
        return _problem(point, "unreadable", str(error))
    except (FileNotFoundError, NotADirectoryError):
        return _problem(point, "missing", "no such file")
    except (OSError, ValueError) as error:
        return _problem(point, "unreadable", (getattr(error, "strerror", None) or "not a path").lower())
    return None


def _look_up_file(path: str) -> FileStamp:
    found = os.stat(path)  # noqa: PTH116 - a path of any bytes
    return FileStamp(found.st_size, found.st_mtime_ns)


def _problem(point: StoredPoint, kind: Kind, reason: str) -> Problem:
    return Problem(kind, point.place, point.key or point.id, reason)


def _when(mtime_ns: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(mtime_ns / 1e9))
    except (OverflowError, ValueError, OSError):
        return "at another time"

"""verify_gallery(): is the gallery what was ingested, and are the images still what they were?

Every point's vector is compared with its checksum, and its file with the payload: whether it is there, its size, its
modification time, and on demand its content. Streams: a gallery of any size takes the memory of a few thousand points.
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
from siamese_search.io.location import PROTOCOLS, protocol_of
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


@dataclass(slots=True)
class VerifySummary:
    """What was found. All but seconds and problems are counts; problems are the first MOST_LISTED.

    points: looked at. lost: there must be so many more. damaged: their vector is not the one that was stored. missing:
    their file is not there. changed: it is another one than was ingested. unreadable: nobody can tell. unchecked: with
    checksums asked for, the payload holds none (only size and time were compared).
    """

    collection: str
    store: str
    points: int = 0
    lost: int = 0
    damaged: int = 0
    missing: int = 0
    changed: int = 0
    unreadable: int = 0
    unchecked: int = 0
    problems: list[Problem] = field(default_factory=list)
    seconds: float = 0.0

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
        counts = ("points", "lost", "damaged", "missing", "changed", "unreadable", "unchecked")
        return {
            **{name: getattr(self, name) for name in counts},
            "problems": [asdict(problem) for problem in self.problems],
            "seconds": round(self.seconds, 3),
            "collection": self.collection,
            "store": self.store,
        }


def verify_gallery(
    gallery: Gallery, *, files: bool = True, checksum: bool = False, progress: Progress | None = None
) -> VerifySummary:
    """Compare every vector with its checksum and, with ``files``, every file with its payload.

    checksum: compare the content of files too, where the payload has a digest (``sss ingest --checksum``); a file
    whose content is the same counts as unchanged whatever its time. progress: called with points done and all.
    Raises StoreError; files never stop it.
    """
    started = time.monotonic()
    summary = VerifySummary(gallery.name, gallery.store)
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
                        summary.add(
                            _problem(point, "damaged", "the stored vector is not the one that its checksum is of")
                        )
                for problem in checks:
                    if problem is not None:
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
    """What is wrong with a point's file; None where nothing is."""
    payload = point.payload
    path = point.place
    if not path:
        return _problem(point, "unreadable", "the gallery does not say where its file is")
    if protocol_of(path) in PROTOCOLS:
        return _check_object(point, path, checksum)
    try:
        found = os.stat(path)  # noqa: PTH116 - a path of any bytes
        if found.st_size != point.size:
            return _problem(point, "changed", f"{found.st_size:,} bytes, was {point.size or 0:,}")
        if checksum and "digest" in payload:
            if digest_file(path) != payload["digest"]:
                return _problem(point, "changed", "its content is another")
        elif found.st_mtime_ns != point.mtime_ns:
            return _problem(point, "changed", f"modified {_when(found.st_mtime_ns)}, after it was ingested")
    except (FileNotFoundError, NotADirectoryError):
        return _problem(point, "missing", "no such file")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        return _problem(point, "unreadable", reason.lower())
    return None


def _check_object(point: StoredPoint, url: str, checksum: bool) -> Problem | None:
    """The same for an object that is not on this machine: its size and state, as a listing gives them."""
    try:
        found = look_up(url)
    except ImageError as error:
        return _problem(point, "missing" if error.reason == "no such file" else "unreadable", error.reason)
    except SiameseSearchError as error:
        return _problem(point, "unreadable", str(error))
    if found.size != point.size:
        return _problem(point, "changed", f"{found.size:,} bytes, was {point.size or 0:,}")
    if not checksum and found.mtime_ns != point.mtime_ns:
        return _problem(point, "changed", f"modified {_when(found.mtime_ns)}, after it was ingested")
    return None


def _problem(point: StoredPoint, kind: Kind, reason: str) -> Problem:
    return Problem(kind, point.place, point.key or point.id, reason)


def _when(mtime_ns: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(mtime_ns / 1e9))
    except (OverflowError, ValueError, OSError):
        return "at another time"

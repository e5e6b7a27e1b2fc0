"""Moves: a new file with the content of a stored one that has gone is that file, in a new place.

Its point moves with it: the vector is not computed again, and the metadata that the new place does not state come
along (:mod:`siamese_search.gallery.payload`). A copy, whose first file is still there, is a new file like any other.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from ingest.prune import find, unmounted_places
from siamese_search.datasets.records import decode_key
from siamese_search.gallery.contract import Gallery, StoredPoint, Vectors
from siamese_search.gallery.filters import Condition
from siamese_search.gallery.payload import arrived, read_carried, take_along

if TYPE_CHECKING:
    from ingest.scan import PlannedFile

#: Stored points with the content of one of a chunk's new files that are looked at. Among ten thousand pictures
#: that are all the same (a black frame), who was moved from where is not worth the search.
MAX_CANDIDATES = 20_000


def find_moves(planned: Sequence[PlannedFile], gallery: Gallery) -> None:
    """Make those of the planned files that are moved ``moved``, in place: new ones, and moves that were cut short.

    Of several points with the same content those with the new file's own name come first, then the lowest id; each
    moves once. Memory: the candidates of one chunk.
    """
    new: dict[str, list[PlannedFile]] = {}
    unfinished: list[PlannedFile] = []
    for file in planned:
        if file.action == "new" and "digest" in file.payload:
            new.setdefault(file.payload["digest"], []).append(file)
        elif file.action != "changed" and read_carried(file.payload).origin is not None:
            unfinished.append(file)
    if unfinished:
        _finish(unfinished, gallery)
    if not new or gallery.fields().get("digest") != "str":
        return
    local = "://" not in gallery.store
    unmounted = unmounted_places()
    gone: dict[str, list[StoredPoint]] = {}
    wanted = [Condition("digest", "=", tuple(new))]
    for point in islice(gallery.scroll(wanted), MAX_CANDIDATES):
        digest = point.payload["digest"]
        if _has_left(point, new[digest][0], local, unmounted):
            gone.setdefault(digest, []).append(point)
    for digest, points in gone.items():
        _match(new[digest], points)


def _match(files: Sequence[PlannedFile], points: list[StoredPoint]) -> None:
    """Pair files with points, in order; first those of the same name, then whatever is left."""
    by_name: dict[str, list[StoredPoint]] = {}
    for point in reversed(points):
        by_name.setdefault(_name(point.payload["key"]), []).append(point)
    taken: set[str] = set()
    for file in files:
        if same := by_name.get(_name(file.payload["key"])):
            _move(file, same.pop(), taken)
    rest = (point for point in points if point.id not in taken)
    for file in files:
        if file.action == "new" and (left := next(rest, None)) is not None:
            _move(file, left, taken)


def _move(file: PlannedFile, point: StoredPoint, taken: set[str]) -> None:
    taken.add(point.id)
    take_along(file.payload, point.payload, point.id)
    file.action, file.origin, file.holder = "moved", point.id, point.id


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _has_left(point: StoredPoint, file: PlannedFile, local: bool, unmounted: Sequence[str]) -> bool:
    """Whether the file of a point has gone. local: only this machine writes to the gallery."""
    bases = []
    if point.payload.get("source") == file.scanned.source:
        path = os.fspath(file.scanned.record.path)
        bases.append(path.removesuffix("/" + decode_key(file.scanned.record.key)))
    found = find(point.payload, bases, unmounted)
    if found.elsewhere and local:
        # The directory itself may have been renamed. On a server's gallery it may as well be another machine's.
        return _parent_in_use(point)
    return found.state == "gone"


def _parent_in_use(point: StoredPoint) -> bool:
    """Whether the directory above a source's is there and not empty, as a mount point would be."""
    path, key = decode_key(point.payload["path"]), decode_key(point.payload["key"])
    try:
        with os.scandir(os.path.dirname(path.removesuffix(f"/{key}"))) as entries:  # noqa: PTH120
            return next(entries, None) is not None
    except OSError:
        return False


def _finish(files: Sequence[PlannedFile], gallery: Gallery) -> None:
    """Plan moves that were cut short between their steps: what is left of them is done."""
    origins = [read_carried(file.payload).origin or "" for file in files]
    unmounted = unmounted_places()
    local = "://" not in gallery.store
    for file, origin in zip(files, gallery.retrieve(origins), strict=True):
        file.action = "moved"
        if origin is not None and _has_left(origin, file, local, unmounted):
            file.origin = origin.id


def settle_moves(
    gallery: Gallery, files: Sequence[PlannedFile], vectors: Vectors
) -> list[tuple[PlannedFile, str]]:
    """Write moved files, durably: vectors float32 [n, d], a row per file. Returns those refused, each with why.

    The new points first, then the end of the old ones, then the note of where they came from is taken off: a kill
    at any moment loses nothing, and the next run with checksums ends in the same gallery.
    """
    ids = [file.id for file in files]
    try:
        gallery.upsert(ids, vectors, [file.payload for file in files])
    except ValueError as error:
        if len(files) == 1:
            return [(files[0], f"cannot be stored: {error}")]
        rows = zip(files, vectors, strict=True)
        return [refused for file, row in rows for refused in settle_moves(gallery, [file], row[None])]
    gallery.flush()
    gallery.delete([file.origin for file in files if file.origin is not None])
    gallery.flush()
    gallery.upsert(ids, vectors, [arrived(file.payload) for file in files])
    gallery.flush()
    return []

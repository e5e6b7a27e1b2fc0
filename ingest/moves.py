"""Moves: a new file with the content of a stored one that has gone is that file, in a new place.

Its point moves with it: the vector is not computed again, and the metadata that the new place does not state come
along (:mod:`siamese_search.gallery.payload`). A copy, whose first file is still there, is a new file like any other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from ingest.prune import find, holds_files, unmounted_places
from ingest.scan import PlannedFile
from ingest.stages import Tally, accepted
from siamese_search.datasets.records import decode_key
from siamese_search.gallery.contract import Gallery, StoredPoint, Vectors
from siamese_search.gallery.filters import Condition
from siamese_search.gallery.payload import arrived, read_carried, taken_along

#: Stored points with the content of one of a chunk's new files that are looked at. Among ten thousand pictures
#: that are all the same (a black frame), who was moved from where is not worth the search.
MAX_CANDIDATES = 20_000


def find_moves(planned: Sequence[PlannedFile], gallery: Gallery) -> list[PlannedFile]:
    """The planned files, those that are moved as ``moved``: new ones, and moves that were cut short.

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
    moved = _finished(unfinished, gallery) if unfinished else []
    if new and gallery.fields().get("digest") == "str":
        unmounted = unmounted_places()
        gone: dict[str, list[StoredPoint]] = {}
        wanted = [Condition("digest", "=", tuple(new))]
        for point in islice(gallery.scroll(wanted), MAX_CANDIDATES):
            digest = point.payload["digest"]
            if _has_left(point, new[digest][0], not gallery.shared, unmounted):
                gone.setdefault(digest, []).append(point)
        for digest, points in gone.items():
            for file, point in _matched(new[digest], points):
                payload = taken_along(file.payload, point.payload, point.id)
                moved.append(replace(file, action="moved", payload=payload, origin=point.id, holder=point.id))
    now = {file.id: file for file in moved}
    return [now.get(file.id, file) for file in planned]


def _matched(files: Sequence[PlannedFile], points: Sequence[StoredPoint]) -> Iterator[tuple[PlannedFile, StoredPoint]]:
    """Pairs of files and points, in order; first those of the same name, then whatever is left."""
    by_name: dict[str, list[StoredPoint]] = {}
    for point in reversed(points):
        by_name.setdefault(_name(point.key), []).append(point)
    taken: set[str] = set()
    unnamed = []
    for file in files:
        if same := by_name.get(_name(file.payload["key"])):
            taken.add(same[-1].id)
            yield file, same.pop()
        else:
            unnamed.append(file)
    yield from zip(unnamed, (point for point in points if point.id not in taken))


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _has_left(point: StoredPoint, file: PlannedFile, local: bool, unmounted: Sequence[str]) -> bool:
    """Whether the file of a point has gone. local: only this machine writes to the gallery."""
    base = os.fspath(file.scanned.record.path).removesuffix("/" + decode_key(file.scanned.record.key))
    found = find(point.payload, [base] if point.source == file.scanned.source else [], unmounted)
    if found.elsewhere and local:
        # The directory itself may have been renamed: the one above it is there, and not empty as a mount point would
        # be. On a server's gallery it may as well be another machine's.
        return holds_files(os.path.dirname(point.place.removesuffix(f"/{decode_key(point.key)}")))  # noqa: PTH120
    return found.state == "gone"


def _finished(files: Sequence[PlannedFile], gallery: Gallery) -> list[PlannedFile]:
    """Moves that were cut short between their steps: what is left of them is planned."""
    origins = gallery.retrieve([read_carried(file.payload).origin or "" for file in files])
    unmounted = unmounted_places()
    return [
        replace(file, action="moved", origin=origin.id)
        if origin is not None and _has_left(origin, file, not gallery.shared, unmounted)
        else replace(file, action="moved")
        for file, origin in zip(files, origins, strict=True)
    ]


def settle_moves(gallery: Gallery, files: Sequence[PlannedFile], vectors: Vectors, tally: Tally) -> None:
    """Write moved files, durably, and count them: vectors float32 [n, d], a row per file.

    The new points first, then the end of the old ones, then the note of where they came from is taken off: a kill
    at any moment loses nothing, and the next run with checksums ends in the same gallery.
    """
    stored = {file.id: file for file in accepted(gallery, files, vectors, tally)}
    gallery.flush()
    if not stored:
        return
    gallery.delete([file.origin for file in stored.values() if file.origin is not None])
    gallery.flush()
    kept = vectors[[file.id in stored for file in files]]
    gallery.upsert(list(stored), kept, [arrived(file.payload) for file in stored.values()])
    gallery.flush()
    tally.add(moved=len(stored))

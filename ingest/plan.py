"""Plan: which scanned files are new, changed, moved, or already stored as they are.

The gallery's payload is the only record of what has been ingested: no second database to fall out of step.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ingest.moves import find_moves, settle_moves
from ingest.scan import Action, PlannedFile, ScannedFile, reason_of
from ingest.stages import Tally, prefetch, write
from siamese_search.datasets.layouts import Survey
from siamese_search.datasets.records import BOOKKEEPING, NO_METADATA, decode_key, encode_key, point_id
from siamese_search.embedding import batches_of
from siamese_search.gallery.checks import vector_crc
from siamese_search.gallery.contract import Gallery, StoredPoint
from siamese_search.gallery.fields import same_payload
from siamese_search.gallery.payload import LABELLED, taken_along, with_carried, with_labels
from siamese_search.io.files import digest_file

#: What a payload says of the file's state, and not of what the picture shows.
_STATE = frozenset({"size", "mtime_ns", "digest"})


def plan_files(
    chunk: Sequence[ScannedFile], gallery: Gallery, *, reembed: bool = False, checksum: bool = False
) -> list[PlannedFile]:
    """Compare files (all with ``reason`` None) against the gallery, in one look-up.

    A file is the same when its size and modification time are. With ``checksum`` it is when its content is, by its
    digest (:func:`with_digests`) and that in the payload; a point without one is embedded again, for nobody can tell
    what its vector is of. Then a new file with the content of a stored one that has gone is ``moved``
    (:mod:`ingest.moves`). ``reembed`` plans all stored files as changed.
    """
    ids = [point_id(scanned.source, scanned.record.key) for scanned in chunk]
    stored = gallery.retrieve(ids)
    planned = []
    for scanned, identifier, point in zip(chunk, ids, stored, strict=True):
        action: Action = "new"
        payload = payload_of(scanned)
        if point is not None:
            action, payload = _compared(payload, point.payload, reembed, checksum)
        planned.append(PlannedFile(action, identifier, scanned, payload))
    return find_moves(planned, gallery) if checksum else planned


def _compared(
    payload: dict[str, Any], stored: Mapping[str, Any], reembed: bool, checksum: bool
) -> tuple[Action, dict[str, Any]]:
    """What to do, and the payload with what it takes over from ``stored``."""
    known = dict(stored)
    crc = known.pop("crc", None)
    if payload == known and crc is not None and not reembed:
        return "unchanged", payload
    if LABELLED in known:
        payload = with_labels(payload, known)
    if "carried" in known:
        payload = with_carried(payload, known)
    same_state = payload["size"] == known.get("size") and payload["mtime_ns"] == known.get("mtime_ns")
    before, now = known.get("digest"), payload.get("digest")
    same = same_state if now is None else before == now
    if not checksum and same and before is not None:
        payload = {**payload, "digest": before}  # nobody has looked, so it is as true as before
    if reembed or crc is None or not same:
        return "changed", payload
    if not same_payload(payload, known, ignore=_STATE):
        return "relabelled", payload
    return "unchanged" if same_state and payload.get("digest") == before else "refreshed", payload


def payload_of(scanned: ScannedFile) -> dict[str, Any]:
    """The payload of one file, less ``crc``; unknown identity or camera are left out, and so is no digest.

    Metadata whose name is one of :data:`NO_METADATA` gets a ``_`` behind it (``size`` → ``size_``), and what no
    field may be called becomes ``_`` (quotes, backslashes, control characters). NaN and infinite values are
    left out: no filter could find them, and NaN would differ from itself at every run.
    """
    record = scanned.record
    payload: dict[str, Any] = {
        "source": scanned.source,
        "key": record.key,
        "path": scanned.path,
        "size": scanned.size,
        "mtime_ns": scanned.mtime_ns,
    }
    known = {"digest": scanned.digest, "identity": record.identity, "camera": record.camera}
    payload |= {name: value for name, value in known.items() if value is not None}
    for name, value in record.metadata.items():
        if not (isinstance(value, float) and not math.isfinite(value)):
            name = field_name(name)
            while name in payload or name in NO_METADATA:
                name += "_"
            payload[name] = value
    return payload


@functools.lru_cache(maxsize=1024)
def field_name(name: str) -> str:
    """The name as the gallery takes it."""
    return "".join(c if c.isprintable() and c not in '"\\' else "_" for c in name) or "_"


class Overlap:
    """Of the sources of a gallery, directories that lie in each other: an image in both is one point, of the outermost,
    whatever the order of their ingests. The table or the names of an inner one may say more of it.
    """

    def __init__(self, gallery: Gallery, *, reembed: bool = False, checksum: bool = False) -> None:
        self._gallery, self._how = gallery, (reembed, checksum)
        self._sources = _sources_of(gallery)
        self.met: dict[str, list[str]] = {}  # source of a file → those that it overlaps with

    def joined(self, planned: list[PlannedFile]) -> list[PlannedFile]:
        """The planned files; those that another source has too as its point, or taking that point over."""
        for own in {file.scanned.source for file in planned} - self.met.keys():
            self.met[own] = beside(own, self._sources)
        overlapping = {own for own, others in self.met.items() if others}
        twins = [
            (file, point_id(source, file.scanned.path[len(source.rstrip("/")) + 1 :]))
            for file in planned
            if file.scanned.source in overlapping and file.action != "moved"
            for source in _above(file.scanned.path)  # the outermost last: it decides
            if source in self._sources and source != file.scanned.source
        ]
        now: dict[str, PlannedFile] = {}
        points = self._gallery.retrieve([identifier for _, identifier in twins]) if twins else []
        for (file, _), point in zip(twins, points, strict=True):
            if point is not None and point.payload.get("path") == file.scanned.path:
                inner = len(point.source) > len(file.scanned.source)
                now[file.id] = _taken_over(file, point) if inner else self._as_stored(file, point)
        return [now.get(file.id, file) for file in planned]

    def _as_stored(self, file: PlannedFile, point: StoredPoint) -> PlannedFile:
        """The file as the point of an outer source; its own, if there is one, ends."""
        known = {name: value for name, value in point.payload.items() if name not in ("crc", "digest")}
        fresh = payload_of(file.scanned) | {"source": point.source, "key": point.key}
        action, payload = _compared(known | fresh, point.payload, *self._how)
        ends = file.id if file.action != "new" and action != "changed" else None
        return replace(file, action="moved" if ends else action, id=point.id, payload=payload, origin=ends)


def keep_sources(surveys: Iterable[Survey], gallery: Gallery) -> None:
    """A directory that was moved, and is linked to from where it was, stays the source that it was."""
    known = _sources_of(gallery)
    for survey in surveys:
        if known and survey.source not in known:
            real = {encode_key(os.path.realpath(decode_key(one))): one for one in known if one.startswith("/")}
            survey.known_as = real.get(survey.source)


def _sources_of(gallery: Gallery) -> frozenset[str]:
    return frozenset(map(str, gallery.facet("source", limit=10_000) if "source" in gallery.fields() else ()))


def beside(own: str, sources: Collection[str]) -> list[str]:
    """Of these sources those that hold the directory ``own``, or lie in it."""
    return sorted(one for one in sources if one != own and (own in _above(one) or one in _above(own)))


def _above(path: str) -> list[str]:
    """The directories that a path lies in, the innermost first."""
    return [str(one) for one in PurePosixPath(path).parents]


def _taken_over(file: PlannedFile, point: StoredPoint) -> PlannedFile:
    """The file with what the point of an inner source knows of it, which ends; with its vector, where it has none."""
    new = file.action == "new"
    known = {name: value for name, value in point.payload.items() if name != LABELLED or name not in file.payload}
    same = all(file.payload[name] == known.get(name) for name in ("size", "mtime_ns"))
    if file.action == "changed" or (new and not same):
        return file  # embedded first; the next run ends the other point
    digest = {"digest": known["digest"]} if new and "digest" in known else {}
    payload = taken_along(digest | file.payload, known, point.id)
    return replace(file, action="moved", payload=payload, origin=point.id, holder=point.id if new else None)


_SCAN_AHEAD = 2  # chunks


class Planner:
    """Looks each chunk up in the gallery. All of it happens in the thread that iterates over :meth:`batches`."""

    def __init__(self, gallery: Gallery, tally: Tally, *, reembed: bool, checksum: bool) -> None:
        self._gallery, self._tally, self._clock = gallery, tally, tally.clock
        self._options = {"reembed": reembed, "checksum": checksum}
        self._overlap: Overlap | None = None  # until somebody asks

    def batches(self, chunks: Iterable[list[ScannedFile]], size: int) -> Iterator[list[PlannedFile]]:
        """Lists of ``size`` files to embed (the last one: fewer), in order; after a chunk without any an empty
        one, so that whoever waits can show how far we are.

        chunks: from the scan, which runs in a thread of its own, at most two chunks ahead.
        """
        batch: list[PlannedFile] = []
        self._tally.scanned = False
        with closing(prefetch(self._clock.timed("scan", chunks), _SCAN_AHEAD)) as ahead:
            for chunk in ahead:
                idle = True
                for planned in self._to_embed(chunk):
                    batch.append(planned)
                    if len(batch) == size:
                        yield batch
                        batch, idle = [], False
                if idle:
                    yield []
        self._tally.scanned = True
        if batch:
            yield batch

    def _to_embed(self, chunk: list[ScannedFile]) -> list[PlannedFile]:
        """Those of the chunk that must be embedded; the others are counted, and written where need be."""
        self._tally.add(seen=len(chunk))
        for scanned in chunk:
            if scanned.reason is not None:
                self._tally.fail(scanned.record.path, scanned.reason)
        usable = [scanned for scanned in chunk if scanned.reason is None]
        with self._clock.busy("plan"):
            self._overlap = self._overlap or Overlap(self._gallery, **self._options)
            planned = self._overlap.joined(plan_files(usable, self._gallery, **self._options))
            self._tally.summary.overlaps |= self._overlap.met
            groups: dict[str, list[PlannedFile]] = {}
            for one in planned:
                groups.setdefault(one.action, []).append(one)
        self._tally.add(unchanged=len(groups.pop("unchanged", ())))
        moved = groups.pop("moved", [])
        relabelled = groups.pop("relabelled", []) + groups.pop("refreshed", [])
        to_embed = [one for one in planned if one.action in groups]
        if moved or relabelled:
            with self._clock.busy("commit"):
                to_embed += self._keep(relabelled, write)
                # Embedded, it is as good as moved; the next run with checksums ends the old point.
                to_embed += [replace(file, action="new") for file in self._keep(moved, settle_moves)]
        return to_embed

    def _keep(self, files: Sequence[PlannedFile], settle: Callable[..., None]) -> list[PlannedFile]:
        """Replace payloads and keep the vectors; returns the files whose vector is damaged, to be embedded.

        Written back, a damaged vector would get a new checksum and pass for sound. A moved file's vector lies at the
        point that it comes from, which :func:`settle_moves` ends.
        """
        kept, vectors, damaged = [], [], []
        points = self._gallery.retrieve([file.holder or file.id for file in files], with_vectors=True) if files else []
        for file, point in zip(files, points, strict=True):
            if point is None or point.vector is None or vector_crc(point.vector) != point.payload.get("crc"):
                damaged.append(file)
            else:
                kept.append(file)
                vectors.append(point.vector)
                self._tally.summary.lost.update(point.payload.keys() - file.payload.keys() - BOOKKEEPING)
        if kept:
            settle(self._gallery, kept, np.stack(vectors), self._tally)
        return damaged


#: BLAKE2b releases the GIL, and a second thread hides the waits for the disk.
_THREADS = 2
_FILES_PER_TASK = 32
#: Larger files are no images, and are left unread.
_MAX_BYTES = 1 << 30


def with_digests(files: Sequence[ScannedFile]) -> list[ScannedFile]:
    """The same files, in order, with their ``digest``; what cannot be read has a ``reason`` instead.

    Files that have a digest or a reason stay as they are, and so do those too large to be an image: the decoder
    refuses them unread.
    """
    parts = list(batches_of(files, _FILES_PER_TASK))
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="checksum") as pool:
        return [file for part in pool.map(lambda part: [_with_digest(file) for file in part], parts) for file in part]


def _with_digest(file: ScannedFile) -> ScannedFile:
    if file.reason is not None or file.digest is not None or file.size > _MAX_BYTES:
        return file
    try:
        return replace(file, digest=digest_file(file.record.path))
    except OSError as error:
        return replace(file, reason=reason_of(error))

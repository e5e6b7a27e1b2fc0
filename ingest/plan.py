"""Plan: which scanned files are new, changed, moved, or already stored as they are.

The gallery's payload is the only record of what has been ingested: no second database to fall out of step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ingest.checksum import with_digests
from ingest.moves import find_moves
from ingest.scan import Action, PlannedFile, ScannedFile
from siamese_search.datasets.records import BOOKKEEPING, point_id
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.fields import coerce
from siamese_search.gallery.payload import LABELLED, with_carried, with_labels

#: Payload fields that are not metadata: ingest writes them, and the gallery its ``crc`` of the vector.
RESERVED = BOOKKEEPING | {"identity", "camera"}
#: What a payload says of the file's state, and not of what the picture shows.
_STATE = frozenset({"size", "mtime_ns", "digest"})


def plan_files(
    chunk: Sequence[ScannedFile], gallery: Gallery, *, reembed: bool = False, checksum: bool = False
) -> list[PlannedFile]:
    """Compare files (all with ``reason`` None) against the gallery, in one look-up.

    A file is the same when its size and modification time are; content is not read. With ``checksum`` it is the
    same when its content is, by the digest in the payload (:mod:`ingest.checksum`); a point without a digest is
    embedded again, for nobody can tell what its vector is of. Then a new file with the content of a stored one that
    has gone is ``moved`` (:mod:`ingest.moves`). ``reembed`` plans all stored files as changed.
    """
    if checksum:
        chunk = with_digests(chunk)
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
    if not _alike(payload, known):
        return "relabelled", payload
    return "unchanged" if same_state and payload.get("digest") == before else "refreshed", payload


def _alike(payload: Mapping[str, Any], stored: Mapping[str, Any]) -> bool:
    """Whether all fields but those of the file's state are the same."""
    names = payload.keys() - _STATE
    if names != stored.keys() - _STATE:
        return False
    for name in names:
        value, there = payload[name], stored[name]
        # A field in which types were mixed is stored as text: there, 1 and "1" are the same value.
        if there != value and not (isinstance(there, str) and there == coerce(value, "str")):
            return False
    return True


def payload_of(scanned: ScannedFile) -> dict[str, Any]:
    """The payload of one file, less ``crc``; unknown identity or camera are left out, and so is no digest.

    Metadata whose name is one of :data:`RESERVED` gets a ``_`` behind it (``size`` → ``size_``), and what no
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
    if scanned.digest is not None:
        payload["digest"] = scanned.digest
    if record.identity is not None:
        payload["identity"] = record.identity
    if record.camera is not None:
        payload["camera"] = record.camera
    for name, value in record.metadata.items():
        if not (isinstance(value, float) and not math.isfinite(value)):
            name = field_name(name)
            while name in payload or name in RESERVED:
                name += "_"
            payload[name] = value
    return payload


@functools.lru_cache(maxsize=1024)
def field_name(name: str) -> str:
    """The name as the gallery takes it."""
    return "".join(c if c.isprintable() and c not in '"\\' else "_" for c in name) or "_"

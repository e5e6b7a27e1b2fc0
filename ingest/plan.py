"""Plan: which scanned files are new, changed, or already stored as they are.

The gallery's payload is the only record of what has been ingested: no second database to fall out of step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ingest.scan import ScannedFile
from siamese_search.datasets.records import point_id
from siamese_search.gallery.base import Gallery
from siamese_search.gallery.fields import coerce

#: Payload fields that are not metadata: ingest writes them, and the gallery its ``crc`` of the vector.
RESERVED = frozenset({"identity", "camera", "source", "key", "path", "size", "mtime_ns", "crc"})

Action = Literal["new", "changed", "relabelled", "unchanged"]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """What to do with one file.

    new, changed: decode and embed (``changed`` replaces a point). relabelled: the same pixels, but identity,
    camera, metadata or path differ from what is stored: the payload is replaced, the vector kept. unchanged:
    nothing. payload: the whole payload to store, less ``crc``, which the gallery adds.
    """

    action: Action
    id: str
    scanned: ScannedFile
    payload: dict[str, Any]


def plan_files(chunk: Sequence[ScannedFile], gallery: Gallery, *, reembed: bool = False) -> list[PlannedFile]:
    """Compare files (all with ``reason`` None) against the gallery, in one look-up.

    A file is the same when its size and modification time are; content is not read. ``reembed`` plans all
    stored files as changed.
    """
    ids = [point_id(scanned.source, scanned.record.key) for scanned in chunk]
    stored = gallery.retrieve(ids)
    planned = []
    for scanned, identifier, point in zip(chunk, ids, stored, strict=True):
        payload = payload_of(scanned)
        action = "new" if point is None else _compare(payload, point.payload, reembed)
        planned.append(PlannedFile(action, identifier, scanned, payload))
    return planned


def _compare(payload: Mapping[str, Any], stored: Mapping[str, Any], reembed: bool) -> Action:
    if (
        reembed
        or payload["size"] != stored.get("size")
        or payload["mtime_ns"] != stored.get("mtime_ns")
        or "crc" not in stored
    ):
        return "changed"
    if len(payload) + 1 != len(stored):  # the stored payload has its crc besides
        return "relabelled"
    for name, value in payload.items():
        there = stored.get(name)
        # A field in which types were mixed is stored as text: there, 1 and "1" are the same value.
        if there != value and not (isinstance(there, str) and there == coerce(value, "str")):
            return "relabelled"
    return "unchanged"


def payload_of(scanned: ScannedFile) -> dict[str, Any]:
    """The payload of one file, less ``crc``; unknown identity or camera are left out.

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
    if record.identity is not None:
        payload["identity"] = record.identity
    if record.camera is not None:
        payload["camera"] = record.camera
    for name, value in record.metadata.items():
        if not (isinstance(value, float) and not math.isfinite(value)):
            name = _field_name(name)
            while name in payload or name in RESERVED:
                name += "_"
            payload[name] = value
    return payload


@functools.lru_cache(maxsize=1024)
def _field_name(name: str) -> str:
    """The name as the gallery takes it."""
    return "".join(c if c.isprintable() and c not in '"\\' else "_" for c in name) or "_"

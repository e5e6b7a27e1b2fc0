"""What a server's collection says of itself: its metadata, read and checked.

A gallery NAME is an alias; its generations are collections ``NAME.g-XXXXXXXX``. Which generation is current, the
alias alone says, so that one switch of it is the whole of a publication. The rest stands in each collection's
metadata, a flat mapping whose keys the server replaces one by one:

    kind, format        that it is ours, and in which version
    gallery, collection the gallery's name, and the collection's own (seen through the alias, that is news)
    model               {fingerprint, dim, name}
    storage             {vectors, quantisation}
    state               "published" (current, or was or will be), "building", or "dropped" (deletion has begun)
    previous            the collection to roll back to, or ""
    notes               JSON values that a gallery's users keep with it
    deferred            the indexing threshold to restore when a bulk load ends; 0 when there is none
    builder             {host, pid, process, seen}: who builds it; {} when nobody does
    field:NAME          {type, pending}; pending: stored values are still being converted to that type
"""

from __future__ import annotations

import os
import re
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from siamese_search.errors import StoreBusyError, StoreError, printable
from siamese_search.gallery.contract import ModelRef
from siamese_search.gallery.storage import DEFAULT_STORAGE, Storage, read_storage

KIND = "siamese-search gallery"
FORMAT_VERSION = 1
#: Of float16 collections, to which the first release would write wrong checksums.
_FLOAT16_VERSION = 2
State = Literal["published", "building", "dropped"]
_FIELD = "field:"
_COLLECTION = re.compile(r"(.+)\.g-[0-9a-f]{8}")
_TYPES = ("str", "int", "float", "bool")


@dataclass(frozen=True, slots=True)
class Generation:
    """One collection of a gallery, as its metadata describe it. ``builder`` is {} where nobody builds."""

    gallery: str
    collection: str
    model: ModelRef
    state: State
    previous: str
    deferred: int
    builder: Mapping[str, Any]
    fields: Mapping[str, str]
    pending: tuple[str, ...]
    storage: Storage = DEFAULT_STORAGE
    notes: Mapping[str, Any] = field(default_factory=dict)


def collection_name(gallery: str, suffix: str) -> str:
    """suffix: eight hexadecimal digits."""
    return f"{gallery}.g-{suffix}"


def gallery_of(collection: str) -> str | None:
    """The gallery whose generation a collection's name makes it; None where it is no such name."""
    found = _COLLECTION.fullmatch(collection)
    return found[1] if found else None


def metadata_of(
    collection: str, model: ModelRef, state: State, storage: Storage, builder: Mapping[str, Any]
) -> dict[str, Any]:
    """The metadata of a new collection."""
    return {
        "kind": KIND,
        "format": FORMAT_VERSION if storage.vectors == "float32" else _FLOAT16_VERSION,
        "gallery": gallery_of(collection) or collection,
        "collection": collection,
        "model": asdict(model),
        "storage": storage.to_json(),
        "state": state,
        "previous": "",
        "deferred": 0,
        "builder": builder,
        "notes": {},
    }


def field_metadata(types: Mapping[str, str], *, pending: bool) -> dict[str, Any]:
    """The metadata that record these fields."""
    return {_FIELD + name: {"type": kind, "pending": pending} for name, kind in types.items()}


def read_generation(metadata: Mapping[str, Any] | None, where: str) -> Generation | None:
    """A collection's metadata, or None where they are not ours. where: the collection, for messages.

    Raises StoreError for those of a later release, and for damage.
    """
    if not metadata or metadata.get("kind") != KIND:
        return None
    version = metadata.get("format")
    if type(version) is int and version > _FLOAT16_VERSION:
        raise StoreError(
            f"{where} has format {version}, made by a later release (this one reads up to {_FLOAT16_VERSION}): upgrade"
            " siamese-search"
        )
    try:
        model = metadata["model"]
        fields = {key.removeprefix(_FIELD): value for key, value in metadata.items() if key.startswith(_FIELD)}
        types = {name: value["type"] for name, value in fields.items()}
        pending = tuple(name for name, value in fields.items() if value.get("pending"))
        reference = ModelRef(model["fingerprint"], model["dim"], model.get("name", ""))
        gallery, collection, state = metadata["gallery"], metadata["collection"], metadata["state"]
        previous, deferred = metadata.get("previous", ""), metadata.get("deferred", 0)
        builder, notes = metadata.get("builder") or {}, metadata.get("notes") or {}
        storage = read_storage(metadata.get("storage"))
        texts = (gallery, collection, reference.fingerprint, reference.name, previous)
        sound = (
            version in (FORMAT_VERSION, _FLOAT16_VERSION)
            and all(isinstance(one, str) for one in texts)
            and all(type(one) is int for one in (reference.dim, deferred))
            and state in ("published", "building", "dropped")
            and all(kind in _TYPES for kind in types.values())
            and isinstance(builder, dict)
            and isinstance(notes, dict)
            and gallery_of(collection) == gallery
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        sound = False
    if not sound:
        raise StoreError(f"{printable(where)}: its metadata are damaged; drop the gallery and ingest again")
    return Generation(
        gallery, collection, reference, cast(State, state), previous, deferred, builder, types, pending, storage, notes
    )


# Who builds a generation: a lease in its metadata, because there is no lock on a server. The builder renews it whenever
# it writes; one that is older, or whose process is known to have died on this machine, may be taken over.

#: Longer than a batch takes to be embedded, shorter than anybody waits for a machine that has died.
LEASE_SECONDS = 120.0
RENEW_SECONDS = 10.0

#: This process: a number of its own, because process numbers come again (in a container it is always 1).
PROCESS = uuid.uuid4().hex


def lease() -> dict[str, Any]:
    """A lease of this process, from now on."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "process": PROCESS, "seen": int(time.time())}


def holder(builder: Mapping[str, Any], now: float | None = None) -> str | None:
    """Who holds a lease that is still good, this process included, in words; None where nobody does."""
    if not builder:
        return None
    host, pid, process = builder.get("host"), builder.get("pid"), builder.get("process")
    seen = builder.get("seen")
    last = seen if isinstance(seen, (int, float)) and abs(seen) < 1e12 else 0  # a server may say any number
    age = max(0.0, (time.time() if now is None else now) - last)
    if process != PROCESS:
        if age > LEASE_SECONDS:
            return None
        if host == socket.gethostname() and (pid == os.getpid() or not _alive(pid)):
            return None  # an earlier process of this number, or one that has ended
    return f"process {pid} on {host}, which was last seen {age:.0f} s ago"


def check_mine(generation: Generation) -> None:
    """Raise StoreBusyError where another process has taken the lease over."""
    if generation.builder.get("process") != PROCESS:
        who = holder(generation.builder) or "nobody"
        raise StoreBusyError(f"gallery {generation.gallery!r} is now being re-indexed by {who}: this run stops")


def _alive(pid: object) -> bool:
    if type(pid) is not int or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # the second: a server may say any number
        return False
    except PermissionError:
        return True
    return True

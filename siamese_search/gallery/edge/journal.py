"""The journal: which points are written while a copy of their shard is being optimised.

``journal`` lies beside the shard for as long as somebody wants to know: the UUID, sixteen bytes, of every point that is
inserted, replaced or deleted, appended under the lock of the shard before the write. So that it cannot grow for ever
where its reader has died, it ends at MOST_BYTES, and a reader that is alive begins again.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

from siamese_search.gallery.edge.layout import os_errors
from siamese_search.io.files import atomic_write_bytes, open_own

NAME = "journal"
_ID_BYTES = 16
#: Four million points.
MOST_BYTES = 4_000_000 * _ID_BYTES


def begin(generation: Path) -> None:
    """Start an empty journal. Call it with the generation's lock."""
    with os_errors("write", generation / NAME):
        atomic_write_bytes(generation / NAME, b"")


def note(generation: Path, ids: Sequence[str]) -> None:
    """Enter points, by canonical UUID, if anybody keeps a journal. Call it with the lock, before the write."""
    path = generation / NAME
    with os_errors("write", path):
        if not path.exists():
            return
        if path.stat().st_size > MOST_BYTES:
            path.unlink()
            return
        with open(path, "ab", opener=open_own) as file:
            file.write(b"".join(uuid.UUID(one).bytes for one in ids))


def read(generation: Path, start: int) -> list[str] | None:
    """The ids from the ``start``-th entry on, repeated ones too; None where the journal has ended."""
    with os_errors("read", generation / NAME):
        try:
            with open(generation / NAME, "rb", opener=open_own) as file:
                file.seek(start * _ID_BYTES)
                data = file.read()
        except FileNotFoundError:
            return None
    whole = len(data) - len(data) % _ID_BYTES
    return [str(uuid.UUID(bytes=data[at : at + _ID_BYTES])) for at in range(0, whole, _ID_BYTES)]


def end(generation: Path) -> None:
    """Nobody wants to know any more."""
    (generation / NAME).unlink(missing_ok=True)

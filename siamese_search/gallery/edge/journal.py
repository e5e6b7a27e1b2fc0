"""What is kept beside a shard of its points: which are written (the journal), and how many there are (the tally).

``journal`` is there for as long as somebody wants to know: the UUID, sixteen bytes, of every point that is
inserted, replaced or deleted, appended under the lock of the shard before the write, while a copy of the shard is being
optimised. So that it cannot grow for ever where its reader has died, it ends at MOST_BYTES: a live reader begins again.

``points.json`` says how many points the shard must hold, for a damaged segment may lose its own in silence, and the
mark of the turn (:func:`.layout.mark_written`) at whose end that was right. After a crash the mark is another one, and
the number says nothing until the next turn has ended.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import qdrant_edge as edge

from siamese_search.errors import StoreError, printable
from siamese_search.gallery.edge import layout
from siamese_search.gallery.edge.layout import os_errors
from siamese_search.io.files import atomic_write_bytes, atomic_write_text, open_own

#: Says each line once in a process.
_once = cache(logging.getLogger(__name__).warning)

NAME, TALLY = "journal", "points.json"
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
        with open(path, "r+b", opener=open_own) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(end - end % _ID_BYTES)  # a writer that was killed may have left half an entry
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
    starts = range(0, len(data) - _ID_BYTES + 1, _ID_BYTES)  # a writer that was killed may have left half an entry
    return [str(uuid.UUID(bytes=data[at : at + _ID_BYTES])) for at in starts]


def end(generation: Path) -> None:
    """Nobody wants to know any more."""
    (generation / NAME).unlink(missing_ok=True)


def size(shard: edge.EdgeShard) -> int:
    """How many points there are. A point lives in one segment, so the sum of what the segments count is exact;
    asking for an exact count reads every point's id: 90 ms for a million, and a search asks four times.
    """
    return shard.count(edge.CountRequest(exact=False))


def keep_tally(generation: Path, shard: edge.EdgeShard) -> None:
    """Keep the number. Call it with the generation's lock, after a flush."""
    document = {"format": layout.FORMAT_VERSION, "points": size(shard), "mark": layout.read_mark(generation)}
    with os_errors("write", generation / TALLY):
        atomic_write_text(generation / TALLY, json.dumps(document) + "\n")


def lost(generation: Path, shard: edge.EdgeShard) -> int:
    """How many points there must be and no search can find. Call it with the generation's lock."""
    expected = max(size(shard), _kept_tally(generation))
    whole = edge.Filter(must=[edge.HasVectorCondition("")])
    # The estimate takes no time, and where it is too low the exact count decides.
    for exact in (False, True):
        found = shard.count(edge.CountRequest(exact=exact, filter=whole))
        if found >= expected:
            return 0
    return expected - found


def _kept_tally(generation: Path) -> int:
    """The number that was kept; 0 where nobody knows."""
    try:
        document = layout.read_json(generation / TALLY)
        points = int(document["points"])
        return points if document.get("mark") == layout.read_mark(generation) else 0
    except (StoreError, KeyError, TypeError, ValueError, OverflowError):
        if (generation / TALLY).exists():
            _once(
                "%s is damaged: whether points are lost cannot be told; to be sure, embed the images again with:"
                " sss ingest --reembed DIR", printable(generation / TALLY),
            )  # fmt: skip
        return 0

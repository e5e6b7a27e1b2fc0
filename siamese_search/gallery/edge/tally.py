"""The tally: how many points a shard must hold, kept beside it, for a damaged segment may lose its own in silence.

``points.json`` says the number and the mark of the turn (:func:`..layout.mark_written`) at whose end it was right.
After a crash the mark is another one, and the number says nothing until the next turn has ended.
"""

from __future__ import annotations

import json
from pathlib import Path

import qdrant_edge as edge

from siamese_search.errors import StoreError
from siamese_search.gallery.edge import layout
from siamese_search.io.files import atomic_write_text

NAME = "points.json"


def size(shard: edge.EdgeShard) -> int:
    """How many points there are. A point lives in one segment, so the sum of what the segments count is exact;
    asking for an exact count reads every point's id: 90 ms for a million, and a search asks four times.
    """
    return shard.count(edge.CountRequest(exact=False))


def write(generation: Path, shard: edge.EdgeShard) -> None:
    """Keep the number. Call it with the generation's lock, after a flush."""
    document = {"format": layout.FORMAT_VERSION, "points": size(shard), "mark": layout.read_mark(generation)}
    with layout.os_errors("write", generation / NAME):
        atomic_write_text(generation / NAME, json.dumps(document) + "\n")


def lost(generation: Path, shard: edge.EdgeShard) -> int:
    """How many points there must be and no search can find. Call it with the generation's lock."""
    expected = max(size(shard), _read(generation))
    whole = edge.Filter(must=[edge.HasVectorCondition("")])
    # The estimate takes no time, and where it is too low the exact count decides.
    for exact in (False, True):
        found = shard.count(edge.CountRequest(exact=exact, filter=whole))
        if found >= expected:
            return 0
    return expected - found


def _read(generation: Path) -> int:
    """The number that was kept; 0 where nobody knows."""
    try:
        document = layout.read_json(generation / NAME)
    except StoreError:
        return 0
    points = document.get("points")
    return points if type(points) is int and document.get("mark") == layout.read_mark(generation) else 0

"""What an embedded gallery takes: space on disk, memory of a search."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from siamese_search.gallery import layout
from siamese_search.gallery.storage import Storage


def measure(generation: Path, storage: Storage) -> tuple[int, int]:
    """(space on disk, memory that a search needs), in bytes; sparse files count what they hold.

    The second is an estimate: all but the payloads, the log and, beside a quantised copy, the vectors, of which a
    search reads some pages only.
    """
    disk = resident = 0
    for file in generation.rglob("*"):
        with suppress(OSError):  # the engine may delete a file meanwhile
            if file.is_file() and not file.is_symlink():
                taken = file.stat().st_blocks * 512
                disk += taken
                inside = file.relative_to(generation).parts
                if inside[:2] == (layout.SHARD, "segments") and _is_read(inside[3:], storage):
                    resident += taken
    return disk, resident


def _is_read(inside: tuple[str, ...], storage: Storage) -> bool:
    """Whether every search reads this file, named by its path in its segment."""
    if inside[:1] == ("payload_storage",):
        return False
    vectors = inside[:1] == ("vector_storage",) and not any("quantized" in part for part in inside)
    return not vectors or storage.quantisation == "none"


def read_ahead(shard: Path, storage: Storage) -> None:
    """Ask the system to read what a search will want, all at once: the engine would fault it in page by page.

    Twenty times as fast where the files are not in memory; 1 ms where they are.
    """
    if storage.quantisation == "none" or not hasattr(os, "posix_fadvise"):
        return
    for file in (shard / "segments").rglob("*"):
        with suppress(OSError):
            if file.is_file() and _is_read(file.relative_to(shard / "segments").parts[1:], storage):
                descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(descriptor)


def has_index(generation: Path) -> bool:
    """Whether the shard is one with an HNSW index, once it is optimised."""
    try:
        document = json.loads((generation / layout.SHARD / "edge_config.json").read_bytes())
        return bool((document.get("hnsw_config") or {"m": 0})["m"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False

"""Room on the disk for what the engine writes, and a shard that is read where it cannot be written.

The engine maps its files and writes into their holes. There a full disk is no error but SIGBUS, the end of the process;
so whoever writes asks for room first. Opening a shard writes too: without the room or the right to do so, who only
wants to read opens a copy of it elsewhere.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from siamese_search.errors import StoreError, printable
from siamese_search.gallery.edge.footprint import data_pieces, taken

#: More than opening a shard takes, or a new field's index, or a chunk's share of what others write meanwhile.
MARGIN = 8 << 20


def check_room(directory: Path, what: str, need: int = 0) -> None:
    """Raise StoreError unless ``directory`` can be written and its disk has room for so many bytes."""
    if not os.access(directory, os.W_OK):
        raise StoreError(f"cannot write {what}: {printable(directory)} is read-only; it can be searched")
    free = _free(directory)
    if free < need + MARGIN:
        raise StoreError(
            f"cannot write {what}: its disk is full ({free / 1e6:.1f} MB free, {(need + MARGIN) / 1e6:.1f} MB needed);"
            " what was committed is kept, and can be searched: free some space, then run the command again"
        )


def can_open(shard: Path) -> bool:
    """Whether the engine can open a shard where it is."""
    files = (shard, shard / "edge_config.json")
    return all(os.access(one, os.W_OK) for one in files) and _free(shard) >= MARGIN


def copy_shard(shard: Path, what: str) -> tempfile.TemporaryDirectory[str]:
    """A private copy of a shard, ``NAME/shard``, on a disk with room for it. Call it with the shard's lock."""
    need = taken(shard) + MARGIN
    places = [place for place in (tempfile.gettempdir(), "/dev/shm") if os.access(place, os.W_OK)]
    place = next((place for place in places if _free(Path(place)) >= need), None)
    if place is None:
        raise StoreError(
            f"{what} cannot be opened where it is, read-only or on a full disk, and {' and '.join(places)} have no"
            f" {need / 1e6:.1f} MB for a copy: free some space, or set TMPDIR"
        )
    home = tempfile.TemporaryDirectory(prefix="sss-read-", dir=place)
    try:
        for source in shard.rglob("*"):
            if source.is_file():
                target = Path(home.name) / shard.name / source.relative_to(shard)
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(source, target)
    except BaseException as error:
        home.cleanup()
        if isinstance(error, OSError):
            raise StoreError(f"{what} cannot be copied to {place}: {error.strerror or error}") from error
        raise
    return home


def _copy(source: Path, target: Path) -> None:
    """The data of a sparse file; its holes stay holes, and it can be written whatever the original allows."""
    with source.open("rb", buffering=0) as old, target.open("wb", buffering=0) as new:
        size = os.fstat(old.fileno()).st_size
        os.truncate(new.fileno(), size)
        for start, end in data_pieces(old.fileno(), size):
            os.lseek(new.fileno(), start, os.SEEK_SET)
            while start < end:
                start += os.sendfile(new.fileno(), old.fileno(), start, end - start)


def _free(directory: Path) -> int:
    known = os.statvfs(directory)
    return known.f_bavail * known.f_frsize

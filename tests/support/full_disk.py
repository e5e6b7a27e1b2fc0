"""Filling a file system (the fixture ``small_disk``)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def fill_disk(disk: Path) -> Path:
    """Fill a file system to its last block; returns the file to delete."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    return ballast

"""Filling a file system (the fixture ``small_disk``)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def fill_disk(disk: Path) -> Path:
    """Fill a file system to its last block; returns the file to delete."""
    ballast, before = disk / "ballast", -1
    with ballast.open("wb", buffering=0) as file:
        # Syncing gives back what was set aside for the file system's own blocks.
        while before < (before := file.tell()):
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))
            os.fsync(file)
    return ballast

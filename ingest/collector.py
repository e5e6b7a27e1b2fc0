"""Python's garbage collector during an ingest: it has nothing to find there and looks often."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: Container objects made before the youngest are searched; Python's default is 700. A planned file is made of
#: six, in no cycle, and lives for three chunks of a thousand.
_THRESHOLD = 20_000


@contextmanager
def rarely() -> Iterator[None]:
    """Within the block the collector runs rarely, in the whole process; a limit that is higher already stays.

    Searching the living objects again and again takes a fifth of the time of an ingest in which nothing changed.
    """
    before = gc.get_threshold()
    if 0 < before[0] < _THRESHOLD:  # 0: somebody has switched it off
        gc.set_threshold(_THRESHOLD, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)

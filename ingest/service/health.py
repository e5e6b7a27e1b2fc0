"""The health file: where a worker says that it is alive and how it fares, and the probe that reads it.

A probe of the store itself would count its points once a minute; this one reads a file of 200 bytes.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

from siamese_search.errors import printable
from siamese_search.io.files import atomic_write_text, open_own

#: States in which the worker does what it is there for.
HEALTHY = frozenset({"starting", "scanning", "ingesting", "watching"})
_WRITE_SECONDS = 5.0
_MAX_BYTES = 1 << 16


class HealthFile:
    """Writes ``{"time", "state", "last_success"}`` (Unix seconds), at most every five seconds while nothing changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written, self._state = 0.0, ""

    def write(self, state: str, last_success: float | None) -> None:
        """Raises OSError where the file cannot be written."""
        now = time.monotonic()
        if state == self._state and now - self._written < _WRITE_SECONDS:
            return
        document = {"time": round(time.time(), 3), "state": state, "last_success": last_success}
        text = json.dumps(document) + "\n"
        try:
            atomic_write_text(self._path, text)
        except OSError:
            if not self._path.is_file():
                raise
            # A full disk has no room for a second file, but for these bytes where the former ones are.
            with open(self._path, "r+b", buffering=0, opener=open_own) as file:
                file.write(text.encode("ascii"))
                file.truncate()
        self._written, self._state = now, state


def trouble(path: Path, max_age: float, *, alive: bool = False) -> str | None:
    """Why the worker that writes this file is not healthy; ``None`` if it is.

    It is not where the file is missing or damaged, was written more than ``max_age`` seconds ago, or names a
    state other than :data:`HEALTHY`. alive: only whether the worker lives: one that waits for its store is not
    healthy, but nothing is won by starting it again.
    """
    name = printable(path)
    try:
        with path.open("rb") as handle:
            text = handle.read(_MAX_BYTES)
        document = json.loads(text)
        written, state = float(document["time"]), str(document["state"])
    except OSError as error:
        return f"{name}: {error.strerror or 'cannot be read'}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"{name}: is no health file"
    age = time.time() - written
    # A file from the future is no proof either: somebody has set the clock back.
    if not -max_age <= age <= max_age:
        return f"{name}: written {age:.0f} s ago, more than {max_age:g} s"
    if state == "stopped" if alive else state not in HEALTHY:
        return f"{name}: {printable(state)}"
    return None


def forget(path: Path) -> None:
    """Remove the file of a former worker, so that a probe cannot take it for this one's."""
    with suppress(OSError):
        path.unlink()

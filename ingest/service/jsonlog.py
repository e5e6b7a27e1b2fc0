"""JsonLog: one JSON object per line, for programs that collect the logs of services."""

from __future__ import annotations

import json
import logging
import math
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TextIO

from siamese_search.errors import printable
from siamese_search.io.location import redacted_text


class JsonLog:
    """Writes ``{"time": …, "level": …, "event": …, …}`` lines, in ASCII, so that no value can end a line early,
    move a cursor or be invalid UTF-8. Thread-safe; a reader that has gone is no error.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, level: str, event: str, **fields: object) -> None:
        """One line. time: UTC, RFC 3339 with milliseconds. fields: strings, numbers, booleans, lists and dicts."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps(
            {
                "time": now,
                "level": level,
                "event": event,
                **{name: _plain(value) for name, value in fields.items()},
            }
        )
        with self._lock, suppress(OSError, ValueError):  # ValueError: the stream is closed
            self._stream.write(line + "\n")
            self._stream.flush()


class LogHandler(logging.Handler):
    """What libraries say through :mod:`logging` (the store that does not answer) becomes lines of the same log."""

    def __init__(self, log: JsonLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= logging.ERROR else "warning"
        self._log.write(level, "log", message=redacted_text(record.getMessage()), logger=record.name)


def _plain(value: object) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int)) else printable(str(value))

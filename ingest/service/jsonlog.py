"""JsonLog: one JSON object per line, for programs that collect the logs of services."""

from __future__ import annotations

import logging
import math
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

from siamese_search.errors import printable
from siamese_search.io.location import redacted_text


class JsonLog(logging.StreamHandler[TextIO]):
    """Writes ``{"time": …, "level": …, "event": …, …}`` lines, in ASCII, so that no value can end a line early,
    move a cursor or be invalid UTF-8. Thread-safe; a reader that has gone is no error.

    As the root logger's handler it also takes what libraries say (the store that does not answer), as event ``log``.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(_Lines([]))

    def write(self, level: str, event: str, **fields: object) -> None:
        """One line. time: UTC, RFC 3339 with milliseconds. fields: strings, numbers, booleans, lists and dicts."""
        number = logging.getLevelNamesMapping()[level.upper()]
        self.handle(logging.makeLogRecord({"levelno": number, "msg": {"event": event, **fields}}))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not isinstance(sys.exc_info()[1], (OSError, ValueError)):  # ValueError: the stream is closed
            super().handleError(record)


class _Lines(JsonFormatter):
    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """message_dict: not used, for it has tracebacks of libraries, and they may hold what is not to be logged."""
        del message_dict
        text = redacted_text(record.message)
        said = (
            record.msg
            if isinstance(record.msg, dict)
            else {"event": "log", "message": text, "logger": record.name}
        )
        now = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        level = logging.getLevelName(min(record.levelno, logging.ERROR)).lower()
        log_data |= _plain({"time": now.replace("+00:00", "Z"), "level": level, **said})


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

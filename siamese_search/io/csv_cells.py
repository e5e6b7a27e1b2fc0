"""Cells of CSV files that people open in a spreadsheet: nothing in them may run as a formula.

:func:`csv_cell` is for the screen and for other programs. :func:`write_cell` and :func:`read_cell` are for files
that come back: each value returns as it was, an absent one too.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import Any, TextIO

from siamese_search.errors import printable

#: The cell of a value that is not there, where an empty cell means "leave it as it is".
NONE = "<none>"

#: What a spreadsheet may take for a formula when it begins a cell (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class CsvWriter:
    """RFC 4180 rows that end in ``\\n``, and in which a carriage return stays inside its cell.

    Python's own writer leaves one bare where its lines do not end in it: a reader then sees two rows.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rows = csv.writer(self, lineterminator="\r\n")

    def write(self, line: str) -> None:
        """What ``csv.writer`` makes of a row."""
        self._stream.write(line.removesuffix("\r\n") + "\n")

    def writerow(self, cells: Iterable[object]) -> None:
        """One row of cells, as they are."""
        self._rows.writerow(cells)


def csv_cell(value: object) -> str:
    """A value for a CSV cell. Text that a spreadsheet would run as a formula gets a leading ``'``.

    Numbers stay as they are, so the identity ``-1`` is still ``-1``; JSON is the lossless format.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value)
    text = printable(value)
    return f"'{text}" if _runs(text) else text


def write_cell(value: Any, *, none: str = "") -> str:
    """A str, int, float, bool or None as a cell that :func:`read_cell` gives back; ``none`` stands for None.

    Text that begins like a formula, has white space around it or could be mistaken gets a leading ``'``.
    """
    if value is None:
        return none
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    return f"'{value}" if _runs(value) or value in ("", NONE) or value != value.strip() or _quoted(value) else value


def read_cell(cell: str) -> str:
    """The text that :func:`write_cell` wrote, of a cell as the CSV reader gives it; other cells are stripped."""
    return cell[1:] if _quoted(cell) else cell.strip()


def _quoted(cell: str) -> bool:
    """Whether a cell begins with a ``'`` that is not part of the text (``'tis`` is a word)."""
    rest = cell[1:]
    return cell[:1] == "'" and (
        rest in ("", NONE) or rest[0] in (*_FORMULA, "'") or rest != rest.strip() or _quoted(rest)
    )


def _runs(text: str) -> bool:
    """Whether a spreadsheet may take it for a formula: what begins like one, and is no number."""
    if not text.startswith(_FORMULA):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False

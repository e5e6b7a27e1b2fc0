"""The CSV of a label run, read and checked by itself; and :class:`Finder`, which point of a gallery a row means."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siamese_search.datasets.csv_layout import KINDS, MISSING, Marks, fits_kind, typed_value
from siamese_search.datasets.records import BOOKKEEPING, decode_key, encode_key, point_id
from siamese_search.datasets.table import Table, decoded, read_header
from siamese_search.errors import DataError, UsageError, printable
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.filters import INT_MAX, INT_MIN
from siamese_search.gallery.payload import parse_labelled
from siamese_search.io.csv_cells import NONE, read_cell

#: The column of ``sss cluster`` that holds identities; a file with it is a review, whose other columns are notes.
PROPOSED = "proposed identity"
#: The column of an undo file that says which fields counted as set by hand, as a JSON list.
FORMERLY = "formerly set by hand"
REVIEW_COLUMNS = frozenset({"confidence", "cluster size", "existing identity", "cluster", "note"})
#: Columns of ``sss export`` and of people's tables that are no labels, beside what ingest keeps for itself.
_PASSED_OVER = BOOKKEEPING | {"id", "vector"}
#: Labels of these two are text whatever they look like.
_TEXT = frozenset({"identity", "camera"})
#: Nineteen digits reach the ends of 64 bits.
_INT = re.compile(r"[+-]?[0-9]{1,19}")
_PEOPLE = {"int": "a whole number", "float": "a number", "bool": "true or false"}


@dataclass(slots=True)
class LabelRow:
    """One row: the image that it names (as text, "" where it does not say), and the fields that it sets.

    values: field -> value, None to take it away. labelled: the names that shall count as set by hand afterwards, None
    for those of before and the ones that change.
    """

    line: int
    source: str
    key: str
    path: str
    values: dict[str, Any]
    labelled: tuple[str, ...] | None = None


@dataclass(slots=True)
class LabelTable:
    """columns: the fields that are applied. problems: (line, reason) of rows that cannot be."""

    columns: tuple[str, ...]
    rows: list[LabelRow] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_label_table(path: Path, fields: Mapping[str, str], only: Sequence[str] = ()) -> LabelTable:
    """Read a CSV. fields: those of the gallery with their types; a new one gets the type that all its cells fit. only:
    the columns to apply. Raises DataError for a file without a column that names images, or without labels.
    """
    header = read_header(path)
    places = {name: header.find(name) for name in ("source", "key", "path", FORMERLY)}
    if places["key"] is None and places["path"] is None:
        raise DataError(f"{printable(path)}: no column names the images: give 'key' and 'source', or 'path'")
    labels, notes = _label_columns(header, fields, only)
    table = LabelTable(tuple(labels), notes=notes)
    raw: list[tuple[LabelRow, dict[str, str]]] = []
    marks = Marks({at for name, at in labels.items() if name in _TEXT})
    for line, cells in header.rows(strip=False):
        text = {name: "" if at is None else read_cell(cells[at]) for name, at in places.items() if name != FORMERLY}
        row = LabelRow(line, text["source"], text["key"], text["path"], {})
        raw.append((row, {name: decoded(cells[at]) for name, at in labels.items()}))
        marks.see(list(map(str.strip, cells)))
        table.rows.append(row)
        at = places[FORMERLY]
        if at is not None and (cell := read_cell(cells[at])):
            try:
                row.labelled = () if cells[at].strip() == NONE else parse_labelled(cell)
            except ValueError:
                table.problems.append((line, f"'{FORMERLY}' holds no list of field names"))
    kinds = {name: _kind(name, fields, [cells[name] for _, cells in raw]) for name in labels}
    # What was written by us, an export or the way back, is taken to the letter.
    gaps = {name for name in labels if not header.is_export and (name in _TEXT or kinds[name] != "str")}
    gapped = {name for name in gaps if labels[name] in marks.gapped()}
    if not header.is_export:
        table.notes += marks.notes(header.columns, set(range(len(header.columns))) - {labels[name] for name in gaps})
    for row, cells_of in raw:
        for name, cell in cells_of.items():
            if not cell.strip() or (name in gaps and cell.strip() in MISSING):
                continue
            if name in gapped:
                cell = cell.strip().removesuffix(".0").removesuffix(",0")
            value = None if cell.strip() == NONE else read_cell(cell)
            reason = None if value is None else fault(name, value, kinds[name], fields)
            if reason is not None:
                table.problems.append((row.line, reason))
            else:
                row.values[name] = None if value is None else typed_value(value, kinds[name])
    table.problems.sort()
    if not table.rows:
        raise DataError(f"{printable(path)}: no rows below the header; nothing to apply")
    return table


def _label_columns(header: Table, fields: Mapping[str, str], only: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Field -> column, in the file's order; and what to say of the others."""
    review = header.find(PROPOSED)
    found: dict[str, int] = {}
    passed: list[str] = []
    for at, column in enumerate(header.columns):
        name = read_cell(column)
        low = name.lower()
        if not name or low in ("source", "key", "path", FORMERLY):
            continue
        if at == review:
            name = "identity"
        elif low in _TEXT:
            name = low
        elif name in ("id_", "vector_") and name not in fields and name[:-1] in fields:
            name = name[:-1]  # as `sss export` calls it
        elif low in _PASSED_OVER or (review is not None and low in REVIEW_COLUMNS):
            passed += [name] if review is None else []
            continue
        if name in found:
            raise DataError(
                f"{printable(header.path)}: '{PROPOSED}' and 'identity' both say who it is; take one column out"
            )
        if not _can_name(name):
            raise DataError(f"{printable(header.path)}: '{printable(name)}' cannot name a field; rename the column")
        found[name] = at
    for name in only:
        if name not in found:
            there = ", ".join(map(printable, found)) or "none"
            raise DataError(f"{printable(header.path)}: no column '{printable(name)}' of labels; there are: {there}")
    found = {name: found[name] for name in only} if only else found
    if not found and header.find(FORMERLY) is None:
        raise DataError(f"{printable(header.path)}: no column of labels, such as 'identity' or 'camera'")
    notes = [f"columns left alone, they belong to the files: {', '.join(passed)}"] if passed else []
    return found, notes


def _can_name(name: str) -> bool:
    """Whether a field may be called so: filters put names between quotes."""
    return name.isprintable() and '"' not in name and "\\" not in name


def _kind(name: str, fields: Mapping[str, str], cells: Sequence[str]) -> str:
    if name in _TEXT:
        return "str"
    if name in fields:
        return fields[name]
    values = [read_cell(cell) for cell in cells if cell.strip() and cell.strip() not in {NONE, *MISSING}]
    return next((kind for kind in KINDS if values and all(fits_kind(v, kind) for v in values)), "str")


def label_value(name: str, value: Any, fields: Mapping[str, str]) -> Any:
    """A label that somebody gives, as the gallery is to store it; ``None`` takes it away.

    fields: those of the gallery; a new one has the type of its value. Raises UsageError for what cannot be a label.
    """
    if not name or not _can_name(name):
        raise UsageError(f"'{printable(name)}' cannot name a field; choose another name")
    if name.lower() in _PASSED_OVER:
        raise UsageError(f"'{name}' cannot be set by hand: it belongs to the file")
    if value is None:
        return None
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = unicodedata.normalize("NFC", text.strip())
    kind = "str" if name in _TEXT else fields.get(name) or type(value).__name__
    reason = fault(name, text, kind, fields)
    if reason is not None:
        raise UsageError(reason)
    return typed_value(text, kind)


def fault(name: str, text: str, kind: str, fields: Mapping[str, str]) -> str | None:
    """Why a cell cannot be this field's value."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return f"the {printable(name)} is not UTF-8 text"
    if name in _TEXT and not (text and text.isprintable()):
        what = "holds control characters" if text else "is empty text"
        return f"the {name} '{printable(text)}' {what}"
    fits = _fits_int(text) if kind == "int" and name in fields else fits_kind(text, kind)
    if not fits and not (kind == "float" and _fits_int(text) and int(text) == float(text)):
        wanted = "holds" if name in fields else "would hold"
        return f"'{printable(text)}' is not {_PEOPLE[kind]}, which '{printable(name)}' {wanted}"
    return None


def _fits_int(text: str) -> bool:
    return _INT.fullmatch(text) is not None and INT_MIN <= int(text) <= INT_MAX


class Finder:
    """Finds points for rows, by an id made of source and key, or in one pass over the gallery for all the others."""

    def __init__(self, gallery: Gallery, rows: Iterable[LabelRow]) -> None:
        self._keys: dict[str, list[str]] = {}
        self._paths: dict[str, list[str]] = {}
        for row in rows:
            if row.key and not row.source:
                self._keys.setdefault(row.key, [])
                self._keys.setdefault(encode_key(row.key), [])
            elif not row.key and row.path:
                self._paths.setdefault(absolute(row.path), [])
        if self._keys or self._paths:
            for point in gallery.scroll(fields=["key", "path"]):
                key, path = point.payload.get("key"), point.payload.get("path")
                if isinstance(key, str) and key in self._keys:
                    self._keys[key].append(point.id)
                if isinstance(path, str) and self._paths:
                    for name in {path, decode_key(path)} & self._paths.keys():
                        self._paths[name].append(point.id)

    def find(self, row: LabelRow) -> tuple[str | None, str]:
        """The point's id (of source and key: whether there is such a point or not), or None and why not."""
        if row.key and row.source:
            return point_id(row.source, row.key), ""
        if row.key:
            found = self._keys[row.key] or self._keys[encode_key(row.key)]
            several = f"{len(found)} images have the key '{printable(row.key)}': add the column 'source'"
        elif row.path:
            found = self._paths[absolute(row.path)]
            several = f"'{printable(row.path)}' is in the gallery {len(found)} times: name it by key and source"
        else:
            return None, "it names no image: key and path are empty"
        if len(found) > 1:
            return None, several
        return (found[0], "") if found else (None, self.missing(row))

    @staticmethod
    def missing(row: LabelRow) -> str:
        """What to say of an image that is not in the gallery."""
        if not row.key:
            return f"no image '{printable(row.path)}' in the gallery"
        where = f" of source '{printable(row.source)}'" if row.source else ""
        return f"no image with the key '{printable(row.key)}'{where} in the gallery"


def absolute(path: str | os.PathLike[str]) -> str:
    """The whole path, its links as they are."""
    return os.path.abspath(path)  # noqa: PTH100 - may hold surrogates

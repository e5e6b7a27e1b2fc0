"""Data sets in a CSV: one row per image, or triplets of file names.

A row has a path column, ``identity`` and ``camera`` by name, the rest is metadata. A CSV of Anchor,Positive,Negative
is the classic form of triplet training data.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from siamese_search.datasets.records import (
    BOOKKEEPING,
    ImageRecord,
    MetadataValue,
    encode_key,
    label_text,
    market_record,
)
from siamese_search.datasets.table import PATH_COLUMNS, TRIPLET_COLUMNS, Table, decoded, image_base, resolve_names
from siamese_search.datasets.walk import PassedOver
from siamese_search.errors import DataError, amount, listed, printable
from siamese_search.io.location import redacted

_INT = re.compile(r"[+-]?(0|[1-9][0-9]*)")  # "007" is a name, not a number
_BOOLS = {"true": True, "false": False}
#: A whole number as a data frame writes it in a column with gaps.
_GAPPED = re.compile(r"-?(0|[1-9][0-9]*)[.,]0")
#: A long number as a spreadsheet shows it, and writes it.
_CUT = re.compile(r"[0-9]([.,][0-9]+)?E\+[0-9]+")
#: A number as much of Europe writes it.
_COMMA = re.compile(r"[+-]?[0-9]+(\.[0-9]{3})*,[0-9]+")
#: What data frames, databases and spreadsheets write where there is nothing, or nothing came out.
MISSING = frozenset({"nan", "-nan", "NaN", "<NA>", "NaT", "None", "NA", "N/A", "n/a", "NULL", "null", "\\N"}) | {
    *("#N/A", "#NA", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NUM!", "#NULL!")
}
#: Kinds of column in order of preference: a column has the first kind that all its values fit.
KINDS = ("bool", "int", "float", "str")
#: Columns of an export that say nothing of what an image shows.
_NO_METADATA = BOOKKEEPING | {"id", "vector"}
#: What other tables call the columns ``identity`` and ``camera``, the most telling first.
_USUAL = {
    "identity": ("identity_id", "person_id", "pid", "person", "subject", "label", "target", "class", "id"),
    "camera": ("camera_id", "cameraid", "cam_id", "camid", "cam"),
}
#: Rows in which a value must come again, or the column names images and no identities.
_FIRST_ROWS = 10_000

Triplet = tuple[str, str, str]


class CsvLayout:
    """A checked CSV of images: every row was read once, every file exists, every column has its type.

    ``root`` is the directory that keys are relative to. ``notes``: how cells were read that data frames and
    spreadsheets write in their own way. Iterating streams the records in file order; a hash per row is kept. lenient:
    missing files and names that lead elsewhere are an error only where there is nothing else. Raises DataError (on
    construction) for missing files, no path column, reserved or repeated columns, and paths that lead elsewhere.
    """

    def __init__(self, table: Table, images_root: Path | None = None, *, lenient: bool = False) -> None:
        self.table = table = replace(table, lenient=lenient)
        path_column = table.find(*PATH_COLUMNS)
        if path_column is None:
            raise DataError(
                f"{printable(table.path)}: no path column among {', '.join(printable(c) for c in table.columns)}; name"
                " one of them 'path', or put a header above them, such as path,identity"
            )
        self._path = path_column
        self._identity, identity_said = self._column("identity")
        self._camera, camera_said = self._column("camera")
        #: Which columns are identities and cameras, where they are called another way; or that there are none.
        self.unnamed = "; ".join(filter(None, (identity_said, camera_said)))
        special = {self._path, self._identity, self._camera}
        # A nameless column is what data frames write for their index, and then read as Unnamed: nobody filters by it.
        columns = enumerate(table.columns)
        self._metadata = {i: c for i, c in columns if i not in special and not re.fullmatch(r"(Unnamed: [\d.]+)?", c)}
        self._lenient = lenient
        self._missing = frozenset() if table.is_export else MISSING
        if table.is_export:  # which says to the letter what a gallery knew of each image and its file
            self._metadata = {i: c for i, c in self._metadata.items() if c.lower() not in _NO_METADATA}
        for column in self._metadata.values():
            if column.lower() in BOOKKEEPING:  # a gallery's own fields are not overwritten
                raise DataError(f"{printable(table.path)}: column {column!r} is a reserved name; rename it")
        self.root, self._prefix = Path(), ""
        self.root, self.rows, self.kinds = self._survey(images_root)

    def _column(self, wanted: str) -> tuple[int | None, str]:
        """The column of identities or cameras, by its name or a usual other one, and what to say of the choice."""
        column = self.table.find(wanted)
        if column is not None or self.table.is_export:
            return column, ""
        told = ""
        for name in _USUAL[wanted]:
            column = self.table.find(name, name.replace("_", " "), name.replace("_", "-"))
            if column is None or column == self._path:
                continue
            shown = printable(self.table.columns[column])
            if name != "id" or self._repeats(column):  # which numbers the rows, more often than not
                return column, f"{wanted} from column {shown}"
            told = told or f"no value of {shown} comes twice, so it is no identity: call it so if it is meant"
        nobody = "no column identity, so its images have none" if wanted == "identity" else ""
        return None, "; ".join(filter(None, (nobody, told)))

    def _repeats(self, column: int) -> bool:
        """Whether a value of the column comes twice in the first rows."""
        cells = [row[column] for _, row in islice(self.table.cells(), _FIRST_ROWS) if len(row) > column]
        named = [cell for cell in cells if cell and cell not in MISSING]
        return len(set(named)) < len(named)

    def __iter__(self) -> Iterator[ImageRecord]:
        return (one for one in self.with_misfits() if isinstance(one, ImageRecord))

    def with_misfits(self) -> Iterator[ImageRecord | PassedOver]:
        """The records, and the rows that name no image below the base, or one that an earlier row names."""
        seen: set[int] = set()
        for line, row in self.table.cells():
            try:
                self.table.check_width(row, line)
                key, path = self._place(self._resolve(row[self._path], line))
                if hash(key) in seen:
                    raise DataError(f"{printable(self.table.path)}: line {line}: an earlier row has it")
            except DataError as error:
                here = f"line {line}: "
                reason = here + str(error).partition(f": {here}")[2]
                yield PassedOver(redacted("".join(row[self._path :][:1])), reason, None if self._lenient else error)
                continue
            seen.add(hash(key))
            metadata = {
                name: typed_value(row[i], self.kinds[name])
                for i, name in self._metadata.items()
                if row[i] != "" and not (row[i] in self._missing and self.kinds[name] != "str")
            }
            yield ImageRecord(key, path, self._label(row, self._identity), self._label(row, self._camera), metadata)

    def _label(self, row: list[str], column: int | None) -> str | None:
        if column is None or row[column] in self._missing:
            return None
        text = row[column].removesuffix(".0").removesuffix(",0") if column in self._gapped else decoded(row[column])
        return label_text(text) or None

    # What a table of URLs does in another way.

    def _find_base(self, first: str, images_root: Path | None) -> Path:
        return image_base(self.table, first, images_root)

    def _resolve(self, cell: str, line: int) -> str:
        """A cell as a name below the base."""
        (relative,) = resolve_names(self.table, self.root, [cell], line)
        return relative

    def _is_there(self, name: str) -> bool:
        return os.path.isfile(self._prefix + name)  # noqa: PTH113 - hot

    def _place(self, name: str) -> tuple[str, Path]:
        """Key and path of a name."""
        return encode_key(name), self.root / name

    def _survey(self, images_root: Path | None) -> tuple[Path, int, dict[str, str]]:
        """Read every row once: (image directory, number of rows, kind of each metadata column)."""
        base: Path | None = None
        rows = missing_count = 0
        misfit: DataError | None = None
        missing: list[str] = []
        possible = {index: list(KINDS) for index in self._metadata}
        seen: set[int] = set()
        odd: dict[int, str] = {}  # of columns of text that began as numbers, what is none
        marks = Marks({i for i in (self._identity, self._camera) if i is not None})
        for line, row in self.table.cells():
            rows += 1
            try:
                self.table.check_width(row, line)
                if base is None:
                    base = self.root = self._find_base(row[self._path], images_root)
                    self._prefix = os.path.join(os.fspath(base), "")  # noqa: PTH118
                name = self._resolve(row[self._path], line)
            except DataError as error:
                if not self._lenient:
                    raise
                misfit, missing_count = misfit or error, missing_count + 1
                continue
            if not self._is_there(name):
                missing_count += 1
                if len(missing) < 3:
                    missing.append(name)
            if not self.table.is_export:
                marks.see(row)
            for index in self._metadata:
                value = row[index]
                if value != "" and value not in self._missing:
                    before, possible[index] = possible[index], [k for k in possible[index] if fits_kind(value, k)]
                    if possible[index] == ["str"] != before and (index in seen or _COMMA.fullmatch(value)):
                        odd[index] = value
                    seen.add(index)
        if base is None:
            raise misfit or DataError(f"{printable(self.table.path)}: no rows below the header; nothing to read")
        if missing_count and not (self._lenient and missing_count < rows):
            raise misfit or missing_files(self.table, base, missing, missing_count)
        self._gapped = marks.gapped()
        kinds = {name: possible[i][0] if i in seen else "str" for i, name in self._metadata.items()}
        skipped = {self._path, *(i for i, name in self._metadata.items() if kinds[name] == "str")}
        self.notes = marks.notes(self.table.columns, skipped) + [
            f"{printable(self._metadata[i])} is text, because of {printable(value)!r}: numbers look like 1.5"
            for i, value in odd.items()
        ]
        return base, rows, kinds


class Marks:
    """What a table holds of the ways of data frames and spreadsheets. labels: the columns of identities and cameras."""

    def __init__(self, labels: set[int]) -> None:
        self._missing = Counter[tuple[int, str]]()
        self._whole, self._other = dict.fromkeys(labels, ""), set[int]()
        self._cut: dict[int, str] = {}
        self._encoded = False

    def see(self, row: list[str]) -> None:
        for column, cell in enumerate(row):
            if cell in MISSING:
                self._missing[column, cell] += 1
            elif column in self._whole and cell:
                if _GAPPED.fullmatch(cell):
                    self._whole[column] = self._whole[column] or cell
                elif not _INT.fullmatch(cell):
                    self._other.add(column)
                    if _CUT.fullmatch(cell):
                        self._cut[column] = cell
            self._encoded = self._encoded or (not cell.isascii() and decoded(cell) != cell)

    def gapped(self) -> set[int]:
        """Columns of labels all of which are whole numbers, some written as 1.0."""
        return {column for column, cell in self._whole.items() if cell} - self._other

    def notes(self, columns: Sequence[str], skipped: Collection[int | None]) -> list[str]:
        """What has been read in another way, by column; skipped: those in which a mark stays what it is."""
        lines = [
            f"{count:,} x {cell} in {printable(columns[column])!r} taken as nothing, as data frames and others write it"
            for (column, cell), count in self._missing.items()
            if column not in skipped
        ]
        lines += [
            f"{printable(columns[column])} {self._whole[column]} and the like read as {self._whole[column][:-2]}"
            for column in sorted(self.gapped())
        ]
        lines += [
            f"{printable(columns[column])} {cell}: a spreadsheet cut off its digits, and others may read the same now"
            for column, cell in self._cut.items()
        ]
        return lines + (["bytes that are not UTF-8 read as Windows-1252"] if self._encoded else [])


def fits_kind(value: str, kind: str) -> bool:
    """Whether the text of a cell is a value of this kind, one of :data:`KINDS`."""
    if kind == "bool":
        return value.lower() in _BOOLS
    if kind == "int":
        return len(value) <= 20 and _INT.fullmatch(value) is not None and -(2**63) <= int(value) < 2**63
    return kind == "str" or _is_float(value)


def _is_float(value: str) -> bool:
    if "_" in value or re.fullmatch(r"[+-]?0[0-9]+", value):
        return False
    try:
        if _INT.fullmatch(value):
            # A whole number that no float64 is exactly would run together with its neighbours: a name, then.
            return len(value) <= 40 and int(value) == float(value)
        return math.isfinite(float(value))
    except ValueError:
        return False


def typed_value(value: str, kind: str) -> MetadataValue:
    """The value of a cell that :func:`fits_kind`."""
    if kind == "bool":
        return _BOOLS[value.lower()]
    if kind == "int":
        return int(value)
    if kind == "float":
        return float(value)
    # Text that every store can hold, in Unicode's composed form; other bytes as Windows-1252, or escaped.
    text = value if value.isascii() else unicodedata.normalize("NFC", decoded(value))
    return encode_key(text) if any("\ud800" <= c <= "\udfff" for c in text) else text


def read_triplets(table: Table, images_root: Path | None = None) -> tuple[Path, list[ImageRecord], list[Triplet]]:
    """Read a triplet CSV: (image directory, one record per distinct image, triplets of keys as A, P, N).

    Identities and cameras come from Market-1501 names where every name has that form, else identities from the first
    folder where every image is in one, else they are ``None``. Raises DataError for files that are missing, names that
    leave the image directory, and rows whose identities contradict their roles.
    """
    columns = [column for column in map(table.find, TRIPLET_COLUMNS) if column is not None]
    if len(columns) < len(TRIPLET_COLUMNS):
        raise DataError(f"{printable(table.path)}: the header must name the columns Anchor, Positive and Negative")
    base: Path | None = None
    names: dict[str, None] = {}
    rows: list[tuple[int, str, str, str]] = []
    for line, row in table.rows():
        written = [row[column] for column in columns]
        if base is None:
            base = image_base(table, written[0], images_root)
        anchor, positive, negative = resolved = resolve_names(table, base, written, line)
        rows.append((line, anchor, positive, negative))
        names.update(dict.fromkeys(resolved))
    if base is None:
        raise DataError(f"{printable(table.path)}: no rows below the header; nothing to train on")
    prefix = os.path.join(os.fspath(base), "")  # noqa: PTH118
    missing = [name for name in names if not os.path.isfile(prefix + name)]  # noqa: PTH113 - hot
    if missing:
        raise missing_files(table, base, missing[:3], len(missing))
    records = _records(base, list(names))
    _check_roles(table, records, rows)
    keys = {name: record.key for name, record in records.items()}
    return base, list(records.values()), [(keys[a], keys[p], keys[n]) for _, a, p, n in rows]


def missing_files(table: Table, base: Path, first: list[str], count: int) -> DataError:
    """The error for images that a CSV names and the disk does not have."""
    return DataError(
        f"{printable(table.path)}: {amount(count, 'image')} it names cannot be found below"
        f" {printable(base)}: {listed(first, count)}; restore them, drop the rows, or move the table beside them"
        " (sss ingest: --images-root)"
    )


def _records(base: Path, names: list[str]) -> dict[str, ImageRecord]:
    parsed = {name: record for name in names if (record := market_record(base, name)) is not None}
    if len(parsed) == len(names):
        return parsed
    in_folders = all("/" in name for name in names)
    return {
        name: ImageRecord(encode_key(name), base / name, label_text(name.partition("/")[0]) if in_folders else None)
        for name in names
    }


def _check_roles(table: Table, records: dict[str, ImageRecord], rows: list[tuple[int, str, str, str]]) -> None:
    wrong = []
    for line, anchor, positive, negative in rows:
        a, p, n = (records[name].identity for name in (anchor, positive, negative))
        if a is not None and (a != p or a == n):
            wrong.append(f"line {line} (anchor {a}, positive {p}, negative {n})")
    if wrong:
        raise DataError(
            f"{printable(table.path)}: the files' identities contradict {len(wrong)} of {amount(len(rows), 'triplet')}:"
            f" {listed(wrong)}; an anchor and its positive share an identity, the negative has another"
        )

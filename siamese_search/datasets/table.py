"""CSV files from strangers: delimiter and BOM sniffed, sizes bounded, paths kept in the image directory."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from siamese_search.datasets.records import decode_key
from siamese_search.errors import DataError, printable
from siamese_search.io.csv_cells import read_cell

DELIMITERS = (",", ";", "\t", "|")
MAX_COLUMNS = 256
MAX_FIELD = 32_768
MAX_ROWS = 100_000_000

#: What Excel writes before a header, and wants before it opens a file as columns.
_TOLD = re.compile(r"sep=([,;\t|])", re.IGNORECASE)

PATH_COLUMNS = ("path", "image", "file", "filename", "image_path", "file_path")
#: What helps an ingest against names outside.
_OPTION = ", or ingest with --images-root (/ for whole paths anywhere)"
TRIPLET_COLUMNS = ("anchor", "positive", "negative")


@dataclass(frozen=True, slots=True)
class Table:
    """The header of a CSV file: ``columns`` as written, stripped. Rows are streamed by :meth:`rows`.

    told: its first line is Excel's ``sep=;``, which names the delimiter. lenient: rows may have another number of
    fields than the header; who reads them asks :meth:`check_width`.
    """

    path: Path
    delimiter: str
    columns: tuple[str, ...]
    told: bool = False
    lenient: bool = False

    def find(self, *names: str) -> int | None:
        """The index of the first of ``names`` among the columns, whatever the case."""
        lowered = [column.lower() for column in self.columns]
        return next((lowered.index(name) for name in names if name in lowered), None)

    @property
    def is_triplets(self) -> bool:
        """Whether the header names an anchor, a positive and a negative."""
        return all(self.find(name) is not None for name in TRIPLET_COLUMNS)

    @property
    def is_export(self) -> bool:
        """Whether the columns are those of ``sss export``: then a gallery's own fields are among them."""
        return all(self.find(name) is not None for name in ("path", "source", "key"))

    def cells(self) -> Iterator[tuple[int, list[str]]]:
        """The rows as values: of an export, what was written; of other tables, what stands there."""
        for line, row in self.rows(strip=not self.is_export):
            yield line, [read_cell(cell) for cell in row] if self.is_export else row

    def rows(self, *, strip: bool = True) -> Iterator[tuple[int, list[str]]]:
        """Yield (line number, fields, stripped unless told); blank lines are skipped."""
        with _opened(self.path) as handle:
            # Strict: a quote that is not closed would take all rows up to the next one for one cell.
            reader = csv.reader(handle, delimiter=self.delimiter, strict=True, skipinitialspace=True)
            try:
                for _ in range(1 + self.told):
                    next(reader, None)
                for count, row in enumerate(reader):
                    if not row or not any(field.strip() for field in row):
                        continue
                    line = reader.line_num
                    if not self.lenient:
                        self.check_width(row, line)
                    if count >= MAX_ROWS:
                        raise DataError(f"{printable(self.path)}: more than {MAX_ROWS} rows; split the file")
                    if any(len(field) > MAX_FIELD for field in row):
                        raise DataError(f"{printable(self.path)}: line {line} has a field over {MAX_FIELD} characters")
                    yield line, [field.strip() for field in row] if strip else row
            except csv.Error as error:
                raise DataError(f"{printable(self.path)}: line {reader.line_num}: {error}; mend the line") from None

    def check_width(self, row: list[str], line: int) -> None:
        """Raise DataError for a row of more or fewer fields than the header."""
        if len(row) != len(self.columns):
            raise DataError(
                f"{printable(self.path)}: line {line}: {len(row)} fields where the header has {len(self.columns)};"
                " mend the line (quote fields that contain the delimiter)"
            )


def read_header(path: Path) -> Table:
    """Read a CSV file's first line. Raises DataError where it is missing, binary, or has no usable header."""
    name = printable(path)
    try:
        with path.open("rb") as raw:
            start = raw.read(4)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise DataError(f"{name}: UTF-16 text; save it as UTF-8")
        with _opened(path) as handle:
            first = handle.readline(1 << 20)
            if "\x00" in first:
                raise DataError(f"{name}: not a text file")
            if not first.strip():
                raise DataError(f"{name}: empty; a CSV needs a header line such as path,identity,camera")
            told = _TOLD.fullmatch(first.strip())
            if told is None:
                handle.seek(0)
            # A lone column has none: "," does no harm. What stands in quotes does not count.
            delimiter = told[1] if told else max(DELIMITERS, key=re.sub(r'"[^"]*"', "", first).count)
            columns = next(csv.reader(handle, delimiter=delimiter, strict=True, skipinitialspace=True), [])
    except FileNotFoundError:
        raise DataError(f"{name}: no such file; check the path") from None
    except csv.Error as error:
        raise DataError(f"{name}: the header cannot be read ({error})") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error})") from None
    columns = [unicodedata.normalize("NFC", decoded(column.strip())) for column in columns]
    if len(columns) > MAX_COLUMNS:
        raise DataError(f"{name}: {len(columns)} columns are over the limit of {MAX_COLUMNS}; drop some")
    named = [column.lower() for column in columns if column]
    if twice := sorted(column for column in named if named.count(column) > 1):
        raise DataError(f"{name}: column {printable(twice[0])!r} appears twice; rename one")
    return Table(path, delimiter, tuple(columns), told is not None)


def image_base(table: Table, first: str, images_root: Path | None) -> Path:
    """The directory that a CSV's names are relative to.

    ``images_root`` where given; else the CSV's own directory, or the folder in it (the one named like the CSV
    first) that holds ``first``, the first name in the file. Falls back to the CSV's directory; of an export, which
    has whole paths, to the root of all.
    """
    if images_root is not None:
        if not images_root.is_dir():
            raise DataError(f"{printable(images_root)}: no such directory; check the images root")
        return images_root
    here = table.path.parent
    if table.is_export and _relative(here, first) is None:
        return Path("/")
    if os.path.isabs(first) or not first or "\x00" in first:  # noqa: PTH117 - may hold surrogates
        return here
    candidates = [here, here / table.path.stem]
    with suppress(OSError), os.scandir(here) as entries:
        candidates += sorted(here / e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    names = [name for name in _spellings(first) if _relative(here, name) is not None]
    return next((c for c in candidates if any(os.path.isfile(c / name) for name in names)), here)  # noqa: PTH113


def resolve_names(table: Table, base: Path, names: Sequence[str], line: int) -> list[str]:
    """Names of one row relative to ``base``, in the spelling in which they are there (:func:`_spellings`).

    Raises DataError where one is empty or leaves ``base``.
    """
    resolved = []
    for name in names:
        relative = _relative(base, name)
        if not name.isascii() or "\\" in name or "%" in name:
            others = (_relative(base, spelling) for spelling in _spellings(name))
            relative = next((one for one in others if one and os.path.isfile(base / one)), relative)  # noqa: PTH113
        if relative is None:
            what = f"{printable(name)!r} leaves {printable(base)}" if name else "the image name is empty"
            raise DataError(
                f"{printable(table.path)}: line {line}: {what}; use names inside the image directory"
                f"{_OPTION if name else ''}"
            )
        resolved.append(relative)
    return resolved


def _relative(base: Path, name: str) -> str | None:
    if not name or "\x00" in name:
        return None
    relative = os.path.normpath(name)
    if os.path.isabs(name):  # noqa: PTH117
        relative = os.path.relpath(relative, os.path.abspath(base))  # noqa: PTH100
    return None if relative in (".", "..") or relative.startswith("../") else relative


def decoded(text: str) -> str:
    """Text with bytes that are not UTF-8, read as Windows-1252, in which Excel saves a CSV; any other as it is."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        with suppress(UnicodeDecodeError):
            return text.encode("utf-8", "surrogateescape").decode("cp1252")
    return text


def _spellings(name: str) -> Iterator[str]:
    """A name as it stands, and as Windows or a Mac may have written it for a file that is called another way here."""
    yield name
    text = decoded(name)
    for one in dict.fromkeys((text, text.replace("\\", "/"))):
        for form in ("NFC", "NFD"):
            yield unicodedata.normalize(form, one)
    if name.isascii():
        yield decode_key(name)  # as an export writes bytes that are no text


def _opened(path: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202
    # surrogateescape: a file name in the CSV may hold bytes that are not UTF-8.
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")

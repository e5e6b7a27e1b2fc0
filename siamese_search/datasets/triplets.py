"""A CSV of Anchor,Positive,Negative file names: the classic form of triplet training data."""

from __future__ import annotations

import os
from pathlib import Path

from siamese_search.datasets.market1501 import is_market_name, market_record
from siamese_search.datasets.records import ImageRecord, encode_key, label_text
from siamese_search.datasets.table import TRIPLET_COLUMNS, Table, image_base, resolve_names
from siamese_search.errors import DataError, printable

Triplet = tuple[str, str, str]


def read_triplets(
    table: Table, images_root: Path | None = None
) -> tuple[Path, list[ImageRecord], list[Triplet]]:
    """Read a triplet CSV: (image directory, one record per distinct image, triplets of keys as A, P, N).

    Identities and cameras come from Market-1501 names where every name has that form, else identities from
    the first folder where every image is in one, else they are unknown (``None``). Records are in order of
    first appearance. Raises DataError for files that are missing, names that leave the image directory, and
    rows whose identities contradict their roles.
    """
    found = [table.find(name) for name in TRIPLET_COLUMNS]
    if any(column is None for column in found):
        raise DataError(
            f"{printable(table.path)}: the header must name the columns Anchor, Positive and Negative"
        )
    columns = [column for column in found if column is not None]
    base: Path | None = None
    names: dict[str, None] = {}
    rows: list[tuple[int, str, str, str]] = []
    for line, row in table.rows():
        written = [row[column] for column in columns]
        if base is None:
            base = image_base(table, written[0], images_root)
        anchor, positive, negative = resolve_names(table, base, written, line)
        rows.append((line, anchor, positive, negative))
        names.update(dict.fromkeys((anchor, positive, negative)))
    if base is None:
        raise DataError(f"{printable(table.path)}: no rows below the header; nothing to train on")
    require_files(table, base, list(names))
    records = _records(base, list(names))
    _check_roles(table, records, rows)
    keys = {name: record.key for name, record in records.items()}
    return base, list(records.values()), [(keys[a], keys[p], keys[n]) for _, a, p, n in rows]


def require_files(table: Table, base: Path, names: list[str]) -> None:
    """Raise a DataError with the first three and the count of ``names`` that are not files below ``base``."""
    prefix = os.path.join(os.fspath(base), "")  # noqa: PTH118
    missing = [name for name in names if not os.path.isfile(prefix + name)]  # noqa: PTH113 - hot
    if missing:
        raise missing_files(table, base, missing[:3], len(missing))


def missing_files(table: Table, base: Path, first: list[str], count: int) -> DataError:
    """The error for images that a CSV names and the disk does not have."""
    shown = ", ".join(printable(name) for name in first) + (", …" if count > len(first) else "")
    return DataError(
        f"{printable(table.path)}: {count} image{'s' * (count != 1)} it names cannot be found below"
        f" {printable(base)}: {shown}; restore them, drop the rows, or give another images root"
    )


def _records(base: Path, names: list[str]) -> dict[str, ImageRecord]:
    if all(is_market_name(name.rpartition("/")[2]) for name in names):
        parsed = ((name, market_record(base, name)) for name in names)
        return {name: record for name, record in parsed if record is not None}
    in_folders = all("/" in name for name in names)
    return {
        name: ImageRecord(
            encode_key(name), base / name, label_text(name.partition("/")[0]) if in_folders else None
        )
        for name in names
    }


def _check_roles(
    table: Table, records: dict[str, ImageRecord], rows: list[tuple[int, str, str, str]]
) -> None:
    wrong = []
    for line, anchor, positive, negative in rows:
        a, p, n = (records[name].identity for name in (anchor, positive, negative))
        if a is not None and (a != p or a == n):
            wrong.append(f"line {line} (anchor {a}, positive {p}, negative {n})")
    if wrong:
        shown = ", ".join(printable(text) for text in wrong[:3]) + (", …" if len(wrong) > 3 else "")
        raise DataError(
            f"{printable(table.path)}: {len(wrong)} of {len(rows)} triplets contradict the identities of"
            f" their files: {shown}; an anchor and its positive share an identity, the negative has another"
        )

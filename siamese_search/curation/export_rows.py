"""What an export holds: columns, and rows in batches, read from a gallery in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from siamese_search.datasets.records import decode_key
from siamese_search.gallery.checks import vector_of
from siamese_search.gallery.contract import Gallery, Vectors
from siamese_search.gallery.fields import coerce
from siamese_search.gallery.filters import Where
from siamese_search.options import Progress

#: Points in memory at once.
BATCH = 2000
#: First the columns that say which image it is; then the labels; then all others by name.
_FIRST = ("source", "key", "path", "identity", "camera")


class Column(NamedTuple):
    """One payload field: its name in the gallery, the name in the file, and str, int, float or bool."""

    field: str
    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Some points, by ascending id. values: one list per column, None where a point has no such field.

    vectors: float32 [n, d], or None where they were not asked for.
    """

    ids: list[str]
    values: list[list[Any]]
    vectors: Vectors | None

    def points(self) -> Iterator[tuple[str, Sequence[Any], Vectors | None]]:
        """Of each its id, a value per column, and the vector."""
        for row, one in enumerate(self.ids):
            yield one, [values[row] for values in self.values], None if self.vectors is None else self.vectors[row]


def columns_of(fields: Mapping[str, str]) -> list[Column]:
    """The columns of a gallery with these fields. ``id`` and ``vector`` are taken: such fields get a ``_``."""
    names = [name for name in _FIRST if name in fields] + sorted(fields.keys() - set(_FIRST))
    taken = {"id", "vector"} | set(names)
    columns = []
    for field in names:
        name = field
        if field in ("id", "vector"):
            while name in taken:
                name += "_"
            taken.add(name)
        columns.append(Column(field, name, fields[field]))
    return columns


def batches(
    gallery: Gallery,
    columns: Sequence[Column],
    where: Where = (),
    *,
    vectors: bool = True,
    progress: Progress | None = None,
) -> Iterator[Batch]:
    """All points that meet the conditions. Paths are those of the file system, where they are text.

    A field that appears meanwhile is left out; a value of one that became wider is what the column's type says, and
    None where it is not that.
    """
    total = gallery.count(where) if progress is not None else 0
    done = 0
    points = gallery.scroll(where, with_vectors=vectors, fields=[column.field for column in columns], batch=BATCH)
    while part := list(islice(points, BATCH)):
        yield Batch(
            [point.id for point in part],
            [[_value(point.payload, column) for point in part] for column in columns],
            np.stack([vector_of(gallery, point) for point in part]) if vectors else None,
        )
        done += len(part)
        if progress is not None:
            progress(done, max(total, done))


def _value(payload: Mapping[str, Any], column: Column) -> Any:
    value = payload.get(column.field)
    if value is None:
        return None
    if column.field == "path" and isinstance(value, str):
        return real_path(value)
    if type(value).__name__ == column.kind:
        return value
    wider = column.kind == "str" or (column.kind == "float" and type(value) is int)
    return coerce(value, column.kind) if wider else None


def real_path(stored: str) -> str:
    """The path that a payload's one stands for; as it is stored where its bytes are not UTF-8."""
    path = decode_key(stored)
    return stored if any("\ud800" <= c <= "\udfff" for c in path) else path

"""Labels from a reviewed CSV: which points of a gallery it means, what it would change, and the change itself.

Nothing is written before every row has been checked, and each step may be repeated without harm.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siamese_search.curation.label_table import FORMERLY, Finder, LabelRow, read_label_table
from siamese_search.datasets.records import decode_key
from siamese_search.errors import DataError, UsageError, amount, printable
from siamese_search.gallery.contract import Gallery, StoredPoint
from siamese_search.gallery.fields import chunks
from siamese_search.gallery.payload import LABELLED, labelled_text, read_labelled
from siamese_search.io.csv_cells import NONE, CsvWriter, write_cell
from siamese_search.io.files import atomic_path, writing
from siamese_search.options import Progress

#: Points per look-up and per write.
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one point: the fields that change, as they were and as they will be (None: not there).

    labelled: the names of all fields of the point that count as set by hand, before and after.
    """

    id: str
    source: str
    key: str
    path: str
    before: dict[str, Any]
    after: dict[str, Any]
    labelled: tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(slots=True)
class LabelPlan:
    """What a CSV would do. rows: read. changes: points that change. unchanged: points that are so already.

    problems: why nothing can be applied, one line each. notes: what a person should look at first.
    """

    file: Path
    columns: tuple[str, ...]
    rows: int = 0
    unchanged: int = 0
    changes: list[Change] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_labels(gallery: Gallery, path: Path, columns: Sequence[str] = ()) -> LabelPlan:
    """Read and check a CSV against a gallery. columns: apply these only; by default all that are labels.

    Rows name their image by ``key`` and ``source``, by a ``key`` that is the only one of its kind, or by ``path``.
    A cell that is empty leaves the field as it is, ``<none>`` takes it away. Memory grows with the rows, not with
    the gallery. Raises DataError for a file that is no such table; what is wrong with rows is in ``problems``.
    """
    table = read_label_table(path, gallery.fields(), columns)
    plan = LabelPlan(path, table.columns, len(table.rows), notes=list(table.notes))
    plan.problems += [f"line {line}: {reason}" for line, reason in table.problems]
    finder = Finder(gallery, table.rows)
    wanted: dict[str, LabelRow] = {}
    for row in table.rows:
        identifier, reason = finder.find(row)
        if identifier is None:
            plan.problems.append(f"line {row.line}: {reason}")
            continue
        former = wanted.setdefault(identifier, row)
        if former is not row and (former.values, former.labelled) != (row.values, row.labelled):
            plan.problems.append(f"line {row.line}: another label for the image of line {former.line}")
    for row, point in zip(wanted.values(), gallery.retrieve(list(wanted)), strict=True):
        if point is None:
            plan.problems.append(f"line {row.line}: {finder.missing(row)}")
            continue
        change = change_of(point, row.values, row.labelled)
        if change is None:
            plan.unchanged += 1
        else:
            plan.changes.append(change)
    if "identity" in table.columns and gallery.fields().get("identity") == "str":
        plan.notes += _lost_zeros(gallery, {str(change.after.get("identity") or "") for change in plan.changes})
    return plan


def change_of(point: StoredPoint, values: Mapping[str, Any], labelled: tuple[str, ...] | None = None) -> Change | None:
    """What giving a point these values changes, ``None`` for nothing. labelled: the fields that count as set by hand
    afterwards; by default those that did, and those that change.
    """
    payload = point.payload
    after = {name: value for name, value in values.items() if value != payload.get(name)}
    # Equal and of another type (1 and True) cannot be: a value has its field's type.
    before = {name: payload.get(name) for name in after}
    was = read_labelled(payload)
    now = tuple(sorted({*was, *after})) if labelled is None else labelled
    if not after and set(was) == set(now):
        return None
    path = str(payload.get("path", ""))
    return Change(point.id, point.source, point.key, path, before, after, (was, now))


def _lost_zeros(gallery: Gallery, names: set[str]) -> list[str]:
    """A spreadsheet makes the number 2 of the identity 0002: say so where that seems to have happened."""
    bare = {name for name in names if name.isdecimal() and not name.startswith("0")}
    if not bare:
        return []
    there = gallery.facet("identity", limit=2**31 - 1)
    padded = {one.lstrip("0"): one for one in there if one.isdecimal() and one.startswith("0")}
    hits = sorted(name for name in bare if name in padded and name not in there)
    return [
        f"identity {name} is new, but the gallery knows {padded[name]}: did a spreadsheet take zeros away?"
        for name in hits[:3]
    ]


def check_plan(plan: LabelPlan) -> None:
    """Raise DataError for a plan with problems."""
    if plan.problems:
        raise DataError(
            f"{printable(plan.file)}: {amount(len(plan.problems), 'row')} cannot be applied, so nothing was changed;"
            " mend them and run the command again"
        )


def write_undo(plan: LabelPlan, out: Path) -> None:
    """The former values as a CSV that :func:`plan_labels` reads: applying it undoes the plan.

    Raises UsageError where the file exists: it may hold what an interrupted run changed first.
    """
    if os.path.lexists(out):
        raise UsageError(f"{printable(out)} exists and may hold the values of an earlier run: name another undo file")
    names = sorted({name for change in plan.changes for name in change.before})
    with (
        writing(out, error=DataError),
        atomic_path(out) as aside,
        aside.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = CsvWriter(file)
        writer.writerow(["source", "key", "path", *map(write_cell, names), FORMERLY])
        for change in plan.changes:
            place = map(write_cell, (change.source, change.key, change.path))
            values = (write_cell(change.before[name], none=NONE) if name in change.before else "" for name in names)
            writer.writerow([*place, *values, labelled_text(change.labelled[0]) or NONE])


def write_changes(
    gallery: Gallery,
    changes: Sequence[Change],
    *,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Write changes and flush. stop: when set, KeyboardInterrupt is raised after the points in hand; what is written
    stays, and the same changes may be written again.
    """
    done = 0
    for batch in chunks(changes, _BATCH):
        if stop is not None and stop.is_set():
            gallery.flush()
            raise KeyboardInterrupt
        gallery.set_payload(
            [change.id for change in batch],
            [{**change.after, LABELLED: labelled_text(change.labelled[1])} for change in batch],
        )
        done += len(batch)
        if progress is not None:
            progress(done, len(changes))
    gallery.flush()


def shown_path(change: Change) -> str:
    """Where the image is, or its key where the gallery does not say."""
    return decode_key(change.path) if change.path else change.key

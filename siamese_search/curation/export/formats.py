"""CSV and JSON Lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from siamese_search.curation.export.rows import Batch, Column
from siamese_search.gallery.contract import Vectors
from siamese_search.io.csv_cells import write_cell


def write_csv(rows: Iterable[Batch], columns: Sequence[Column], out: Path, *, vectors: bool) -> int:
    """One row per point: ``id``, the fields, and with vectors ``vector``, a JSON list. How many rows.

    Cells are those of :func:`~siamese_search.io.csv_cells.write_cell`: nothing runs as a formula, and ``sss label``
    reads the file. An absent field is an empty cell.
    """
    count = 0
    with out.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        names = [write_cell(column.name) for column in columns]
        writer.writerow(["id", *names, *(["vector"] if vectors else [])])
        for batch in rows:
            for row, one in enumerate(batch.ids):
                cells = [one, *(write_cell(values[row]) for values in batch.values)]
                if batch.vectors is not None:
                    cells.append(f"[{numbers(batch.vectors[row])}]")
                writer.writerow(cells)
            count += len(batch.ids)
    return count


def write_jsonl(rows: Iterable[Batch], columns: Sequence[Column], out: Path) -> int:
    """One object per line: ``{"id", "payload", "vector"}``, the payload with the fields that the point has."""
    count = 0
    with out.open("w", encoding="utf-8") as handle:
        for batch in rows:
            for row, one in enumerate(batch.ids):
                payload = {
                    column.field: values[row]
                    for column, values in zip(columns, batch.values)
                    if values[row] is not None
                }
                line = f'{{"id": "{one}", "payload": {json.dumps(payload, ensure_ascii=False)}'
                if batch.vectors is not None:
                    line += f', "vector": [{numbers(batch.vectors[row])}]'
                handle.write(line + "}\n")
            count += len(batch.ids)
    return count


def numbers(vector: Vectors) -> str:
    """The shortest decimals that are these float32 again, with commas between."""
    return ",".join(vector.astype("U16"))

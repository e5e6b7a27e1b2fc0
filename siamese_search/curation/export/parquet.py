"""Parquet, by pyarrow: one typed column per field, the vector a fixed-size list of float32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from siamese_search.curation.export.rows import Batch, Column
from siamese_search.errors import MissingExtraError


def check_pyarrow() -> None:
    """Raise MissingExtraError where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise MissingExtraError("Parquet", "analysis") from None


def write_parquet(
    rows: Iterable[Batch], columns: Sequence[Column], out: Path, *, dim: int | None, about: Mapping[str, str]
) -> int:
    """How many rows. dim: of the vectors, None for none. about: key-value metadata of the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    parts: list[Any] = [pa.field("id", pa.string(), nullable=False)]
    parts += [pa.field(column.name, kinds[column.kind]) for column in columns]
    if dim is not None:
        item = pa.field("item", pa.float32(), nullable=False)
        parts.append(pa.field("vector", pa.list_(item, dim), nullable=False))
    schema = pa.schema(parts, metadata=dict(about))
    count = 0
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for batch in rows:
            arrays: list[Any] = [pa.array(batch.ids, pa.string())]
            arrays += [pa.array(values, kinds[column.kind]) for column, values in zip(columns, batch.values)]
            if batch.vectors is not None:
                flat = pa.array(batch.vectors.reshape(-1), pa.float32())
                arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=schema.field("vector").type))
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            count += len(batch.ids)
    return count

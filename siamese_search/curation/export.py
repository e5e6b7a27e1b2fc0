"""What an export writes: CSV, JSON Lines, Parquet, NumPy's .npz, a data set for FiftyOne.

An array's header in an .npz says its length and the width of its longest text, known at the end only. So each column is
first put on disk as it comes, and then written into the archive a piece at a time.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from siamese_search.curation.export_rows import Batch, Column, batches, columns_of
from siamese_search.errors import DataError, MissingExtraError, UsageError, printable
from siamese_search.gallery.contract import Gallery, Vectors
from siamese_search.gallery.filters import Where
from siamese_search.gallery.payload import LABELLED
from siamese_search.io.csv_cells import CsvWriter, write_cell
from siamese_search.io.files import atomic_path, check_output, fsync_directory, writing
from siamese_search.options import Progress

_PIECE = 4096
#: A single long text widens its whole column: beyond this many bytes nobody could load it.
_MOST_BYTES = 8 << 30
_PLAIN = {"int": np.dtype("<i8"), "float": np.dtype("<f8"), "bool": np.dtype("?")}


def write_csv(rows: Iterable[Batch], columns: Sequence[Column], out: Path, *, vectors: bool) -> None:
    """One row per point: ``id``, the fields, and with vectors ``vector``, a JSON list.

    Cells are those of :func:`~siamese_search.io.csv_cells.write_cell`: nothing runs as a formula, and ``sss label``
    reads the file. An absent field is an empty cell.
    """
    with out.open("w", encoding="utf-8", newline="") as handle:
        writer = CsvWriter(handle)
        names = [write_cell(column.name) for column in columns]
        writer.writerow(["id", *names, *(["vector"] if vectors else [])])
        for batch in rows:
            for one, values, vector in batch.points():
                cells = [] if vector is None else [f"[{numbers(vector)}]"]
                writer.writerow([one, *map(write_cell, values), *cells])


def write_jsonl(rows: Iterable[Batch], columns: Sequence[Column], out: Path) -> None:
    """One object per line: ``{"id", "payload", "vector"}``, the payload with the fields that the point has."""
    with out.open("w", encoding="utf-8") as handle:
        for batch in rows:
            for one, values, vector in batch.points():
                payload = {column.field: value for column, value in zip(columns, values) if value is not None}
                line = f'{{"id": "{one}", "payload": {json.dumps(payload, ensure_ascii=False)}'
                if vector is not None:
                    line += f', "vector": [{numbers(vector)}]'
                handle.write(line + "}\n")


def numbers(vector: Vectors) -> str:
    """The shortest decimals that are these float32 again, with commas between."""
    return ",".join(vector.astype("U16"))


def write_parquet(
    rows: Iterable[Batch], columns: Sequence[Column], out: Path, *, dim: int | None, about: Mapping[str, str]
) -> None:
    """dim: of the vectors, None for none. about: key-value metadata of the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    parts: list[Any] = [pa.field("id", pa.string(), nullable=False)]
    parts += [pa.field(column.name, kinds[column.kind]) for column in columns]
    if dim is not None:
        item = pa.field("item", pa.float32(), nullable=False)
        parts.append(pa.field("vector", pa.list_(item, dim), nullable=False))
    schema = pa.schema(parts, metadata=dict(about))
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for batch in rows:
            arrays: list[Any] = [pa.array(batch.ids, pa.string())]
            arrays += [pa.array(values, kinds[column.kind]) for column, values in zip(columns, batch.values)]
            if batch.vectors is not None:
                flat = pa.array(batch.vectors.reshape(-1), pa.float32())
                arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=schema.field("vector").type))
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def write_npz(rows: Iterable[Batch], columns: Sequence[Column], out: Path, *, dim: int | None) -> None:
    """Arrays: ``id``, one per field, ``vector`` float32 [n, d]; ``np.load(out)`` reads them.

    Where a point has no such field its place holds "", 0, NaN or False, and ``FIELD.present`` (bool [n]) is written
    beside the array. Raises DataError for a column of text that would be too large.
    """
    with tempfile.TemporaryDirectory(prefix=f".{out.name[:40]}.", dir=out.parent) as spool, ExitStack() as stack:
        place = Path(spool)
        spools = [
            _Spool(stack, place / str(at), name, kind)
            for at, (name, kind) in enumerate([("id", "str"), *((c.name, c.kind) for c in columns)])
        ]
        vectors = stack.enter_context((place / "vectors").open("w+b"))
        count = 0
        for batch in rows:
            for one, values in zip(spools, [batch.ids, *batch.values]):
                one.add(values)
            if batch.vectors is not None:
                vectors.write(batch.vectors.astype("<f4", copy=False).tobytes())
            count += len(batch.ids)
        with zipfile.ZipFile(out, "w", allowZip64=True) as archive:
            for one in spools:
                one.write(archive, count)
            if dim is not None:
                vectors.seek(0)
                with _array(archive, "vector", np.dtype("<f4"), (count, dim), compress=False) as member:
                    shutil.copyfileobj(vectors, member, 1 << 20)


class _Spool:
    """One column on disk."""

    def __init__(self, stack: ExitStack, path: Path, name: str, kind: str) -> None:
        self.name, self.kind = name, kind
        self._file = stack.enter_context(path.open("w+b"))
        self._present = stack.enter_context(path.with_suffix(".present").open("w+b"))
        self._gaps, self._width = False, 1

    def add(self, values: Sequence[Any]) -> None:
        there = np.array([value is not None for value in values], bool)
        self._gaps = self._gaps or not there.all()
        self._present.write(there.tobytes())
        if self.kind == "str":
            texts = ["" if value is None else value for value in values]
            self._width = max(self._width, *map(len, texts))
            self._file.write("".join(json.dumps(text) + "\n" for text in texts).encode())
        else:
            filler: Any = {"int": 0, "float": float("nan"), "bool": False}[self.kind]
            filled = [filler if value is None else value for value in values]
            self._file.write(np.array(filled, _PLAIN[self.kind]).tobytes())

    def write(self, archive: zipfile.ZipFile, count: int) -> None:
        kind = np.dtype(f"<U{self._width}") if self.kind == "str" else _PLAIN[self.kind]
        if count * kind.itemsize > _MOST_BYTES:
            raise DataError(
                f"a text of {self._width:,} characters in '{printable(self.name)}' makes the array too large for"
                " .npz: export .parquet or .jsonl"
            )
        self._file.seek(0)
        with _array(archive, self.name, kind, (count,)) as member:
            if self.kind == "str":
                while lines := list(islice(self._file, _PIECE)):
                    member.write(np.array([json.loads(line) for line in lines], kind).tobytes())
            else:
                shutil.copyfileobj(self._file, member, 1 << 20)
        if self._gaps:
            self._present.seek(0)
            with _array(archive, f"{self.name}.present", np.dtype("?"), (count,)) as member:
                shutil.copyfileobj(self._present, member, 1 << 20)


def _array(
    archive: zipfile.ZipFile, name: str, kind: np.dtype[Any], shape: tuple[int, ...], *, compress: bool = True
) -> IO[bytes]:
    """A member of the archive, its header written, open for the array's bytes."""
    # A slash would make a directory of a field's name when the archive is unpacked.
    info = zipfile.ZipInfo(f"{name.replace('/', '_')}.npy")
    info.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    member = archive.open(info, "w", force_zip64=True)
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    return member


#: Of no use outside the gallery.
_LEFT_OUT = frozenset({"crc", "mtime_ns", "digest", "carried", "path", LABELLED})
#: Names that a sample has for itself.
_TAKEN = frozenset(
    {"id", "filepath", "tags", "metadata", "created_at", "last_modified_at", "media_type", "embedding",
     "dataset", "dataset_id", "frames", "group", "in_dataset"}
)  # fmt: skip


def write_fiftyone(rows: Iterable[Batch], columns: Sequence[Column], out: Path, *, about: Mapping[str, str]) -> int:
    """Write a FiftyOneDataset into the empty directory ``out``; how many points are left out for want of a path.

        fo.Dataset.from_dir(dataset_dir=OUT, dataset_type=fo.types.FiftyOneDataset)

    ``metadata.json`` has no ``version`` key: every version of FiftyOne reads that variant. Images are named by absolute
    path. identity: a Classification; all other fields are plain, the vector is ``embedding``. about: ``dataset.info``.
    """
    names = _names([column for column in columns if column.field not in _LEFT_OUT])
    before, left_out = "\n", 0
    with (out / "samples.json").open("w", encoding="utf-8") as handle:
        handle.write('{"samples": [')
        for batch in rows:
            for _, values, vector in batch.points():
                payload = {column.field: value for column, value in zip(columns, values) if value is not None}
                path = payload.get("path")
                if not str(path).startswith("/"):
                    left_out += 1
                    continue
                sample: dict[str, Any] = {"filepath": path, "tags": [], "metadata": None}
                if "identity" in payload:
                    payload["identity"] = {"_cls": "Classification", "tags": [], "label": str(payload["identity"])}
                sample |= {names[field]: value for field, value in payload.items() if field in names}
                if vector is not None:
                    sample["embedding"] = _packed(vector)
                handle.write(before + json.dumps(sample, ensure_ascii=False))
                before = ",\n"
        handle.write("\n]}\n")
    document = {"media_type": "image", "info": {f"sss_{name}": text for name, text in about.items()}}
    (out / "metadata.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return left_out


def _names(columns: Sequence[Column]) -> dict[str, str]:
    """Field -> a name that FiftyOne takes: letters, digits and ``_``, beginning with a letter, used once."""
    names: dict[str, str] = {}
    for column in columns:
        name = re.sub(r"\W", "_", column.field, flags=re.ASCII)
        if not name[:1].isalpha():
            name = f"f{name}"
        while name in _TAKEN or name in names.values():
            name += "_"
        names[column.field] = name
    return names


def _packed(vector: Vectors) -> dict[str, Any]:
    """A vector as FiftyOne stores one: a compressed .npy, as binary of MongoDB's extended JSON."""
    buffer = io.BytesIO()
    np.save(buffer, vector, allow_pickle=False)
    packed = zlib.compress(buffer.getvalue(), 1)
    return {"$binary": {"base64": base64.b64encode(packed).decode("ascii"), "subType": "00"}}


FORMATS = ("parquet", "npz", "csv", "jsonl", "fiftyone")


@dataclass(frozen=True, slots=True)
class Exported:
    """points: written. left_out: those that the format has no place for (FiftyOne: images without a path)."""

    points: int
    left_out: int = 0


def format_of(out: Path, wanted: str | None) -> str:
    """The format that is asked for, or that the name says. Raises UsageError where neither does."""
    suffix = out.suffix.lower().removeprefix(".")
    if wanted is None and suffix not in FORMATS:
        raise UsageError(
            f"{printable(out)}: name the file .parquet, .npz, .csv or .jsonl, or give --format {'|'.join(FORMATS)}"
        )
    return wanted or suffix


def export_gallery(
    gallery: Gallery,
    out: Path,
    format: str,
    where: Where = (),
    *,
    vectors: bool = True,
    progress: Progress | None = None,
) -> Exported:
    """Write the points that meet the conditions, by ascending id. Memory does not grow with their number.

    A file that exists is replaced when the new one is whole; a directory (fiftyone) must be new or empty. Raises
    UsageError, MissingExtraError (parquet), DataError, SiameseSearchError where ``out`` cannot be written.
    """
    if format == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401 - said before anything is read
        except ImportError:
            raise MissingExtraError("Parquet", "analysis") from None
    columns = columns_of(gallery.fields())
    read = left_out = 0

    def counted() -> Iterator[Batch]:
        nonlocal read
        for batch in batches(gallery, columns, where, vectors=vectors, progress=progress):
            read += len(batch.ids)
            yield batch

    dim = gallery.dim if vectors else None
    about = {"model": gallery.model.fingerprint, "gallery": gallery.name}
    check_output(out, directory=format == "fiftyone")
    with writing(out), (_new_directory if format == "fiftyone" else atomic_path)(out) as aside:
        if format == "fiftyone":
            left_out = write_fiftyone(counted(), columns, aside, about=about)
        elif format == "parquet":
            write_parquet(counted(), columns, aside, dim=dim, about=about)
        elif format == "npz":
            write_npz(counted(), columns, aside, dim=dim)
        elif format == "csv":
            write_csv(counted(), columns, aside, vectors=vectors)
        else:
            write_jsonl(counted(), columns, aside)
    return Exported(read - left_out, left_out)


@contextmanager
def _new_directory(out: Path) -> Iterator[Path]:
    """:func:`~siamese_search.io.files.atomic_path` of a directory, which must be new or empty."""
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{printable(out)} exists: name a new directory")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name[:80]}.", dir=out.parent))
    try:
        yield aside
        aside.chmod(0o755)
        aside.replace(out)
        fsync_directory(out.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise

"""NumPy's .npz without pickle: one array per field, text as fixed-width Unicode.

An array's header says its length and the width of its longest text, which are known at the end only. So each column
is first put on disk as it comes, and then written into the archive a piece at a time.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from siamese_search.curation.export.rows import Batch, Column
from siamese_search.errors import DataError, printable

_PIECE = 4096
#: A single long text widens its whole column: beyond this many bytes nobody could load it.
_MOST_BYTES = 8 << 30
_PLAIN = {"int": np.dtype("<i8"), "float": np.dtype("<f8"), "bool": np.dtype("?")}


def write_npz(rows: Iterable[Batch], columns: Sequence[Column], out: Path, *, dim: int | None) -> int:
    """How many rows. Arrays: ``id``, one per field, ``vector`` float32 [n, d]; ``np.load(out)`` reads them.

    Where a point has no such field its place holds "", 0, NaN or False, and ``FIELD.present`` (bool [n]) is written
    beside the array. Raises DataError for a column of text that would be too large.
    """
    with (
        tempfile.TemporaryDirectory(prefix=f".{out.name[:40]}.", dir=out.parent) as spool,
        ExitStack() as stack,
    ):
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
                    while piece := vectors.read(1 << 20):
                        member.write(piece)
    return count


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
            for piece in self._pieces(kind):
                member.write(piece)
        if self._gaps:
            self._present.seek(0)
            with _array(archive, f"{self.name}.present", np.dtype("?"), (count,)) as member:
                while piece := self._present.read(1 << 20):
                    member.write(piece)

    def _pieces(self, kind: np.dtype[Any]) -> Iterator[bytes]:
        if self.kind != "str":
            while piece := self._file.read(1 << 20):
                yield piece
            return
        while lines := list(islice(self._file, _PIECE)):
            yield np.array([json.loads(line) for line in lines], kind).tobytes()


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

"""export_gallery(): the chosen format, written aside and renamed when it is whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from siamese_search.curation.export.formats import (
    check_pyarrow,
    write_csv,
    write_fiftyone,
    write_jsonl,
    write_npz,
    write_parquet,
)
from siamese_search.curation.export.rows import batches, columns_of
from siamese_search.errors import SiameseSearchError, UsageError, printable
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.filters import Condition
from siamese_search.io.files import atomic_path, check_output, fsync_directory

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
    where: Sequence[Condition] = (),
    *,
    vectors: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write the points that meet the conditions, by ascending id. Memory does not grow with their number.

    A file that exists is replaced when the new one is whole; a directory (fiftyone) must be new or empty. Raises
    UsageError, MissingExtraError (parquet), DataError, SiameseSearchError where ``out`` cannot be written.
    """
    if format == "parquet":
        check_pyarrow()
    columns = columns_of(gallery.fields())
    rows = batches(gallery, columns, where, vectors=vectors, progress=progress)
    dim = gallery.dim if vectors else None
    about = {"model": gallery.model.fingerprint, "gallery": gallery.name}
    try:
        check_output(out, directory=format == "fiftyone")
        if format == "fiftyone":
            return _directory(out, lambda aside: Exported(*write_fiftyone(rows, columns, aside, about=about)))
        with atomic_path(out) as aside:
            if format == "parquet":
                return Exported(write_parquet(rows, columns, aside, dim=dim, about=about))
            if format == "npz":
                return Exported(write_npz(rows, columns, aside, dim=dim))
            if format == "csv":
                return Exported(write_csv(rows, columns, aside, vectors=vectors))
            return Exported(write_jsonl(rows, columns, aside))
    except OSError as error:
        raise SiameseSearchError(f"{printable(out)}: cannot be written: {error.strerror or error}") from None


def _directory(out: Path, write: Callable[[Path], Exported]) -> Exported:
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{printable(out)} exists: name a new directory")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name[:80]}.", dir=out.parent))
    try:
        done = write(aside)
        aside.chmod(0o755)
        aside.replace(out)
        fsync_directory(out.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return done

"""What driver and workers say to each other: units of work, and what came of them.

Both travel as one row of an Arrow table each: JSON (paths with undecodable bytes as ``\\udcXX``) and, of vectors, the
plain float32 numbers. So nothing is pickled but the worker's start, and a unit costs some 200 bytes per image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ingest.scan import Action, PlannedFile, ScannedFile
from ingest.summary import Stage
from siamese_search import errors
from siamese_search.datasets.records import ImageRecord
from siamese_search.gallery.contract import Vectors
from siamese_search.io.location import RemotePath

if TYPE_CHECKING:
    import pyarrow as pa


def pack_work(files: Sequence[PlannedFile], *, whole: bool) -> bytes:
    """Planned files for a worker. whole: with payload and action, for a worker that stores them itself."""
    return json.dumps(
        [
            [_packed(file.scanned.record.path), file.scanned.size, file.scanned.mtime_ns]
            + ([file.id, file.action, file.payload] if whole else [])
            for file in files
        ]
    ).encode("ascii")


def _packed(path: Path | RemotePath) -> str | dict[str, str]:
    return {"address": path.address} if isinstance(path, RemotePath) else str(path)


def unpack_work(data: bytes) -> list[PlannedFile]:
    """The files as the worker needs them; those without payload have their row as id."""
    files = []
    for row, (path, size, mtime_ns, *rest) in enumerate(json.loads(data)):
        identifier, action, payload = cast(tuple[str, Action, dict[str, Any]], rest or (str(row), "new", {}))
        place = Path(path) if isinstance(path, str) else RemotePath.of(path["address"]).as_path()
        record = ImageRecord(payload.get("key", ""), place)
        scanned = ScannedFile(record, payload.get("source", ""), payload.get("path", ""), size, mtime_ns)
        files.append(PlannedFile(action, identifier, scanned, payload))
    return files


@dataclass(slots=True)
class Outcome:
    """What came of one unit.

    rows, vectors: the files that were embedded, and float32 [len(rows), d] unless the worker stored them; then ``new``
    and ``changed`` count them, and ``unchanged`` those of which only the file's state was. failures: (path, reason).
    seconds: busy time per stage. complete: whether all files were looked at. ready, loading: when (seconds since the
    epoch) the worker could begin, and how long its start took. error: (class, message) of what ends the whole ingest.
    """

    unit: int
    rows: list[int] = field(default_factory=list)
    vectors: Vectors | None = None
    embedded: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    seconds: dict[Stage, float] = field(default_factory=dict)
    complete: bool = True
    ready: float = 0.0
    loading: float = 0.0
    error: tuple[str, str] | None = None

    def to_table(self) -> pa.Table:
        """One row."""
        import pyarrow as pa

        said = {name: getattr(self, name) for name in self.__slots__ if name not in ("unit", "vectors")}
        vectors = b"" if self.vectors is None else np.ascontiguousarray(self.vectors, np.float32).tobytes()
        return pa.table(
            {
                "unit": pa.array([self.unit], pa.int64()),
                "outcome": pa.array([json.dumps(said).encode("ascii")], pa.binary()),
                "vectors": pa.array([vectors], pa.binary()),
            }
        )

    @classmethod
    def from_table(cls, table: pa.Table, row: int = 0) -> Outcome:
        """The outcome in one row."""
        said: dict[str, Any] = json.loads(table["outcome"][row].as_py())
        vectors = table["vectors"][row].as_buffer()
        outcome = cls(table["unit"][row].as_py(), **said)
        outcome.failures = [(path, reason) for path, reason in outcome.failures]
        if vectors is not None and len(vectors):
            outcome.vectors = np.frombuffer(vectors, np.float32).reshape(len(outcome.rows), -1)
        return outcome

    def raise_error(self) -> None:
        """Raise what ended the worker's part, as the error that it was."""
        if self.error is None:
            return
        name, message = self.error
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, errors.SiameseSearchError):
            error = kind.__new__(kind)
            Exception.__init__(error, message)  # some of them take other arguments than a message
            raise error
        raise RuntimeError(f"a worker failed: {name}: {message}")

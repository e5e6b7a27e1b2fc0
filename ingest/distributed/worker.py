"""EmbedWorker: decodes and embeds units of work on one machine of a cluster, with the stages of every ingest.

What driver and workers say to each other, units of work and what came of them, travels as one row of an Arrow table
each: JSON (paths with undecodable bytes as ``\\udcXX``) and, of vectors, the plain float32 numbers. So nothing is
pickled but the start of a worker, and a unit costs some 200 bytes per image.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ingest.scan import Action, PlannedFile, ScannedFile
from ingest.stages import Committer, Tally, embed_files
from ingest.summary import IngestSummary, Stage
from siamese_search import errors
from siamese_search.datasets.records import ImageRecord
from siamese_search.embedding import Stop, batches_of
from siamese_search.errors import BundleError, DataError, SiameseSearchError, printable
from siamese_search.gallery.contract import Gallery, ModelRef, Vectors
from siamese_search.io.location import RemotePath
from siamese_search.model.bundle import META_NAME, Bundle, load_bundle
from siamese_search.model.embedder import Device, Embedder, load_embedder
from siamese_search.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa


def pack_work(files: Sequence[PlannedFile], *, whole: bool) -> bytes:
    """Planned files for a worker. whole: with payload and action, for a worker that stores them itself."""
    return json.dumps(
        [
            [
                {"address": path.address} if isinstance(path := file.scanned.record.path, RemotePath) else str(path),
                file.scanned.size,
                file.scanned.mtime_ns,
            ]
            + ([file.id, file.action, file.payload] if whole else [])
            for file in files
        ]
    ).encode("ascii")


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

    rows, vectors: the files that were embedded, and float32 [len(rows), d] unless the worker stored them. counts: those
    of the summary that a worker changes. failures: (path, reason). seconds: busy time per stage. complete: whether all
    files were looked at. ready, loading: when (seconds since the epoch) the worker could begin, and how long its start
    took. error: (class, message) of what ends the whole ingest.
    """

    unit: int
    rows: list[int] = field(default_factory=list)
    vectors: Vectors | None = None
    counts: dict[str, int] = field(default_factory=dict)
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
        if isinstance(kind, type) and issubclass(kind, SiameseSearchError):
            error = kind.__new__(kind)
            Exception.__init__(error, message)  # some of them take other arguments than a message
            raise error
        raise RuntimeError(f"a worker failed: {name}: {message}")


#: A unit that has been begun so often has ended its worker each time (memory, a decoder that crashes).
MOST_BEGINNINGS = 5


@dataclass(frozen=True)
class BundleCopy:
    """A model bundle for machines that may not have it: where it is here, and a reference to its files' content."""

    path: str
    fingerprint: str
    files: Any


@dataclass(frozen=True)
class Target:
    """A gallery in a store that any machine reaches. The key for it comes from each machine's own environment."""

    store: str
    gallery: str
    model: ModelRef
    settings: Settings

    def open(self) -> Gallery:
        from siamese_search.gallery import open_store

        return open_store(self.store, settings=self.settings).open(self.gallery, model=self.model, mode="w")


@dataclass(frozen=True)
class Job:
    """What a worker needs to know.

    threads: of the network. places: directories that must be there. target: where to store, or hand the vectors back.
    """

    bundle: BundleCopy
    device: Device
    threads: int
    decode_threads: int
    batch_size: int
    places: tuple[str, ...]
    target: Target | None


def bundle_files(bundle: Bundle) -> dict[str, bytes]:
    """The content of a bundle's files, by name, checked."""
    files = {name: bundle.read_checked(name) for name in bundle.file_names}
    return files | {META_NAME: (bundle.path / META_NAME).read_bytes()}


def unpacked(copy: BundleCopy, fetch: Any) -> Bundle:
    """The bundle on this machine: where the driver has it, if it is there too, else ``fetch``'s files written aside."""
    try:
        bundle = load_bundle(copy.path)
        if bundle.fingerprint == copy.fingerprint:
            return bundle
    except BundleError:
        pass
    directory = Path(tempfile.mkdtemp(prefix="sss-bundle-"))
    for name, content in fetch(copy.files).items():
        (directory / name).write_bytes(content)
    return load_bundle(directory)


class EmbedWorker:
    """For ``map_batches``: a table with one unit (:class:`~ingest.distributed.feed.Source`) becomes its outcome.

    Nothing is ever raised: an error that the ingest cannot survive travels in the outcome, so that Ray, which retries
    what dies, does not retry what is wrong.
    """

    def __init__(self, job: Job, feed: Any) -> None:
        began = time.time()
        self._job, self._feed = job, feed
        self._gallery: Gallery | None = None
        self._error: tuple[str, str] | None = None
        try:
            import ray

            self._halted = _Halted(feed.halted.remote())
            _check_places(job.places)
            self._embedder: Embedder = load_embedder(
                unpacked(job.bundle, ray.get), device=job.device, threads=job.threads
            )
            height, width = self._embedder.input_size
            self._embedder.embed(np.zeros((1, height, width, 3), np.uint8))  # the first run allocates
            if job.target is not None:
                self._gallery = job.target.open()
        except Exception as error:
            self._error = _named(error)
        self._ready = time.time()
        self._loading = self._ready - began

    def __call__(self, table: pa.Table) -> pa.Table:
        unit, work = table["unit"][0].as_py(), table["work"][0].as_py()
        outcome = Outcome(unit, error=self._error, ready=self._ready, loading=self._loading)
        if outcome.error is None:
            try:
                self._run(unpack_work(work), outcome)
            except Exception as error:
                outcome.error = _named(error)
        return outcome.to_table()

    def _run(self, files: list[PlannedFile], outcome: Outcome) -> None:
        if self._halted.is_set():
            outcome.complete = False
            return
        import ray

        if ray.get(self._feed.begin.remote(outcome.unit)) > MOST_BEGINNINGS:
            reason = f"this file or one beside it ended its worker {MOST_BEGINNINGS} times; ingest it by itself"
            outcome.failures = [(str(file.scanned.record.path), reason) for file in files]
            return
        run_unit(files, outcome, self._embedder, self._job, self._gallery, self._halted)


def run_unit(
    files: Sequence[PlannedFile], outcome: Outcome, embedder: Embedder, job: Job, gallery: Gallery | None, stop: Stop
) -> None:
    """Decode and embed these files in batches, and store them or keep their vectors: all of it into ``outcome``."""
    # The real path of each failure, for the driver's list.
    summary = IngestSummary("", "", "", log=lambda path, why: outcome.failures.append((os.fspath(path), why)))
    tally = Tally(summary, None, None)
    row_of = {file.id: row for row, file in enumerate(files)}
    kept: list[Vectors] = [np.empty((0, embedder.dim), np.float32)]

    def keep(embedded: list[PlannedFile], vectors: Vectors) -> None:
        outcome.rows += [row_of[file.id] for file in embedded]
        kept.append(vectors)

    batches = batches_of(files, job.batch_size)
    with nullcontext() if gallery is None else Committer(gallery, tally) as committer:
        put = keep if committer is None else committer.put
        outcome.complete = embed_files(batches, embedder, put, tally, threads=job.decode_threads, stop=stop)
    if gallery is None:
        outcome.vectors = np.concatenate(kept)
    outcome.counts = {name: getattr(summary, name) for name in ("embedded", "new", "changed", "unchanged")}
    outcome.seconds = tally.clock.seconds()


class _Halted:
    """Whether the driver wants to end: looked up in this process, without asking anybody."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def is_set(self) -> bool:
        import ray

        return bool(ray.wait([self._reference], timeout=0)[0])


def _check_places(places: Sequence[str]) -> None:
    for place in places:
        if not os.path.isdir(place):  # noqa: PTH112 - also takes surrogate-escaped names
            raise DataError(
                f"{printable(place)} is not there on {socket.gethostname()}: every machine of the cluster must see the"
                " images at the same path (a shared mount), or they must come from object storage"
            )


def _named(error: Exception) -> tuple[str, str]:
    message = " ".join(str(error).split())
    return type(error).__name__, message if isinstance(error, SiameseSearchError) else message[:500]

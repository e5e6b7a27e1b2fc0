"""run_ingest(): scan → plan → decode → embed → commit, overlapped, in bounded memory.

    thread "prefetch"     scan: walk and stat, at most 2 chunks of 1,000 files ahead
    the calling thread    plan (one gallery look-up per chunk), embed, commit
    threads "decode"      decode, at most 2 batches ahead of the embedder

The model's own threads do nearly all the work and hold no GIL; decoding fills the gaps. All gallery calls
come from the calling thread, because engines need not be thread-safe.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ingest.decode import DecodedBatch, Decoder, PendingBatch
from ingest.plan import PlannedFile, plan_files
from ingest.prefetch import prefetch
from ingest.scan import ScannedFile, scan_files, survey_roots
from ingest.summary import IngestSummary, Progress
from siamese_search.errors import DataError, ModelMismatchError, UsageError, printable
from siamese_search.gallery.base import Gallery, Vectors
from siamese_search.gallery.checksums import vector_crc

if TYPE_CHECKING:
    from siamese_search.datasets.layouts import Survey
    from siamese_search.model.embedder import Embedder

_SCAN_AHEAD = 2  # chunks
_DECODE_AHEAD = 2  # batches
#: Points per commit, and seconds after which a smaller one is made, so that a waiting search gets its turn.
_COMMIT_POINTS = 256
_COMMIT_SECONDS = 1.0


def run_ingest(
    roots: Sequence[Path | Survey],
    gallery: Gallery,
    embedder: Embedder,
    *,
    layout: str = "auto",
    source: str | None = None,
    batch_size: int = 64,
    decode_threads: int = 0,
    reembed: bool = False,
    checksum: bool = False,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> IngestSummary:
    """Bring the gallery up to date with the images under ``roots``: directories, CSV files, or their surveys.

    Unchanged files (size, modification time, labels) are skipped; changed ones replace their point; where
    only labels or metadata changed, the stored vector is kept. An image that cannot be read is named in
    ``failures`` and never stops the rest, and so is a directory that cannot be read; an image that was good
    before keeps its old point, because a file that is being written or a disk that fails for a moment must
    not cost what was known.

    source: name of the source instead of each root's directory, for mounts that differ between hosts.
    batch_size: images per forward pass. decode_threads: 0 chooses. reembed: embed unchanged files too.
    checksum: compare by content.
    progress: called from this thread after every step. stop: when set, the batch in hand is finished and
    committed, and the summary says ``interrupted``; the next run goes on from there. So it does after a
    crash: point ids depend on (source, key) alone, and what was committed is found unchanged.

    Raises DataError for a missing root, when there are no images, or when none of them can be used (naming
    three), and ModelMismatchError when the gallery's vectors come from another model.
    """
    _check(gallery, embedder, batch_size, decode_threads)
    started = time.monotonic()
    surveys = survey_roots(roots, layout)
    summary = ingest_files(
        scan_files(surveys, source),
        gallery,
        embedder,
        batch_size=batch_size,
        decode_threads=decode_threads,
        reembed=reembed,
        checksum=checksum,
        progress=progress,
        stop=stop,
    )
    summary.seconds = time.monotonic() - started
    if not summary.interrupted:
        _check_outcome(summary, [survey.root for survey in surveys])
    return summary


def ingest_files(
    chunks: Iterable[list[ScannedFile]],
    gallery: Gallery,
    embedder: Embedder,
    *,
    batch_size: int = 64,
    decode_threads: int = 0,
    reembed: bool = False,
    checksum: bool = False,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> IngestSummary:
    """The pipeline below the scan: bring the gallery up to date with these files, chunk by chunk.

    chunks: from :func:`scan_files`, or any lists of at most some thousand files; computed in a thread of its
    own, two chunks ahead. The rest is as :func:`run_ingest` says, but no files at all, or none that can be
    used, is no error here.
    """
    _check(gallery, embedder, batch_size, decode_threads)
    started = time.monotonic()
    run = _Run(gallery, embedder, reembed, checksum, progress, stop or threading.Event())
    threads = decode_threads or min(2, os.cpu_count() or 1)
    with (
        Decoder(embedder.input_size, threads) as decoder,
        closing(prefetch(chunks, _SCAN_AHEAD)) as ahead,
    ):
        run.embed_all(_batches(run.to_embed(ahead), batch_size), decoder)
    run.summary.seconds = time.monotonic() - started
    return run.summary


class _Run:
    """The state of one ingest: counts, and the points embedded but not yet committed."""

    def __init__(
        self,
        gallery: Gallery,
        embedder: Embedder,
        reembed: bool,
        checksum: bool,
        progress: Callable[[Progress], None] | None,
        stop: threading.Event,
    ) -> None:
        self.gallery = gallery
        self.embedder = embedder
        self.plan_options = {"reembed": reembed, **({"checksum": True} if checksum else {})}
        self.progress = progress
        self.stop = stop
        self.scanned = False
        model = gallery.model
        self.summary = IngestSummary(gallery.name, gallery.store, model.name or model.fingerprint)
        self._files: list[PlannedFile] = []
        self._vectors: list[Vectors] = []
        self._last_commit = time.monotonic()

    def to_embed(self, chunks: Iterator[list[ScannedFile]]) -> Iterator[PlannedFile]:
        """Plan chunk by chunk; settle what needs no embedding, yield what does."""
        for chunk in chunks:
            self.summary.seen += len(chunk)
            for scanned in chunk:
                if scanned.reason is not None:
                    self.summary.fail(scanned.record.path, scanned.reason)
            usable = [scanned for scanned in chunk if scanned.reason is None]
            relabelled = []
            for planned in plan_files(usable, self.gallery, **self.plan_options):
                if planned.action == "unchanged":
                    self.summary.unchanged += 1
                elif planned.action == "relabelled":
                    relabelled.append(planned)
                else:
                    yield planned
            yield from self._relabel(relabelled)
            self.report()
            if self.stop.is_set():
                return
        self.scanned = True

    def embed_all(self, batches: Iterator[list[PlannedFile]], decoder: Decoder) -> None:
        """Decode ahead, embed in order, commit; stop between two batches."""
        pending: deque[PendingBatch] = deque()
        try:
            for files in batches:
                pending.append(decoder.submit(files))
                if len(pending) > _DECODE_AHEAD:
                    self._embed(pending.popleft().result())
                if self.stop.is_set():
                    break
        except DataError:  # of the scan: what was embedded before it is paid for
            self._commit()
            raise
        while pending and not self.stop.is_set():
            self._embed(pending.popleft().result())
        for batch in pending:
            batch.cancel()
        self.summary.interrupted = bool(pending) or not self.scanned
        self._commit()
        self.report()

    def _embed(self, batch: DecodedBatch) -> None:
        for file, reason in batch.failures:
            self.summary.fail(file.scanned.record.path, reason)
        if batch.files:
            vectors = self.embedder.embed(batch.pixels)
            self.summary.embedded += len(vectors)
            finite: NDArray[np.bool_] = np.asarray(np.isfinite(vectors).all(axis=1))
            if not finite.all():  # one bad row must not cost the batch
                for index in np.flatnonzero(~finite):
                    self.summary.fail(
                        batch.files[index].scanned.record.path, "the model gave a vector that is not finite"
                    )
            self._files += [file for file, good in zip(batch.files, finite, strict=True) if good]
            self._vectors.append(vectors[finite])
        overdue = time.monotonic() - self._last_commit > _COMMIT_SECONDS
        if len(self._files) >= _COMMIT_POINTS or overdue:
            self._commit()
        self.report()

    def _commit(self) -> None:
        """Write what is embedded, durably; only now does it count."""
        if self._files:
            vectors = np.concatenate(self._vectors)
            self._write(self._files, vectors)
            for file in self._files:
                if file.action == "new":
                    self.summary.new += 1
                else:
                    self.summary.changed += 1
        self._files, self._vectors = [], []
        self._last_commit = time.monotonic()

    def _relabel(self, files: Sequence[PlannedFile]) -> Iterator[PlannedFile]:
        """Replace payloads and keep the vectors; yields the files whose vector is damaged, to be embedded."""
        if not files:
            return
        kept, vectors = [], []
        stored = self.gallery.retrieve([file.id for file in files], with_vectors=True)
        for file, point in zip(files, stored, strict=True):
            # Written back, a damaged vector would get a new checksum and pass for sound.
            if point is None or point.vector is None or vector_crc(point.vector) != point.payload.get("crc"):
                yield file
            else:
                kept.append(file)
                vectors.append(point.vector)
        if kept:
            self._write(kept, np.stack(vectors))
            self.summary.changed += len(kept)

    def _write(self, files: Sequence[PlannedFile], vectors: Vectors) -> None:
        self.gallery.upsert([file.id for file in files], vectors, [file.payload for file in files])
        self.gallery.flush()

    def report(self) -> None:
        """Tell the progress display where we are."""
        if self.progress is not None:
            done = self.summary.new + self.summary.changed + self.summary.unchanged + self.summary.failed
            self.progress(
                Progress(done, self.summary.seen, self.scanned, self.summary.embedded, self.summary.failed)
            )


def _batches(files: Iterator[PlannedFile], size: int) -> Iterator[list[PlannedFile]]:
    batch: list[PlannedFile] = []
    for file in files:
        batch.append(file)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _check(gallery: Gallery, embedder: Embedder, batch_size: int, decode_threads: int) -> None:
    """Refuse what cannot work before anything is read.

    The gallery is opened with the model's fingerprint; this catches a caller who mixed up two of them.
    """
    if batch_size < 1:
        raise UsageError(f"the batch size must be at least 1, not {batch_size}")
    if decode_threads < 0:
        raise UsageError(f"the number of decode threads must be at least 0, not {decode_threads}")
    if gallery.model.fingerprint != embedder.fingerprint or gallery.dim != embedder.dim:
        raise ModelMismatchError(
            f"gallery {gallery.name!r} holds vectors of model {gallery.model.fingerprint[:12]}"
            f" ({gallery.dim}-D), this model is {embedder.fingerprint[:12]} ({embedder.dim}-D);"
            " use the gallery's own model or rebuild it with: sss reindex"
        )


def _check_outcome(summary: IngestSummary, roots: Sequence[Path]) -> None:
    names = ", ".join(printable(root) for root in roots)
    if summary.seen == 0:
        raise DataError(f"{names}: no images found; check the path, or see the formats in: sss ingest --help")
    if summary.failed == summary.seen:
        first = "; ".join(f"{failure.path}: {failure.reason}" for failure in summary.failures[:3])
        raise DataError(f"{names}: none of the {summary.seen} images can be used: {first}")

"""The middle of every ingest: planned files are decoded and embedded, in order, and passed on.

A batch is uint8, each file as the scan saw it or named with its reason. In one process this stands between the planner
and the committing thread (:mod:`ingest.pipeline`), and in each worker of a cluster (:mod:`ingest.distributed`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from ingest.scan import PlannedFile
from ingest.stages import Tally
from siamese_search.embedding import Stop, embed_images
from siamese_search.gallery.contract import Vectors
from siamese_search.io.location import FileStamp
from siamese_search.model.embedder import Embedder

_DECODE_AHEAD = 2  # batches


class Sink(Protocol):
    """Takes what was embedded: n files, float32 [n, d]."""

    def put(self, files: list[PlannedFile], vectors: Vectors) -> None: ...


def embed_files(
    batches: Iterable[Sequence[PlannedFile]],
    embedder: Embedder,
    sink: Sink,
    tally: Tally,
    *,
    threads: int,
    stop: Stop,
) -> bool:
    """Embed batches of planned files, in order; False when ``stop`` came first. It is looked at between two batches.

    Each file must be in the state that the scan saw: one that has been written since, or is being written, is a
    failure, because what the gallery says of it (size, mtime) would not be what was embedded. Failures and counts go
    to ``tally``, which is told to report after every step. threads: that decode.
    """
    waiting, ended = 0, False

    def planned() -> Iterator[Sequence[PlannedFile]]:
        nonlocal waiting, ended
        for files in batches:
            if files:
                waiting += 1
                yield files
            tally.report()
            if stop.is_set():
                return
        ended = True

    for done in embed_images(
        planned(),
        embedder,
        lambda file: file.scanned.record.path,
        camera_of=lambda file: file.scanned.record.camera,
        stamp_of=lambda file: FileStamp(file.scanned.size, file.scanned.mtime_ns),
        threads=threads,
        ahead=_DECODE_AHEAD,
        stop=stop,
    ):
        waiting -= 1
        tally.clock.add("decode", done.decoding)
        tally.clock.add("embed", done.embedding)
        for file, error in done.failures:
            tally.fail(file.scanned.record.path, error.reason)
        if done.items:
            tally.add(embedded=len(done.items))
            sink.put(done.items, done.vectors)
        tally.report()
    return ended and not waiting

"""Records become vectors: images decoded by a few threads while the model works on the batch before.

What is compared with what is decided before anything is embedded, and again without the images that could not be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import Failure, ImageRecord
from siamese_search.embedding import batches_of, embed_images
from siamese_search.errors import ImageError
from siamese_search.evaluation.options import EvaluateOptions
from siamese_search.evaluation.protocol import Protocol, all_vs_all, market
from siamese_search.io.images import content_of
from siamese_search.io.resources import available_cpus
from siamese_search.model.embedder import Embedder

#: Threads that decode; more only fight the model for the cores.
_MOST_THREADS = 4


@dataclass(frozen=True)
class Embedded:
    """``vectors`` float32 [n, d] of the records that could be read, ``rows`` int64 [n] of where those stand.

    ``digests``: SHA-256 of each of their files, [n].
    """

    vectors: NDArray[np.float32]
    rows: NDArray[np.int64]
    failed: list[Failure]
    digests: list[bytes]


def embed_records(
    records: Sequence[ImageRecord],
    embedder: Embedder,
    *,
    batch_size: int = 64,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Embed the images of ``records`` in their order; one that cannot be read is named and left out.

    threads: decoders, 0 = as many as there are CPUs, up to four. progress: called with images done (failures
    included) and their number. Pixels of two batches are in memory at once.
    """
    vectors: list[NDArray[np.float32]] = [np.empty((0, embedder.dim), np.float32)]
    rows: list[int] = []
    failed: list[Failure] = []
    digests: list[bytes] = []
    for found in embed_images(
        batches_of(range(len(records)), batch_size),
        embedder,
        lambda row: records[row].path,
        camera_of=lambda row: records[row].camera,
        threads=threads or min(_MOST_THREADS, available_cpus()),
    ):
        vectors.append(found.vectors)
        rows += found.items
        failed += [Failure.of(records[row].path, error.reason) for row, error in found.failures]
        digests += [_digest(records[row].path) for row in found.items]  # read a moment ago: from memory
        if progress is not None:
            progress(len(rows) + len(failed), len(records))
    return Embedded(np.concatenate(vectors), np.array(rows, dtype=np.int64), failed, digests)


def data_fingerprint(parts: Sequence[tuple[str, ImageRecord, bytes]]) -> str:
    """What was measured, as 64 hexadecimal digits: the same for the same images and labels on any machine.

    parts: of each image its side (``gallery`` or ``queries``), record and digest; in any order. SHA-256 over the
    sorted sides, keys, identities, cameras and digests, each with its length before it. Metadata, paths and
    times have no part.
    """
    whole = hashlib.sha256()
    for part in sorted((side, *_labels(record), digest) for side, record, digest in parts):
        for value in part:
            data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
            whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()


def _labels(record: ImageRecord) -> tuple[str, str, str]:
    """Key, identity and camera; one that is not known differs from one that is named ``""``."""
    identity, camera = ("unknown" if label is None else f"named {label}" for label in (record.identity, record.camera))
    return record.key, identity, camera


def _digest(path: Path) -> bytes:
    """SHA-256 of a file; nothing where it has gone since it was decoded."""
    try:
        return hashlib.sha256(content_of(path)).digest()
    except ImageError:
        return b""


def plan_of_survivors(
    plan: Protocol,
    records: Sequence[ImageRecord],
    queries: Sequence[ImageRecord] | None,
    embedded: Embedded,
    options: EvaluateOptions,
) -> tuple[Protocol, NDArray[np.float32], NDArray[np.float32]]:
    """The plan again, without the images that failed, with the vectors of its queries and of its gallery.

    Planning anew from *all* records less the failures keeps the counts of junk and unlabelled images. Of images of one
    identity with the same bytes the first stays, and none finds itself in another file, unless ``copies`` says so.
    """
    shown = plan.gallery if queries is None else [*plan.gallery, *plan.queries]
    ranked = len(plan.gallery)
    found = _Copies(shown, ranked, embedded)
    kept = set(embedded.rows.tolist())
    if not options.copies:
        kept -= found.later
    # By side: a copy that leaves the queries may be the first of its kind in the gallery.
    places = [(row >= ranked, id(record)) for row, record in enumerate(shown)]
    gone = set(places) - {places[row] for row in kept}
    survivors = [record for record in records if (False, id(record)) not in gone]
    if queries is None:
        again = all_vs_all(survivors, use_cameras=options.use_cameras)
    else:
        asked = [record for record in queries if (True, id(record)) not in gone]
        same = None if options.copies else found.content
        again = market(asked, survivors, use_cameras=options.use_cameras, same=same)
    at = {id(shown[row]): place for place, row in enumerate(embedded.rows.tolist())}
    asked_rows, ranked_rows = ([at[id(one)] for one in side] for side in (again.queries, again.gallery))
    vectors = embedded.vectors
    return found.counted(again, options.copies), vectors[asked_rows], vectors[ranked_rows]


class _Copies:
    """Which of these records are copies: the same bytes under the same identity. ranked: how many are the gallery's.

    later: rows of those that repeat an earlier one of their side.
    """

    def __init__(self, records: Sequence[ImageRecord], ranked: int, embedded: Embedded) -> None:
        self._digests: dict[int, bytes] = {}
        sides: dict[tuple[str | None, bytes], list[list[int]]] = {}
        for row, digest in zip(embedded.rows.tolist(), embedded.digests, strict=True):
            if digest:
                self._digests[id(records[row])] = digest
                sides.setdefault((records[row].identity, digest), [[], []])[row >= ranked].append(row)
        self.later = {row for pair in sides.values() for side in pair for row in side[1:]}
        asks = ranked < len(records)  # queries of their own
        self._copied = sum(
            len(queries) if gallery or len(queries) > 1 else 0
            for gallery, queries in ((pair if asks else (pair[0][1:], pair[0])) for pair in sides.values())
        )

    def content(self, record: ImageRecord) -> object:
        """What a record has in common with its copies."""
        return self._digests.get(id(record), record.path)

    def counted(self, plan: Protocol, kept: bool) -> Protocol:
        """The plan with the counts of copies."""
        counts = replace(plan.excluded, copied=self._copied, copies=0 if kept else len(self.later))
        return replace(plan, excluded=counts)

"""Planner: scanned files become batches to embed; what needs no embedding is settled on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np

from ingest.commit import write
from ingest.plan import PlannedFile, plan_files
from ingest.prefetch import prefetch
from ingest.scan import ScannedFile
from ingest.stages import Clock, Tally
from siamese_search.gallery.base import Gallery
from siamese_search.gallery.checksums import vector_crc

_SCAN_AHEAD = 2  # chunks


class Planner:
    """Looks each chunk up in the gallery. All of it happens in the thread that iterates over :meth:`batches`."""

    def __init__(
        self, gallery: Gallery, tally: Tally, clock: Clock, *, reembed: bool, checksum: bool
    ) -> None:
        self._gallery, self._tally, self._clock = gallery, tally, clock
        self._options = {"reembed": reembed, **({"checksum": True} if checksum else {})}

    def batches(self, chunks: Iterable[list[ScannedFile]], size: int) -> Iterator[list[PlannedFile]]:
        """Lists of ``size`` files to embed (the last one: fewer), in order; after a chunk without any an empty
        one, so that whoever waits can show how far we are.

        chunks: from the scan, which runs in a thread of its own, at most two chunks ahead.
        """
        batch: list[PlannedFile] = []
        with closing(prefetch(self._clock.timed("scan", chunks), _SCAN_AHEAD)) as ahead:
            for chunk in ahead:
                idle = True
                for planned in self._to_embed(chunk):
                    batch.append(planned)
                    if len(batch) == size:
                        yield batch
                        batch, idle = [], False
                if idle:
                    yield []
        self._tally.scanned = True
        if batch:
            yield batch

    def _to_embed(self, chunk: list[ScannedFile]) -> list[PlannedFile]:
        """Those of the chunk that must be embedded; the others are counted, and written where need be."""
        self._tally.add(seen=len(chunk))
        usable = []
        for scanned in chunk:
            if scanned.reason is None:
                usable.append(scanned)
            else:
                self._tally.fail(scanned.record.path, scanned.reason)
        with self._clock.busy("plan"):
            planned = plan_files(usable, self._gallery, **self._options)
            to_embed = [one for one in planned if one.action in ("new", "changed")]
            relabelled = [one for one in planned if one.action == "relabelled"]
            self._tally.add(unchanged=len(planned) - len(to_embed) - len(relabelled))
        if relabelled:
            with self._clock.busy("commit"):
                to_embed += self._relabel(relabelled)
        return to_embed

    def _relabel(self, files: Sequence[PlannedFile]) -> list[PlannedFile]:
        """Replace payloads and keep the vectors; returns the files whose vector is damaged, to be embedded."""
        kept, vectors, damaged = [], [], []
        stored = self._gallery.retrieve([file.id for file in files], with_vectors=True)
        for file, point in zip(files, stored, strict=True):
            # Written back, a damaged vector would get a new checksum and pass for sound.
            if point is None or point.vector is None or vector_crc(point.vector) != point.payload.get("crc"):
                damaged.append(file)
            else:
                kept.append(file)
                vectors.append(point.vector)
        if kept:
            write(self._gallery, kept, np.stack(vectors), self._tally)
        return damaged

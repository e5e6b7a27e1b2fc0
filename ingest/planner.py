"""Planner: scanned files become batches to embed; what needs no embedding is settled on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np

from ingest.commit import write
from ingest.moves import settle_moves
from ingest.plan import plan_files
from ingest.scan import PlannedFile, ScannedFile
from ingest.stages import Clock, Tally, prefetch
from siamese_search.gallery.checks import vector_crc
from siamese_search.gallery.contract import Gallery, Vectors

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
            groups: dict[str, list[PlannedFile]] = {}
            for one in planned:
                groups.setdefault(one.action, []).append(one)
        self._tally.add(unchanged=len(groups.pop("unchanged", ())))
        moved = groups.pop("moved", [])
        relabelled = groups.pop("relabelled", []) + groups.pop("refreshed", [])
        to_embed = [one for one in planned if one.action in groups]
        if moved or relabelled:
            with self._clock.busy("commit"):
                to_embed += self._relabel(relabelled)
                to_embed += self._move(moved)
        return to_embed

    def _relabel(self, files: Sequence[PlannedFile]) -> list[PlannedFile]:
        """Replace payloads and keep the vectors; returns the files whose vector is damaged, to be embedded."""
        if not files:
            return []
        kept, vectors, damaged = self._sound(files, [file.id for file in files])
        if kept:
            write(self._gallery, kept, vectors, self._tally)
        return damaged

    def _move(self, files: Sequence[PlannedFile]) -> list[PlannedFile]:
        """The same for files whose vector lies at the point that they come from, which ends."""
        if not files:
            return []
        kept, vectors, damaged = self._sound(files, [file.vector_id for file in files])
        if kept:
            refused = settle_moves(self._gallery, kept, vectors)
            self._tally.add(moved=len(kept) - len(refused))
            for file, reason in refused:
                self._tally.fail(file.scanned.record.path, reason)
        # Embedded, it is as good as moved; the next run with checksums ends the old point.
        return [replace(file, action="new") for file in damaged]

    def _sound(
        self, files: Sequence[PlannedFile], ids: Sequence[str]
    ) -> tuple[list[PlannedFile], Vectors, list[PlannedFile]]:
        """The files whose stored vector (of the point in ``ids``) is sound, with these, float32 [n, d]; the others.

        Written back, a damaged vector would get a new checksum and pass for sound.
        """
        kept, vectors, damaged = [], [], []
        for file, point in zip(files, self._gallery.retrieve(ids, with_vectors=True), strict=True):
            if point is None or point.vector is None or vector_crc(point.vector) != point.payload.get("crc"):
                damaged.append(file)
            else:
                kept.append(file)
                vectors.append(point.vector)
        return kept, np.stack(vectors) if vectors else np.empty((0, 0), np.float32), damaged

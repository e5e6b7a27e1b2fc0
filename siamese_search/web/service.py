"""GalleryService: all that the pages and the API do with a gallery, over one handle that stays open; and the overview
of a whole gallery, of which what takes seconds is kept until the gallery changes."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, cast

from siamese_search.api import curation, maintenance, retrieval
from siamese_search.api.handle import GalleryHandle
from siamese_search.errors import SiameseSearchError, StoreBusyError, printable
from siamese_search.gallery import open_store
from siamese_search.gallery.contract import Gallery
from siamese_search.io.files import expanded, read_json, read_regular
from siamese_search.io.location import protocol_of
from siamese_search.model.bundle import Bundle
from siamese_search.model.calibration import Calibration
from siamese_search.model.embedder import Embedder
from siamese_search.options import StrPath
from siamese_search.retrieval.judging import gallery_calibration
from siamese_search.retrieval.map import STOPS, colouring, placed
from siamese_search.web.answers import Cluster, GalleryFacts
from siamese_search.web.holdings import Holdings
from siamese_search.web.labelling import Labels
from siamese_search.web.options import Limits, ServeOptions
from siamese_search.web.reviewing import Review
from siamese_search.web.searching import Searching, mark_of


class GalleryService:
    """Its parts, each thread-safe, and what becomes of the server itself. Every failure is a SiameseSearchError of one
    line: NotThereError for what does not exist (404), RefusedError for what is not done (409).

    Where they take ``where``, it is filters as on the command line, ``["camera=2", "frame>=100"]``, joined by AND.
    """

    def __init__(self, options: ServeOptions, limits: Limits | None = None) -> None:
        self.options = options
        self.limits = limits or Limits()
        self._handle = GalleryHandle(options.store, options.gallery, options.model, options.threads)
        self.name, store = self._handle.gallery, self._handle.store
        #: As a command names this gallery, in whatever directory it is typed.
        named = store if protocol_of(store) else str(expanded(store).absolute())
        self.place = ("--store", named, "--gallery", self.name)
        self.trouble: str | None = "starting"
        self.searching = Searching(self._handle, self.limits)
        self.holdings = Holdings(self._handle)
        self.labels = Labels(self._handle, self.limits, options.read_only)
        self.review = Review(self._handle, self.labels)
        self.overview = Overview(self._handle, options)

    def warm(self) -> None:
        """Open the gallery and load the network."""
        try:
            self._handle.reading(lambda gallery, _, __: gallery.count())
            self.trouble = None
        except SiameseSearchError as error:
            self.trouble = str(error)

    def ready(self) -> str | None:
        """Why there is no answer yet; ``None`` when there is one."""
        if self.trouble is not None:
            self.warm()
        return self.trouble

    def close(self) -> None:
        """Release gallery and network."""
        self._handle.close()


_KEPT = 8
_MOST_FAILURES = 1000
_MOST_BYTES = 64 << 20
#: Seconds to wait for another visitor's map or clusters.
_PATIENCE = 60.0

Made = TypeVar("Made")


class Overview:
    """What is asked of a gallery as a whole."""

    def __init__(self, handle: GalleryHandle, options: ServeOptions) -> None:
        self._handle, self._options = handle, options
        self._place: dict[str, Any] = {"store": handle.store, "gallery": handle.gallery}
        self._made: OrderedDict[Hashable, tuple[object, Any]] = OrderedDict()
        self._one = threading.Lock()

    def clusters(
        self, *, where: Sequence[str] = (), labelled: bool = False, least: float | None = None
    ) -> list[Cluster]:
        """Proposed identities, as of ``sss cluster`` (kept until the gallery changes)."""

        def make() -> list[Cluster]:
            how: dict[str, Any] = {"model": self._options.model, **({} if least is None else {"least": least})}
            found = curation.propose_identities(**self._place, **how, where=list(where), labelled=labelled)
            rows: dict[int, list[Any]] = {}
            for one in found.images:
                rows.setdefault(one.cluster, []).append(one)
            members = {n: tuple((one.id, one.existing, one.confidence) for one in rows[n]) for n in rows}
            return [Cluster(n, rows[n][0].status, rows[n][0].proposed, members[n]) for n in rows]

        return self._once(("clusters", tuple(where), labelled, least), make)

    def gallery_map(
        self, *, color: str = "identity", method: str = "pca", where: Sequence[str] = (), limit: int = 2000
    ) -> dict[str, Any]:
        """The JSON of ``sss plot``; each point also has ``id``, ``color`` (``#rrggbb``) and ``entry``, its place in
        ``legend``: ``[{"label", "color", "count"}]``, the most frequent ``first``, or -1. Where colours stand for
        numbers there are ``scale`` (low, high) and ``stops``. x, y: 0 to 1.
        """

        def make() -> dict[str, Any]:
            found = retrieval.map_gallery(**self._place, color=color, method=method, where=list(where), limit=limit)
            colours = colouring(found)
            answer = found.to_json()
            of_points = zip(found.points, colours.colours, colours.codes, placed(found.places).tolist(), strict=True)
            for point, (at, colour, code, (x, y)) in zip(answer["points"], of_points, strict=True):
                point |= {"id": at.id, "color": colour, "entry": code, "x": round(x, 6), "y": round(y, 6)}
            legend = {"legend": list(map(asdict, colours.entries)), "first": colours.first}
            return answer | legend | {"scale": colours.scale, "stops": STOPS}

        return self._once(("map", color, method, tuple(where), limit), make)

    def galleries(self) -> dict[str, Any]:
        """What the store holds: ``galleries`` of ``sss info --json``. The one that is served stays as it is open."""
        found: list[dict[str, Any]] = []
        with open_store(self._handle.store) as store:
            for name in store.names():
                if name == self._handle.gallery:
                    found.append(self.info().facts)
                else:
                    found += maintenance.galleries(store=store.location, gallery=name)["galleries"]
            return {"store": store.location, "galleries": found}

    def info(self) -> GalleryFacts:
        """Counts, model, calibration, storage, failures, evaluation."""

        def ask(gallery: Gallery, _: Embedder, bundle: Bundle) -> tuple[dict[str, Any], Bundle, Calibration | None]:
            with open_store(self._handle.store) as store:
                known = gallery_calibration(gallery) or bundle.calibration
                return maintenance.facts_of(store, gallery), bundle, known

        facts, bundle, known = self._handle.reading(ask)
        notes = [facts["no_verdict"]] if facts["no_verdict"] else []
        named, report = self._options.ingest_failures, self._options.evaluation
        failures, total = self._noted(named, "failures of an ingest", _failures, notes) or (None, None)
        return GalleryFacts(
            facts,
            maintenance.model_facts(bundle),
            None if known is None else known.to_json(),
            failures,
            total,
            self._noted(report, "report of an evaluation", _evaluation, notes),
            tuple(notes),
        )

    def _noted(self, named: StrPath | None, what: str, read: Callable[[Path], Made], notes: list[str]) -> Made | None:
        """What a file holds, read anew each time; ``None`` for no file, or where a note says what is wrong."""
        if named is None:
            return None
        try:
            return read(Path(named))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            why = " ".join((getattr(error, "strerror", None) or str(error)).split())
            notes.append(f"{printable(named)}: not the {what}: {printable(why)[:160]}")
            return None

    def _once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What was made for this key before, unless the gallery has changed; one at a time is made."""
        mark = self._handle.reading(lambda gallery, _, __: mark_of(gallery))
        if not self._one.acquire(timeout=_PATIENCE):
            raise StoreBusyError("others are drawing a map or clusters just now; ask again in a minute")
        try:
            held = self._made.get(key)
            made = held[1] if held is not None and held[0] == mark and mark[-1] is not None else make()
            self._made[key] = (mark, made)
            self._made.move_to_end(key)
            while len(self._made) > _KEPT:
                self._made.popitem(last=False)
            return cast(Made, made)
        finally:
            self._one.release()


def _failures(path: Path) -> tuple[tuple[dict[str, str], ...], int]:
    """The first that ``sss ingest --failures`` listed, and how many there are."""
    lines = read_regular(path, _MOST_BYTES).decode("ascii").splitlines()
    rows = [json.loads(line) for line in lines[:_MOST_FAILURES]]
    return tuple({"path": str(one["path"]), "reason": str(one["reason"])} for one in rows), len(lines)


def _evaluation(path: Path) -> dict[str, Any]:
    found = read_json(path, _MOST_BYTES)
    if not isinstance(found, dict) or "rank1" not in found:
        raise ValueError("it has no rank1")
    return found

"""The review: images without identity, each with whom it may show, the least certain first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from siamese_search.api.handle import GalleryHandle
from siamese_search.errors import UsageError, printable
from siamese_search.gallery.checks import vector_of
from siamese_search.gallery.contract import Gallery, StoredPoint
from siamese_search.gallery.filters import Condition, Where, parse_where
from siamese_search.gallery.times import bind_to
from siamese_search.model.bundle import Bundle
from siamese_search.model.embedder import Embedder
from siamese_search.retrieval.options import SearchOptions
from siamese_search.retrieval.ranking import group_key
from siamese_search.web.answers import Candidate, Edit, ReviewItem, ReviewQueue
from siamese_search.web.labelling import Labels
from siamese_search.web.searching import mark_of, point_of

#: Images that wait in one queue; the others follow when these are decided.
_MOST = 1000
#: Nearest images that are looked at for each, and identities that are proposed.
_NEAREST, _PROPOSED = 30, 5
_FIELDS = ("identity", "camera", "key")


@dataclass(slots=True)
class _Near:
    """One image that waits and its nearest: (point id, score), as long as no vector changes."""

    point: StoredPoint
    nearest: list[tuple[str, float]]


@dataclass(slots=True)
class _Table:
    """The queue for some filters. mark: the gallery's, when it was made."""

    mark: tuple[object, ...]
    rows: list[_Near]
    unlabelled: int
    known: dict[str, StoredPoint] = field(default_factory=dict)


class Review:
    """What was answered no or skipped is kept until the server ends, and can be undone like any edit."""

    def __init__(self, handle: GalleryHandle, labels: Labels) -> None:
        self._handle, self._labels = handle, labels
        self._refused: dict[str, set[str]] = {}
        self._skipped: dict[str, int] = {}
        self._lock = threading.Lock()
        self._table: tuple[tuple[str, ...], _Table] | None = None

    def queue(self, *, where: Sequence[str] = (), limit: int = 20) -> ReviewQueue:
        """Images without identity, the least certain first."""
        raw = parse_where(where)

        def answer(gallery: Gallery, _embedder: Embedder, bundle: Bundle) -> ReviewQueue:
            bound = bind_to(gallery, raw)
            table = self._of(gallery, tuple(where), bound)
            judge = self._handle.judge(gallery, bundle, SearchOptions())
            calibration, prior = judge.calibration, judge.prior
            chance: Callable[[float], float | None] = (
                (lambda _score: None) if calibration is None else lambda s: calibration.probability(s, prior)
            )
            items = []
            for row in table.rows:
                point, candidates = row.point, self._candidates(row, table.known, chance)
                sure = _uncertainty(candidates)
                items.append(ReviewItem(point.id, point.key, point.camera, point.identity, candidates, sure))
            items.sort(key=lambda one: (self._skipped.get(one.point, 0), one.uncertainty, one.point))
            return ReviewQueue(tuple(items[:limit]), len(items), table.unlabelled, calibration is not None)

        return self._handle.reading(answer)

    def _candidates(
        self, row: _Near, known: dict[str, StoredPoint], chance: Callable[[float], float | None]
    ) -> tuple[Candidate, ...]:
        """The best image of each identity, and of each image without one, less those that were refused."""
        refused = self._refused.get(row.point.id, set())
        best: dict[str, Candidate] = {}
        for identifier, score in row.nearest:
            if (point := known.get(identifier)) is None:
                continue
            name = point.identity if point.is_somebody else None
            group = group_key(point)
            if group not in refused and group not in best and (name is not None or point.identity is None):
                best[group] = Candidate(identifier, name, point.camera, score, chance(score))
        return tuple(best.values())[:_PROPOSED]

    def _of(self, gallery: Gallery, where: tuple[str, ...], bound: Where) -> _Table:
        """The table, made anew once the gallery has changed; its neighbours stay where only labels have."""
        mark = mark_of(gallery)
        with self._lock:
            held = self._table
        if held is not None and held[0] == where and held[1].mark == mark and mark[2] is not None:
            return held[1]
        waiting, unlabelled = _without_identity(gallery, bound)
        same = held is not None and held[0] == where and held[1].mark[:2] == mark[:2]
        former = {row.point.id: row for row in held[1].rows} if held is not None and same else {}
        rows, lacking = [], []
        for point in waiting:
            before = former.get(point.id)
            if before is not None and before.point.payload.get("crc") == point.payload.get("crc"):
                rows.append(_Near(point, before.nearest))
            else:
                lacking.append(point)
        if lacking:
            vectors = np.stack([vector_of(gallery, point) for point in lacking])
            found = gallery.query_batch(vectors, _NEAREST + 1, with_payload=False)
            for point, hits in zip(lacking, found, strict=True):
                rows.append(_Near(point, [(hit.id, hit.score) for hit in hits if hit.id != point.id]))
        near = sorted({identifier for row in rows for identifier, _ in row.nearest})
        known = {one.id: one for one in gallery.retrieve(near) if one is not None}
        table = _Table(mark, rows, unlabelled, known)
        with self._lock:
            self._table = (where, table)
        return table

    def answer(self, answer: str, point: str, candidate: str = "") -> Edit:
        """``yes``: the image shows whom the image ``candidate`` shows, and where neither is known, a new identity;
        ``no``: it does not, and the next candidate is asked about; ``new``: somebody new; ``skip``: it comes last.
        """
        if answer in ("yes", "no") and not candidate:
            raise UsageError(f"a {answer} needs the candidate that it is about")
        if answer == "yes":
            return self._labels.same(point, candidate)
        if answer == "no":
            return self._no(point, candidate)
        if answer == "new":
            return self._labels.new(point)
        if answer == "skip":
            return self._skip(point)
        raise UsageError(f"an answer is yes, no, new or skip, not {printable(answer)[:60]!r}")

    def _no(self, point: str, candidate: str) -> Edit:
        identifier, other = point_of(point), point_of(candidate)

        def look(gallery: Gallery, _embedder: Embedder, _bundle: Bundle) -> tuple[str, str]:
            one, two = self._labels.found(gallery, [identifier, other])
            name = two.identity if two.is_somebody else None
            return group_key(two), f"{one.key} is not {name or two.key}"

        group, what = self._handle.reading(look)
        edit = self._labels.remember(what, lambda: self._refused[identifier].discard(group))
        self._refused.setdefault(identifier, set()).add(group)
        return edit

    def _skip(self, point: str) -> Edit:
        identifier = point_of(point)

        key = self._handle.reading(lambda gallery, _, __: self._labels.found(gallery, [identifier])[0].key)
        before = self._skipped.get(identifier, 0)
        edit = self._labels.remember(f"left {key} for later", lambda: self._skipped.update({identifier: before}))
        self._skipped[identifier] = max(self._skipped.values(), default=0) + 1
        return edit


def _uncertainty(candidates: Sequence[Candidate]) -> float:
    if not candidates:
        return 1.0  # nobody to ask about: last
    first = candidates[0]
    if first.probability is not None:
        return abs(first.probability - 0.5)
    return first.score - candidates[1].score if len(candidates) > 1 else 1.0 - first.score


def _without_identity(gallery: Gallery, bound: Where) -> tuple[list[StoredPoint], int]:
    """The images to decide about, by ascending id, and how many there are."""
    unlabelled = gallery.count(bound)
    if "identity" in gallery.fields():
        unlabelled -= gallery.count([*bound, Condition("identity", "present")])
    if not unlabelled:
        return [], 0
    points = gallery.scroll(bound, fields=("identity",), batch=5000)
    ids = list(islice((point.id for point in points if point.identity is None), _MOST))
    return [one for one in gallery.retrieve(ids, with_vectors=True) if one is not None], unlabelled

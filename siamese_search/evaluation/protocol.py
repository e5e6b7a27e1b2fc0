"""Evaluation protocols: which images are queries, which are the gallery, and what each rule leaves out.

``all_vs_all``  one set: every image of a named identity is a query against all the other images.
``market``      two sets, as in Market-1501: the queries are ranked against a separate gallery.

Both follow the same rules. Images without an identity are left out (nobody can say whether they match).
Junk (``-1``) leaves the ranking, distractors (``0000``) stay in it as negatives and are no queries. With the
same-camera rule, gallery images of the query's identity *and* camera leave its ranking: near-duplicate
frames would make any model look good. Without it ("no cameras") only the query itself leaves.

Here alone are labels coded, as integers, and the rules applied: every metric takes a :class:`Labels`, and a
:class:`Protocol` is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import DISTRACTOR_IDENTITY, JUNK_IDENTITY, ImageRecord
from siamese_search.errors import DataError, amount

#: Codes of the reserved identities; all others are ascending numbers from 0.
DISTRACTOR, JUNK = -1, -2


@dataclass(frozen=True)
class Labels:
    """The labels of q queries and g gallery images.

    query_identity int64 [q], gallery_identity int64 [g]: from 0, or :data:`DISTRACTOR` or :data:`JUNK`.
    query_camera int64 [q], gallery_camera int64 [g]: from 0, or -1 where unknown, which never leaves anything out.
    same_image int64 [q]: each query's own place in the gallery, or -1.
    """

    query_identity: NDArray[np.int64]
    gallery_identity: NDArray[np.int64]
    query_camera: NDArray[np.int64]
    gallery_camera: NDArray[np.int64]
    same_image: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        query_ids: Sequence[str],
        gallery_ids: Sequence[str],
        query_cameras: Sequence[str | None] | None = None,
        gallery_cameras: Sequence[str | None] | None = None,
        *,
        same_image: NDArray[np.int64] | None = None,
    ) -> Labels:
        """From names. Cameras: ``None`` for either side switches the same-camera rule off.

        Raises ValueError for lengths that do not fit and for a place outside the gallery.
        """
        queries, gallery = len(query_ids), len(gallery_ids)
        own = np.full(queries, -1, np.int64) if same_image is None else np.asarray(same_image, np.int64)
        check_length(own, queries, "same_image")
        if own.size and (own.min() < -1 or own.max() >= gallery):
            raise ValueError(f"same_image must lie between -1 and {gallery - 1}")
        if query_cameras is None or gallery_cameras is None:
            query_cameras, gallery_cameras = [None] * queries, [None] * gallery
        check_length(query_cameras, queries, "query_cameras")
        check_length(gallery_cameras, gallery, "gallery_cameras")
        reserved: dict[str | None, int] = {DISTRACTOR_IDENTITY: DISTRACTOR, JUNK_IDENTITY: JUNK}
        return cls(*_codes(query_ids, gallery_ids, reserved), *_codes(query_cameras, gallery_cameras, {None: -1}), own)

    @classmethod
    def within(cls, ids: Sequence[str], cameras: Sequence[str | None] | None = None) -> Labels:
        """One set in which every image is a query against all the others."""
        return cls.of(ids, ids, cameras, cameras, same_image=np.arange(len(ids)))

    def between(self, queries: NDArray[np.int64], gallery: NDArray[np.int64]) -> Labels:
        """Some of the queries against some of the gallery, nothing left out for its camera or for being itself."""
        nowhere = np.full(len(queries), -1, np.int64)
        return Labels(
            self.query_identity[queries],
            self.gallery_identity[gallery],
            nowhere,
            np.full(len(gallery), -1, np.int64),
            nowhere,
        )

    def members(self, query: int) -> NDArray[np.int64]:
        """The ascending places of this query's identity, int64 [n]; none for a reserved one."""
        identity = int(self.query_identity[query])
        return self._members[identity] if identity >= 0 else np.empty(0, np.int64)

    def left_out(self, query: int, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these places leave the ranking of this query, bool [n]; junk aside."""
        leaves = places == self.same_image[query]
        if self.query_camera[query] >= 0:
            leaves |= (self.gallery_identity[places] == self.query_identity[query]) & (
                self.gallery_camera[places] == self.query_camera[query]
            )
        return np.asarray(leaves, dtype=bool)

    def matches(self, query: int) -> int:
        """How many places match this query after the exclusions."""
        members = self.members(query)
        return int(members.size - self.left_out(query, members).sum())

    @cached_property
    def _members(self) -> list[NDArray[np.int64]]:
        """The places of each identity, so that a query's matches need no pass over the gallery."""
        order = np.argsort(self.gallery_identity, kind="stable")
        most = max(self.query_identity.max(initial=-1), self.gallery_identity.max(initial=-1))
        starts = np.searchsorted(self.gallery_identity[order], np.arange(most + 2))
        return [order[start:stop] for start, stop in pairwise(starts)]


def check_length(values: Sequence[object] | NDArray[np.int64], expected: int, name: str) -> None:
    """Raise ValueError for another length."""
    if len(values) != expected:
        raise ValueError(f"{name} has {len(values)} entries, not {expected}")


def _codes(
    left: Sequence[str | None], right: Sequence[str | None], reserved: dict[str | None, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Names as numbers that agree between both sides."""
    codes = dict(reserved)
    for name in (*left, *right):
        codes.setdefault(name, len(codes) - len(reserved))
    first, second = (np.array([codes[name] for name in side], dtype=np.int64) for side in (left, right))
    return first, second


ALL_VS_ALL = "all_vs_all"
MARKET = "market"


@dataclass(frozen=True, slots=True)
class ExclusionCounts:
    """What each rule did. The first three count images, the next two pairs, the others queries, the last again images.

    ``same_camera`` counts (query, gallery image) pairs that would have been matches but share the camera;
    ``itself`` counts queries that were found in the gallery. A query without a match left is invalid, either
    because it has none at all (``no_match``) or because all share its camera (``same_camera_only``). ``copied`` queries
    have a copy, the same bytes under the same identity, among the others; ``copies`` of images were left out for that.
    """

    unlabelled: int
    junk: int
    distractors: int
    same_camera: int
    itself: int
    no_match: int
    same_camera_only: int
    copied: int = 0
    copies: int = 0


@dataclass(frozen=True)
class Protocol(Labels):
    """Queries and gallery as chosen, in the order of the records given. Their labels as numbers are :class:`Labels`'.

    ``use_cameras`` is whether the same-camera rule has any effect: asked for, and cameras are known.
    """

    name: str
    use_cameras: bool
    queries: list[ImageRecord]
    gallery: list[ImageRecord]
    excluded: ExclusionCounts

    @property
    def query_ids(self) -> list[str]:
        return [record.identity or "" for record in self.queries]

    @property
    def gallery_ids(self) -> list[str]:
        return [record.identity or "" for record in self.gallery]

    def explain(self) -> list[str]:
        """What was left out and by which rule, one line for people each; empty if nothing was."""
        counts = self.excluded
        rule = "the same-camera rule"
        copies = "left out (--copies keeps it)" if counts.copies else "which counts as a right answer"
        lines = [
            (counts.unlabelled, "images without an identity left out: nobody can say what matches them"),
            (counts.junk, "junk images (identity -1) left out of every ranking"),
            (counts.distractors, "distractor images (identity 0000) ranked, always as negatives"),
            (counts.itself, "queries left out of their own ranking"),
            (counts.same_camera, f"matches left out by {rule}: same identity and camera as the query"),
            (counts.no_match, "queries invalid: no other image of their identity"),
            (counts.same_camera_only, f"queries invalid: {rule} took every match (--no-cameras keeps them)"),
            (counts.copied, f"queries have a copy (the same bytes) among the others, {copies}"),
        ]
        return [f"{count:,} {text}" for count, text in lines if count]

    def require_valid_query(self) -> None:
        """Raise DataError, saying what to do, where no query has a match that it could find."""
        counts, total, copies = self.excluded, len(self.queries), ""
        if counts.copies:
            copies = f"; {amount(counts.copies, 'copy')} of the same bytes left out (--copies keeps them)"
        if total == 0:
            raise DataError(
                "nothing to evaluate: no image has a named identity; give them by folders, a CSV or --pattern"
            )
        if counts.no_match + counts.same_camera_only < total:
            return
        if counts.same_camera_only == 0:
            raise DataError(
                f"nothing to evaluate: none of {amount(total, 'query')} has another image of its identity{copies}"
            )
        who = "every query" if counts.no_match == 0 else "every query that had a match"
        raise DataError(f"{who} lost its matches to the same-camera rule: use --no-cameras{copies}")


def all_vs_all(records: Sequence[ImageRecord], *, use_cameras: bool = True) -> Protocol:
    """One set of images: each one of a named identity is a query against all the others."""
    gallery, left_out = _rankable(records)
    places = [place for place, record in enumerate(gallery) if record.is_somebody]
    asked = [gallery[place] for place in places]
    return _protocol(ALL_VS_ALL, use_cameras, asked, gallery, np.array(places, dtype=np.int64), left_out)


def market(
    queries: Sequence[ImageRecord],
    gallery: Sequence[ImageRecord],
    *,
    use_cameras: bool = True,
    same: Callable[[ImageRecord], object] | None = None,
) -> Protocol:
    """Two sets: queries against a gallery. A query whose file is in the gallery too does not find itself.

    same: what equal images have in common. By default files are compared as files: a link, or another spelling of the
    path, does not make a second image.
    """
    same = same or _file
    named, query_left_out = _rankable(queries)
    ranked, gallery_left_out = _rankable(gallery)
    asked = [record for record in named if record.is_somebody]
    places = {same(record): place for place, record in enumerate(ranked)}
    same_image = np.array([places.get(same(record), -1) for record in asked], dtype=np.int64)
    left_out = query_left_out + gallery_left_out
    return _protocol(MARKET, use_cameras, asked, ranked, same_image, left_out)


def _file(record: ImageRecord) -> tuple[int, int] | Path:
    """What makes a file the same file: device and inode, or its path where it is not on this machine."""
    try:
        status = record.path.stat()
    except (OSError, ValueError):
        return record.path
    return status.st_dev, status.st_ino


def told(record: ImageRecord) -> str:
    """An identity for :meth:`Labels.of`: a person who is called like a reserved one is told from it."""
    return f"={record.identity}" if record.is_somebody else record.identity or ""


def _rankable(records: Sequence[ImageRecord]) -> tuple[list[ImageRecord], Counter[str]]:
    """The images that may stand in a ranking, and how many others there are of each kind."""
    kinds = Counter[str]()
    found: list[ImageRecord] = []
    for record in records:
        if record.identity is None:
            kinds["unlabelled"] += 1
        elif record.reserved == JUNK_IDENTITY:
            kinds["junk"] += 1
        else:
            found.append(record)
    return found, kinds


def _protocol(
    name: str,
    use_cameras: bool,
    queries: list[ImageRecord],
    gallery: list[ImageRecord],
    same_image: NDArray[np.int64],
    left_out: Counter[str],
) -> Protocol:
    asked, ranked = [[told(record) for record in side] for side in (queries, gallery)]
    cameras = [[record.camera for record in side] for side in (queries, gallery)]
    effective = use_cameras and all(any(one is not None for one in side) for side in cameras)
    by_identity = Counter(ranked)
    by_camera = Counter(zip(ranked, cameras[1], strict=True))
    same_camera = no_match = same_camera_only = 0
    for query, who, own in zip(queries, asked, same_image.tolist(), strict=True):
        itself = own >= 0 and ranked[own] == who
        matches = by_identity[who] - itself
        lost = 0
        if effective and query.camera is not None:
            lost = by_camera[who, query.camera]
            lost -= itself and gallery[own].camera == query.camera
        same_camera += lost
        no_match += matches == 0
        same_camera_only += matches > 0 and matches == lost
    counts = ExclusionCounts(
        unlabelled=left_out["unlabelled"],
        junk=left_out["junk"],
        distractors=by_identity[DISTRACTOR_IDENTITY],
        same_camera=same_camera,
        itself=int((same_image >= 0).sum()),
        no_match=no_match,
        same_camera_only=same_camera_only,
    )
    labels = Labels.of(asked, ranked, *(cameras if effective else ()), same_image=same_image)
    return Protocol(**vars(labels), name=name, use_cameras=effective, queries=queries, gallery=gallery, excluded=counts)

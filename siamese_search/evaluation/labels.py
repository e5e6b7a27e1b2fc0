"""Labels: identities and cameras of queries and gallery as integers, and which of them leave a query's ranking.

The one place where labels are coded and the rules of the protocols are applied; every metric takes a Labels, and a
:class:`~siamese_search.evaluation.protocol.Protocol` is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import DISTRACTOR_IDENTITY, JUNK_IDENTITY

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
        return cls(
            *_codes(query_ids, gallery_ids, reserved),
            *_codes(query_cameras, gallery_cameras, {None: -1}),
            own,
        )

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
    return (
        np.array([codes[name] for name in left], dtype=np.int64),
        np.array([codes[name] for name in right], dtype=np.int64),
    )

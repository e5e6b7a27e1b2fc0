"""Duplicates: groups of a gallery's points that are the same picture, and which of each to keep. Deletes nothing.

Vectors say which pairs to look at, files decide: by bytes, else by what they show. Where a file cannot be read, only
vectors that agree to the last digits count, and the group says so.

Measured on Market-1501 (128×64): copies re-encoded at JPEG quality 30, halved, doubled or 10 % brighter correlate with
their original by 0.9963 or more; of the 600 pairs of different images that embed closest the nearest reach 0.9174.
Whole frames of one camera correlate by 0.99 whoever stands in them, so nowhere may two pictures differ much: their
largest difference in a sixteenth of a side is 0.20 standard deviations at most for those copies, and 0.29 at least
where another person fills a sixteenth of the width and a quarter of the height. A smaller one cannot be told so; two
identities therefore are the same picture only where all bytes are.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_search.errors import ImageError
from siamese_search.gallery.checks import vector_of
from siamese_search.gallery.contract import Gallery, StoredPoint
from siamese_search.gallery.filters import Where
from siamese_search.io.images import content_of, read_image
from siamese_search.options import Progress
from siamese_search.vectors.near_pairs import near_pairs

#: Correlation of two pictures from which on they count as the same one.
SAME = 0.97
#: Largest difference of the same picture anywhere, in its standard deviations.
APART = 0.25
#: Pixels of a thumbnail's side, whatever the shape of the picture.
_SIDE = 32
#: Standard deviation, in grey levels, below which a picture is blank, and the mean difference of two blank ones.
_BLANK, _BLANK_APART = 1.5, 3.0
#: Width over height of a copy may differ by this factor, by rounding and a narrow crop.
_SHAPE = 1.1

#: Similarity from which on a pair is looked at. Of 150 images of Market-1501, re-encoded at JPEG quality 30, halved, or
#: made 10 % brighter, each has at least 0.9077 with its original.
THRESHOLD = 0.9
#: Where files cannot be read, the vectors must agree this closely.
BLIND = 0.9999
#: Pairs between two looks at who belongs together.
_AT_ONCE = 65_536

Kind = Literal["identical", "similar", "unconfirmed"]


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of a picture: digest of the file's bytes, size in bytes and pixels, whether it is blank, and
    a thumbnail, uint8 [32·32·3].
    """

    digest: bytes
    size: int
    width: int
    height: int
    blank: bool
    thumbnail: NDArray[np.uint8]


def look(path: str) -> Look:
    """Read a picture. Raises ImageError where that cannot be done."""
    data = content_of(path)
    pixels = read_image(path)
    height, width = pixels.shape[:2]
    small = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    thumbnail = np.asarray(small, np.uint8).reshape(-1).copy()
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return Look(digest, len(data), width, height, float(thumbnail.std()) < _BLANK, thumbnail)


def same_picture(one: Look, other: Look) -> bool:
    """Whether both show the same picture: re-encoded, resized, a little brighter or darker perhaps."""
    if one.digest == other.digest:
        return True
    ratio = (one.width * other.height) / (one.height * other.width)
    if not 1 / _SHAPE <= ratio <= _SHAPE or one.blank != other.blank:
        return False
    a, b = one.thumbnail.astype(np.float32), other.thumbnail.astype(np.float32)
    if one.blank:
        return float(np.abs(a - b).mean()) <= _BLANK_APART
    a, b = a - a.mean(), b - b.mean()
    pearson = float(a @ b / np.sqrt((a @ a) * (b @ b)))  # of the values of all three channels together
    return pearson >= SAME and _apart(a, b) <= APART


def _apart(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The largest mean difference of a block of 4×4 pixels, or of one half a block further, in standard deviations.

    a, b: of mean 0.
    """
    difference = np.abs(a / a.std() - b / b.std()).reshape(_SIDE, _SIDE, 3).mean(axis=2)
    shifted = difference[2:-2, 2:-2]
    return max(float(part.reshape(len(part) // 4, 4, -1, 4).mean(axis=(1, 3)).max()) for part in (difference, shifted))


@dataclass(frozen=True, slots=True)
class Member:
    """One image of a group. score: similarity of its vector to that of the one to keep. same_bytes: as that one's;
    None where one of the two cannot be read. width, height: None where it cannot be read.
    """

    id: str
    path: str
    key: str
    source: str
    identity: str | None
    score: float
    size: int | None
    width: int | None
    height: int | None
    same_bytes: bool | None


@dataclass(frozen=True, slots=True)
class Group:
    """The same picture several times; ``members[0]`` is the one to keep.

    kind: identical (the same bytes), similar (the same picture by its pixels, some perhaps the same bytes), or
    unconfirmed (a file cannot be read: only the vectors say so).
    """

    kind: Kind
    members: tuple[Member, ...]


def find_duplicates(
    gallery: Gallery, threshold: float = THRESHOLD, where: Where = (), *, progress: Progress | None = None
) -> list[Group]:
    """The groups, largest first. threshold: least similarity of a pair's vectors, whatever the files say.

    To keep: the readable one of most pixels, then of most bytes, then the oldest file, then the first by path. A file
    that is in the gallery twice (by two sources, or through a link) counts once. Memory: 3 kB an image with a near one.
    """
    with tempfile.TemporaryFile(prefix="sss-") as spool:
        ids, vectors = _spooled(gallery, where, spool)
        if not ids:
            return []
        search = _Search(gallery, ids, vectors)
        for rows, columns, scores in near_pairs(vectors, threshold, progress=progress):
            search.add(rows, columns, scores)
        return search.groups()


def _spooled(gallery: Gallery, where: Where, spool: Any) -> tuple[list[str], NDArray[np.float32]]:
    ids = []
    for point in gallery.scroll(where, with_vectors=True, fields=[]):
        row = np.asarray(vector_of(gallery, point), np.float32)
        ids.append(point.id)
        spool.write((row / np.linalg.norm(row)).astype(np.float32).tobytes())  # float16 has changed its length a little
    if not ids:
        return [], np.empty((0, gallery.dim), np.float32)
    spool.flush()
    return ids, np.memmap(spool, np.float32, "r", shape=(len(ids), gallery.dim))


class _Search:
    """Joins pairs to groups as they come: what is in one group already is not compared again."""

    def __init__(self, gallery: Gallery, ids: list[str], vectors: NDArray[np.float32]) -> None:
        self._gallery, self._ids, self._vectors = gallery, ids, vectors
        self._group = np.arange(len(ids))
        self._points: dict[int, StoredPoint] = {}
        self._looks: dict[int, Look | None] = {}

    def add(self, rows: NDArray[np.int64], columns: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        missing = [row for row in np.unique(np.concatenate((rows, columns))).tolist() if row not in self._points]
        points = self._gallery.retrieve([self._ids[row] for row in missing])
        for row, point in zip(missing, points, strict=True):
            self._points[row] = StoredPoint(self._ids[row], {}) if point is None else point
        order = np.argsort(-scores, kind="stable")  # the surest first: they settle most of the others
        for start in range(0, len(order), _AT_ONCE):
            part = order[start : start + _AT_ONCE]
            while not np.array_equal(roots := self._group[self._group], self._group):
                self._group = roots
            part = part[roots[rows[part]] != roots[columns[part]]]
            for i, j, score in zip(rows[part].tolist(), columns[part].tolist(), scores[part].tolist()):
                a, b = self._root(i), self._root(j)
                if a != b and self._same(i, j, score):
                    self._group[max(a, b)] = min(a, b)

    def _same(self, i: int, j: int, score: float) -> bool:
        one, other = self._look(i), self._look(j)
        if len({self._points[row].identity for row in (i, j)} - {None}) > 1:
            return one is not None and other is not None and one.digest == other.digest
        if one is None or other is None:
            return score >= BLIND and self._points[i].size == self._points[j].size
        return same_picture(one, other)

    def _root(self, i: int) -> int:
        while (parent := int(self._group[i])) != i:
            self._group[i] = self._group[parent]
            i = parent
        return i

    def _look(self, row: int) -> Look | None:
        if row not in self._looks:
            self._looks[row] = None
            if place := self._points[row].place:
                with suppress(ImageError):
                    self._looks[row] = look(place)
        return self._looks[row]

    def groups(self) -> list[Group]:
        rows_of: dict[int, list[int]] = {}
        for row in sorted(self._points):
            rows_of.setdefault(self._root(row), []).append(row)
        found = [group for rows in rows_of.values() if len(rows) > 1 for group in self._settle(rows)]
        return sorted(found, key=lambda group: (-len(group.members), group.members[0].path))

    def _settle(self, rows: list[int]) -> Iterator[Group]:
        ordered = sorted(rows, key=self._worth)
        files: set[str] = set()
        once = []
        for row in ordered:
            path = self._points[row].place
            real = os.path.realpath(path) if path else f"point {row}"
            if real not in files:  # else a file is in the gallery twice: deleting it would delete both
                files.add(real)
                once.append(row)
        # A chain of neighbours may end in another picture: each must be the same as the one that is kept.
        while len(once) > 1:
            first, rest = once[0], once[1:]
            like = [row for row in rest if self._same(first, row, self._score(first, row))]
            if like:
                kept = self._looks.get(first)
                members = tuple(self._member(row, first, kept) for row in [first, *like])
                same = [member.same_bytes for member in members]
                kind: Kind = "unconfirmed" if None in same else "identical" if all(same) else "similar"
                yield Group(kind, members)
            left = set(like)
            once = [row for row in rest if row not in left]

    def _score(self, i: int, j: int) -> float:
        return min(1.0, float(self._vectors[i] @ self._vectors[j]))

    def _worth(self, row: int) -> tuple[bool, int, int, int, str]:
        """Sorts first what is to be kept."""
        seen, point = self._looks.get(row), self._points[row]
        pixels = 0 if seen is None else seen.width * seen.height
        size = point.size or 0 if seen is None else seen.size
        return seen is None, -pixels, -size, point.mtime_ns or 0, str(point.payload.get("path", ""))

    def _member(self, row: int, first: int, kept: Look | None) -> Member:
        point, seen = self._points[row], self._looks.get(row)
        of_point = point.id, point.place, point.key, point.source, point.identity, self._score(row, first)
        if seen is None:
            return Member(*of_point, point.size, None, None, None)
        same = None if kept is None else seen.digest == kept.digest
        return Member(*of_point, seen.size, seen.width, seen.height, same)

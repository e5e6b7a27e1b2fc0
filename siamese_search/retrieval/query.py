"""What is searched for, as one vector: an image, an item of the gallery, or several images of one target.

:class:`SameImage` says whether a hit is the query itself, or a copy of it.
"""

from __future__ import annotations

import filecmp
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamese_search.embedding import batches_of, embed_images
from siamese_search.errors import ImageError, UsageError, printable
from siamese_search.gallery.checks import vector_of
from siamese_search.gallery.contract import Gallery, Hit, StoredPoint
from siamese_search.gallery.filters import Condition
from siamese_search.io.decoding import ImageSource
from siamese_search.model.calibration import Figures
from siamese_search.model.embedder import Embedder, LookingEmbedder
from siamese_search.retrieval.options import SearchOptions

#: Share of the mean of the images to stay away from that is taken off the target (Rocchio's relevance feedback, 1971,
#: with a weight between the customary 0.25 and 1).
AWAY = 0.5
_SHORTEST = 1e-3

#: A copy of a file has the same vector up to rounding; below this similarity no file is opened to compare.
_COPY_SCORE = 0.9999
#: Where no bytes can be compared (an array, a file that is elsewhere), the vectors must agree this closely.
_BLIND_SCORE = 0.99999


@dataclass(frozen=True, slots=True)
class Copies:
    """The hits that show a probe's own images, by point id. identities: of each of these images, where it is known."""

    hits: Mapping[str, Hit]
    identities: tuple[str | None, ...]

    @property
    def identity(self) -> str | None:
        """The identity that all which have one agree on."""
        known = {one for one in self.identities if one is not None}
        return known.pop() if len(known) == 1 else None

    def __or__(self, later: Copies) -> Copies:
        """With those among further hits of the same probe; an identity that is known stays."""
        pairs = zip(self.identities, later.identities, strict=True)
        known = tuple(new if old is None else old for old, new in pairs)
        return Copies({**self.hits, **later.hits}, known)


#: Decides which hits show the probe's own images.
Judge = Callable[[Sequence[Hit]], Copies]


@dataclass(frozen=True)
class Probe:
    """What is ranked against.

    vector: float32 [d], unit length. scale: what its similarities are multiplied with to become scores. judge: which
    hits are the probe itself. never: leave these out, asked or not (an item of the gallery that looks for others like
    it). pairwise: whether scores are similarities of images, or means of such, which a calibration knows about. looks:
    of its images, figures float32 [m, 26]; ``None`` for what has none.
    """

    name: str
    path: Path | None
    vector: NDArray[np.float32]
    judge: Judge
    scale: float = 1.0
    never: bool = False
    pairwise: bool = True
    looks: Figures | None = None

    def left_out(self, options: SearchOptions) -> bool:
        """Whether its own images may not appear."""
        return options.exclude_self or self.never

    def below(self, hit: Hit, options: SearchOptions) -> bool:
        """Whether a hit is not to be shown for its score."""
        return options.min_score is not None and self.scale * hit.score < options.min_score


#: The vector of an image, float32 [d], and what it looks like, float32 [26].
Seen = tuple[NDArray[np.float32], Figures]


def embed_each(images: Sequence[ImageSource], embedder: Embedder) -> list[Seen | ImageError]:
    """What each image gives, or why it cannot be read."""
    looking = LookingEmbedder(embedder)
    known: dict[int, Seen | ImageError] = {}
    for found in embed_images(batches_of(range(len(images))), looking, images.__getitem__):
        count = len(found.items)  # of the next batch it may have seen the images, too
        known |= zip(found.items, zip(found.vectors, looking.seen[:count], strict=True), strict=True)
        known |= found.failures
        del looking.seen[:count]
    return [known[row] for row in range(len(images))]


def item_probe(gallery: Gallery, key: str) -> Probe:
    """The item of the gallery with this key. UsageError for none, and for more than one, as of several sources."""
    has_keys = "key" in gallery.fields()
    points = list(gallery.scroll([Condition("key", "=", (key,))], with_vectors=True)) if has_keys else []
    if len(points) != 1:
        sources = ", ".join(printable(point.source) for point in points[:3])
        what = f"there are {len(points)}, of {sources}" if points else "there is none"
        raise UsageError(
            f"{printable(key)}: one item of gallery {printable(gallery.name)!r} has to have this key, {what}; search"
            " with the image file instead"
        )
    return point_probe(gallery, points[0])


def point_probe(gallery: Gallery, point: StoredPoint) -> Probe:
    """A point of the gallery, with its vector, as a probe; it is never its own answer."""

    def judge(hits: Sequence[Hit]) -> Copies:
        return Copies({hit.id: hit for hit in hits if hit.id == point.id}, (point.identity,))

    return Probe(point.key, None, vector_of(gallery, point), judge, never=True)


def fuse(probes: Sequence[Probe]) -> Probe:
    """Several images of one target as one probe: a hit's score is the mean of its similarities to each of them.

    A hit is a copy where it is one of any of these images.
    """
    first, *others = probes
    if not others:
        return first
    vector, scale = _unit(np.mean([probe.vector for probe in probes], axis=0), "cancel each other out")

    def judge(hits: Sequence[Hit]) -> Copies:
        found = [probe.judge(hits) for probe in probes]
        own = {one for copies in found for one in copies.hits}
        identities = tuple(one for copies in found for one in copies.identities)
        return Copies({hit.id: hit for hit in hits if hit.id in own}, identities)

    never = any(probe.never for probe in probes)
    seen = [probe.looks for probe in probes if probe.looks is not None]
    looks = np.concatenate(seen) if seen else None
    return Probe(f"{first.name} and {len(others)} more", first.path, vector, judge, scale, never, looks=looks)


def push_away(probe: Probe, away: NDArray[np.float32]) -> Probe:
    """The probe, away from other images: float32 [m, d], m > 0. Scores lose half of the mean similarity to these."""
    target = probe.scale * probe.vector - AWAY * away.mean(axis=0)
    vector, scale = _unit(target, "are what they shall be unlike")
    return replace(probe, vector=vector, scale=scale, pairwise=False)


def _unit(vector: NDArray[np.float32], why: str) -> tuple[NDArray[np.float32], float]:
    length = float(np.linalg.norm(vector))
    if length < _SHORTEST:
        raise UsageError(f"the query images {why}: there is nothing left to search for; give others")
    return (vector / length).astype(np.float32), length


class SameImage:
    """Decides for one query which hits show the very same image.

    path: the query's file, or ``None`` for an array. A hit is the same image when

    1. it is the same file: equal real paths, or the same file by way of a link; or
    2. it is a copy: similarity ≥ 0.9999, the same size in bytes and the same bytes. Where the stored file
       cannot be read any more, similarity ≥ 0.99999 and the size stand for the bytes; for an array, that.

    Similarity alone does not decide where there are files: a weak model gives different images nearly the
    same vector, and neighbouring frames of a video are distinct sightings.

    any_score: the hits' scores are not similarities to this image (it is one of several): sizes and bytes decide.

    The identity is that of the very file where it is in the gallery, known or not; else the one that all its copies
    which have one agree on: what is right for a copy need not be right for the query.
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, any_score: bool = False) -> None:
        self._any_score = any_score
        self._path: str | None = None
        self._size = -1
        if path is not None:
            self._path = os.path.realpath(path)
            with suppress(OSError):
                self._size = os.stat(self._path).st_size  # noqa: PTH116 - also takes surrogate-escaped names

    def __call__(self, hits: Sequence[Hit]) -> Copies:
        copies = {hit.id: hit for hit in hits if self._examine(hit)}
        own = [hit for hit in copies.values() if self._is_file(hit)]
        named = {hit.identity for hit in own or copies.values()} - {None}
        return Copies(copies, (named.pop() if len(named) == 1 else None,))

    def _is_file(self, hit: Hit) -> bool:
        """Whether a hit is the query's own file, by whatever path."""
        if self._path is None:
            return False
        try:
            return os.path.samefile(hit.place, self._path)  # noqa: PTH121 - also takes surrogate-escaped names
        except (OSError, ValueError):
            return hit.place == self._path

    def _examine(self, hit: Hit) -> bool:
        if self._path is None:
            return not self._any_score and hit.score >= _BLIND_SCORE
        if hit.place == self._path:
            return True  # whatever the score: the file may have changed since it was ingested
        if self._any_score:
            if hit.size != self._size:
                return False
        elif hit.score < _COPY_SCORE:
            return False
        try:
            if self._is_file(hit):
                return True
            return hit.size == self._size and filecmp.cmp(hit.place, self._path, shallow=False)
        except (OSError, ValueError):
            return not self._any_score and hit.score >= _BLIND_SCORE and hit.size == self._size

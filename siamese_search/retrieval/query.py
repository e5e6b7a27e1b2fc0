"""Probe: what is searched for, as one vector: an image, an item of the gallery, or several images of one target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from siamese_search.errors import UsageError, printable
from siamese_search.gallery.contract import Gallery, Hit, StoredPoint
from siamese_search.gallery.filters import Condition

#: Share of the mean of the images to stay away from that is taken off the target (Rocchio's relevance feedback, 1971,
#: with a weight between the customary 0.25 and 1).
AWAY = 0.5
_SHORTEST = 1e-3


class Judge(Protocol):
    """Decides which hits show the probe's own images. ``copies``: those found so far, by point id."""

    copies: dict[str, Hit]

    @property
    def identity(self) -> str | None: ...

    def is_copy(self, hit: Hit) -> bool: ...


@dataclass(frozen=True)
class Probe:
    """What is ranked against.

    vector: float32 [d], unit length. scale: what its similarities are multiplied with to become scores. judge: which
    hits are the probe itself. never: leave these out, asked or not (an item of the gallery that looks for others like
    it). pairwise: whether scores are similarities of images, or means of such, which a calibration knows about.
    """

    name: str
    path: Path | None
    vector: NDArray[np.float32]
    judge: Judge
    scale: float = 1.0
    never: bool = False
    pairwise: bool = True


class SamePoint:
    """The judge of a probe that is itself an item of the gallery."""

    def __init__(self, point: StoredPoint) -> None:
        self._id = point.id
        identity = point.payload.get("identity")
        self.identity = None if identity is None else str(identity)
        self.copies: dict[str, Hit] = {}

    def is_copy(self, hit: Hit) -> bool:
        if hit.id != self._id:
            return False
        self.copies[hit.id] = hit
        return True


class SameAny:
    """The judge of several images: a hit is a copy where one of theirs says so."""

    def __init__(self, judges: Sequence[Judge]) -> None:
        self._judges = judges
        self.copies: dict[str, Hit] = {}

    @property
    def identity(self) -> str | None:
        """The identity that all which have one agree on."""
        known = {judge.identity for judge in self._judges if judge.identity is not None}
        return known.pop() if len(known) == 1 else None

    def is_copy(self, hit: Hit) -> bool:
        found = [judge.is_copy(hit) for judge in self._judges]  # all are asked: each learns its identity
        if any(found):
            self.copies[hit.id] = hit
        return any(found)


def item_probe(gallery: Gallery, key: str) -> Probe:
    """The item of the gallery with this key, as a probe; it is never its own answer.

    Raises UsageError where there is none, or more than one because several sources have such a key.
    """
    points: list[StoredPoint] = []
    if "key" in gallery.fields():
        points = list(gallery.scroll([Condition("key", "=", (key,))], with_vectors=True))
    if len(points) != 1:
        sources = ", ".join(printable(str(point.payload.get("source"))) for point in points[:3])
        what = f"there are {len(points)}, of {sources}" if points else "there is none"
        raise UsageError(
            f"{printable(key)}: one item of gallery {printable(gallery.name)!r} has to have this key, {what}; search"
            " with the image file instead"
        )
    (point,) = points
    assert point.vector is not None
    return Probe(key, None, point.vector, SamePoint(point), never=True)


def fuse(probes: Sequence[Probe]) -> Probe:
    """Several images of one target as one probe: a hit's score is the mean of its similarities to each of them."""
    if len(probes) == 1:
        return probes[0]
    vector, scale = _unit(np.mean([probe.vector for probe in probes], axis=0), "cancel each other out")
    first = probes[0]
    return Probe(
        f"{first.name} and {len(probes) - 1} more", first.path, vector, SameAny([p.judge for p in probes]), scale,
        never=any(probe.never for probe in probes),
    )  # fmt: skip


def push_away(probe: Probe, away: NDArray[np.float32]) -> Probe:
    """The probe, away from other images: float32 [m, d]. Scores lose half of the mean similarity to these."""
    if not len(away):
        return probe
    target = probe.scale * probe.vector - AWAY * away.mean(axis=0)
    vector, scale = _unit(target, "are what they shall be unlike")
    return replace(probe, vector=vector, scale=scale, pairwise=False)


def _unit(vector: NDArray[np.float32], why: str) -> tuple[NDArray[np.float32], float]:
    length = float(np.linalg.norm(vector))
    if length < _SHORTEST:
        raise UsageError(f"the query images {why}: there is nothing left to search for; give others")
    return (vector / length).astype(np.float32), length

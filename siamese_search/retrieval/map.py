"""GalleryMap: a gallery's images on a plane, and the colours of what they are coloured by."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import DISTRACTOR_IDENTITY, JUNK_IDENTITY, MetadataValue
from siamese_search.retrieval.results import json_path
from siamese_search.vectors.projection import METHODS

Colour = tuple[int, int, int]

#: Entries of a legend; more values have colours, but no line of their own.
MOST_ENTRIES = 12

#: For up to twelve values: told apart on light and on dark ground, the first seven also with colour blindness (after
#: P. Tol, "Colour schemes", SRON/EPS/TN/09-002).
_PALETTE: tuple[Colour, ...] = (
    (68, 119, 170), (238, 102, 119), (34, 136, 51), (204, 187, 68), (102, 204, 238), (170, 51, 119),
    (238, 119, 51), (0, 153, 136), (153, 112, 193), (140, 110, 60), (214, 80, 160), (120, 160, 40),
)  # fmt: skip
GREY: Colour = (150, 155, 162)
#: From low to high, for numbers: neither end is lost on light or dark ground.
_SCALE: tuple[Colour, ...] = ((72, 96, 200), (140, 90, 200), (205, 80, 150), (235, 120, 90), (236, 184, 50))


@dataclass(frozen=True, slots=True)
class MapPoint:
    """One image. value: what it is coloured by, ``None`` where it has none."""

    key: str
    source: str
    path: Path
    identity: str | None
    camera: str | None
    value: MetadataValue | None
    id: str = ""


@dataclass(frozen=True)
class GalleryMap:
    """points with their places, float64 [n, 2]. method: of :data:`~siamese_search.vectors.projection.METHODS`.

    color: the field that they are coloured by. total: images that the points were drawn from, by ``seed``.
    """

    gallery: str
    store: str
    model: str
    method: str
    seed: int
    color: str
    total: int
    points: tuple[MapPoint, ...]
    places: NDArray[np.float64]

    @property
    def title(self) -> str:
        return f"Gallery {self.gallery}"

    @property
    def caption(self) -> str:
        """``168 images, by t-SNE, coloured by identity``."""
        count = f"{len(self.points):,} image{'s' * (len(self.points) != 1)}"
        if self.total > len(self.points):
            count = f"{len(self.points):,} of {self.total:,} images, drawn at random (seed {self.seed})"
        return f"{count}, by {METHODS[self.method]}, coloured by {self.color}"

    def to_json(self) -> dict[str, Any]:
        """The JSON contract of ``sss plot``, without where it was saved."""
        return {
            "gallery": self.gallery,
            "store": self.store,
            "model": self.model,
            "method": self.method,
            "seed": self.seed,
            "color": self.color,
            "total": self.total,
            "points": [
                {
                    "key": point.key,
                    "source": point.source,
                    "path": json_path(point.path),
                    "identity": point.identity,
                    "camera": point.camera,
                    "value": point.value,
                    "x": round(float(x), 6),
                    "y": round(float(y), 6),
                }
                for point, (x, y) in zip(self.points, self.places, strict=True)
            ],
        }


@dataclass(frozen=True)
class Entry:
    """A line of the legend."""

    label: str
    colour: Colour
    count: int


@dataclass(frozen=True)
class Colouring:
    """colours: of the points, in order. entries: of the legend, the most frequent values. more: how many further
    values have a colour but no entry. scale: (low, high) where colours stand for numbers, and there are no entries."""

    colours: list[Colour]
    entries: list[Entry]
    more: int = 0
    scale: tuple[float, float] | None = None


def colouring(found: GalleryMap) -> Colouring:
    """Colours by value: of many numbers a scale, else one each; grey for none, for distractors and for junk."""
    values = [point.value for point in found.points]
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    present = [v for v in values if v is not None]
    if numbers and len(numbers) == len(present) and len(set(numbers)) > MOST_ENTRIES:
        return _scaled(values, min(numbers), max(numbers))
    counts = Counter(value for value in present if not _is_nobody(found.color, value))
    order = sorted(counts, key=lambda value: (-counts[value], str(value)))
    codes = {value: number for number, value in enumerate(sorted(counts, key=_natural))}
    few = len(counts) <= len(_PALETTE)
    colours = {value: _PALETTE[code] if few else _hue(code) for value, code in codes.items()}
    shown = sorted(order[:MOST_ENTRIES], key=_natural) if few else order[:MOST_ENTRIES]
    entries = [Entry(str(value), colours[value], counts[value]) for value in shown]
    grey = Counter(
        f"no {found.color}" if value is None else _NOBODY[str(value)]
        for value in values
        if value is None or value not in counts
    )
    entries += [Entry(label, GREY, count) for label, count in sorted(grey.items())]
    return Colouring(
        [GREY if value is None else colours.get(value, GREY) for value in values],
        entries,
        max(len(counts) - MOST_ENTRIES, 0),
    )


_NOBODY = {DISTRACTOR_IDENTITY: "distractors", JUNK_IDENTITY: "junk"}


def _is_nobody(color: str, value: MetadataValue) -> bool:
    return color == "identity" and value in _NOBODY


def _natural(value: MetadataValue) -> tuple[bool, float, str]:
    """Numbers by size, then texts."""
    text = str(value)
    number = text.isascii() and text.isdigit() and len(text) < 300
    return not number, float(text) if number else 0.0, text


def _hue(code: int) -> Colour:
    """By the golden angle: neighbours in number differ in colour."""
    red, green, blue = colorsys.hls_to_rgb(code * 137.508 % 360 / 360, 0.5, 0.6)
    return round(255 * red), round(255 * green), round(255 * blue)


def _scaled(values: Sequence[MetadataValue | None], low: float, high: float) -> Colouring:
    colours = [
        GREY if value is None else scale_colour((float(value) - low) / ((high - low) or 1.0))
        for value in values
    ]
    missing = sum(value is None for value in values)
    return Colouring(colours, [Entry("none", GREY, missing)] * (missing > 0), scale=(low, high))


def scale_colour(share: float) -> Colour:
    """The colour of a number, 0 for the lowest and 1 for the highest."""
    at = min(max(share, 0.0), 1.0) * (len(_SCALE) - 1)
    first = min(int(at), len(_SCALE) - 2)
    part = at - first
    red, green, blue = (
        round(a + (b - a) * part) for a, b in zip(_SCALE[first], _SCALE[first + 1], strict=True)
    )
    return red, green, blue


def placed(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """The places within the unit square, float64 [n, 2]: centred, both axes on one scale, so that distances compare."""
    low, high = places.min(axis=0), places.max(axis=0)
    span = float((high - low).max()) or 1.0
    result: NDArray[np.float64] = (places - (low + high) / 2) / span + 0.5
    return result

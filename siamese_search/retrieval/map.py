"""GalleryMap: a gallery's images on a plane, and the colours of what they are coloured by."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import DISTRACTOR_IDENTITY, JUNK_IDENTITY, MetadataValue, stands_for_many
from siamese_search.errors import amount
from siamese_search.vectors.projection import METHODS

#: Values that a legend shows at once.
MOST_ENTRIES = 12

#: For up to twelve values. All colours here have a contrast of 3 to light and to dark ground; these are as far
#: apart as that allows (OKLab), the first seven also for those who do not tell red from green.
_PALETTE = (
    "#9084fc", "#547800", "#fc30c0", "#a85460", "#b48400", "#b424cc",
    "#0ca860", "#7848fc", "#309cb4", "#cc78a8", "#606cb4", "#fc480c",
)  # fmt: skip
GREY = "#868b93"
#: From low to high, for numbers: red, green and blue.
_SCALE = ((80, 104, 210), (140, 90, 200), (205, 80, 150), (226, 112, 84), (206, 130, 20))
#: Relative luminances for more than twelve values, in turns: neighbours in hue differ in lightness.
_LUMINANCES = (0.16, 0.285, 0.215)


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
            count = f"{len(self.points):,} of {amount(self.total, 'image')}, drawn at random (seed {self.seed})"
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
                    "path": str(point.path),
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
    """A line of the legend. color: as all here, ``#rrggbb``."""

    label: str
    color: str
    count: int


@dataclass(frozen=True)
class Colouring:
    """colours: of the points, in order. entries: of the legend, all values; the ``first`` are the most frequent. codes:
    the points' entries, -1 for none. scale: (low, high) where colours stand for numbers, which have no entries."""

    colours: list[str]
    entries: list[Entry]
    codes: list[int]
    first: int
    scale: tuple[float, float] | None = None


def colouring(found: GalleryMap) -> Colouring:
    """Colours by value: of many numbers a scale, else one each; grey for none, for distractors and for junk."""
    values = [point.value for point in found.points]
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    present = [v for v in values if v is not None]
    if numbers and len(numbers) == len(present) and len(set(numbers)) > MOST_ENTRIES:
        return _scaled(values, min(numbers), max(numbers))
    said = [_said(found.color, point) for point in found.points]
    counts = Counter(said)
    named = sorted((one for one in counts if one[0]), key=lambda one: _natural(one[1]))
    few = len(named) <= len(_PALETTE)
    colours = {one: _PALETTE[code] if few else hue(code) for code, one in enumerate(named)}
    nobody = sorted(one for one in counts if not one[0])
    if not few:
        named.sort(key=lambda one: -counts[one])
    order = [*named[:MOST_ENTRIES], *nobody, *named[MOST_ENTRIES:]]
    codes = {one: code for code, one in enumerate(order)}
    return Colouring(
        [colours.get(one, GREY) for one in said],
        [Entry(one[1], colours.get(one, GREY), counts[one]) for one in order],
        [codes[one] for one in said],
        min(len(named), MOST_ENTRIES) + len(nobody),
    )


_NOBODY = {DISTRACTOR_IDENTITY: "distractors", JUNK_IDENTITY: "junk"}


def _said(color: str, point: MapPoint) -> tuple[bool, str]:
    """Whether a point's value is one, and what the legend calls it."""
    value = point.value
    if value is None:
        return False, f"no {color}"
    nobody = color == "identity" and stands_for_many(value, point.key)
    return not nobody, _NOBODY[str(value)] if nobody else str(value)


def _natural(text: str) -> tuple[bool, float, str]:
    """Numbers by size, then texts."""
    number = text.isascii() and text.isdigit() and len(text) < 300
    return not number, float(text) if number else 0.0, text


@cache
def hue(code: int) -> str:
    """A colour of many, by the golden angle: neighbours in number differ."""
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        colour = colorsys.hls_to_rgb(code * 137.508 % 360 / 360, middle, 0.75)
        dark = luminance(colour) < _LUMINANCES[code % len(_LUMINANCES)]
        low, high = (middle, high) if dark else (low, middle)
    return _css([255 * part for part in colour])


def luminance(colour: Sequence[float]) -> float:
    """Relative luminance of sRGB parts from 0 to 1 (WCAG 2)."""
    linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour)
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _css(colour: Iterable[float]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*map(round, colour))


def _scaled(values: Sequence[MetadataValue | None], low: float, high: float) -> Colouring:
    colours = [
        GREY if value is None else scale_colour((float(value) - low) / ((high - low) or 1.0)) for value in values
    ]
    missing = sum(value is None for value in values)
    entries = [Entry("none", GREY, missing)] * (missing > 0)
    return Colouring(colours, entries, [0 if value is None else -1 for value in values], len(entries), (low, high))


def scale_colour(share: float) -> str:
    """The colour of a number, 0 for the lowest and 1 for the highest."""
    stops = np.linspace(0, 1, len(_SCALE))
    return _css(float(np.interp(share, stops, channel)) for channel in zip(*_SCALE, strict=True))


#: For a legend, from low to high.
STOPS = tuple(scale_colour(step / 31) for step in range(32))


def placed(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """The places within the unit square, float64 [n, 2]: centred, both axes on one scale, so that distances compare."""
    low, high = places.min(axis=0), places.max(axis=0)
    span = float((high - low).max()) or 1.0
    result: NDArray[np.float64] = (places - (low + high) / 2) / span + 0.5
    return result

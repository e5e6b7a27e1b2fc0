"""Who the synthetic pedestrians are: clothes, hair, bag, build and gait, drawn once per identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Colour = tuple[int, int, int]

#: Everyday clothing colours (sRGB); dark ones are listed more often because crowds wear them more often.
CLOTHES: tuple[Colour, ...] = (
    (28, 28, 32), (34, 36, 44), (60, 62, 68), (112, 114, 118), (168, 168, 166), (226, 224, 218),
    (24, 34, 72), (36, 62, 128), (66, 112, 176), (134, 172, 206), (150, 28, 34), (196, 52, 46),
    (98, 22, 36), (34, 86, 54), (84, 96, 50), (66, 134, 106), (196, 176, 136), (126, 92, 60),
    (218, 182, 58), (214, 118, 42), (214, 134, 156), (108, 62, 128), (32, 116, 124), (240, 236, 228),
)  # fmt: skip
TROUSERS: tuple[Colour, ...] = (
    (30, 30, 34), (40, 42, 50), (32, 40, 66), (50, 70, 112), (84, 110, 148), (92, 92, 94),
    (176, 158, 124), (110, 86, 62), (78, 84, 56), (206, 202, 192), (120, 40, 44), (28, 32, 48),
)  # fmt: skip
HAIR: tuple[Colour, ...] = (
    (22, 18, 18), (38, 28, 22), (64, 44, 30), (98, 66, 40), (150, 112, 64), (196, 164, 104), (140, 66, 36),
    (140, 138, 136), (206, 204, 200),
)  # fmt: skip
SKIN: tuple[Colour, ...] = (
    (244, 208, 180), (226, 182, 148), (198, 146, 110), (156, 104, 72), (108, 70, 50), (78, 52, 40),
)  # fmt: skip

TOPS = ("tshirt", "shirt", "jacket", "coat", "hoodie")
PATTERNS = ("plain", "plain", "stripes", "logo", "yoke", "check", "band")
BOTTOMS = ("trousers", "trousers", "trousers", "shorts", "skirt")
STYLES = ("short", "short", "long", "bun", "ponytail", "bald")
BAGS = ("none", "backpack", "handbag", "messenger")
HATS = ("none", "none", "none", "cap", "beanie")


@dataclass(frozen=True, slots=True)
class Person:
    """One identity. Lengths are fractions of body height, ``stature`` is relative to the average person."""

    skin: Colour
    hair: Colour
    hair_style: str
    beard: bool
    hat: str
    hat_colour: Colour
    top: str
    top_colour: Colour
    pattern: str
    accent: Colour
    inner: Colour  # under an open jacket or coat
    bottom: str
    bottom_colour: Colour
    shoes: Colour
    bag: str
    bag_colour: Colour
    stature: float
    girth: float
    stride: float
    arm_swing: float


def draw_people(count: int, seed: int) -> list[Person]:
    """``count`` identities for a seed. Every second one dresses like the one before it, in the same clothes and shoes
    of the same colours, and differs in hair, skin, bag, hat and build: clothes alone cannot tell them apart.
    """
    people: list[Person] = []
    for index in range(count):
        rng = np.random.default_rng([seed, 1, index])
        person = _random_person(rng)
        if index % 2 == 1:
            person = _lookalike(people[-1], person, rng)
        people.append(person)
    return people


def _random_person(rng: np.random.Generator) -> Person:
    style = _pick(rng, STYLES)
    top_colour = _vary(rng, _pick(rng, CLOTHES), 10)
    standing_out = [c for c in CLOTHES if sum(abs(a - b) for a, b in zip(c, top_colour)) > 150]
    accent = _vary(rng, _pick(rng, standing_out), 8)
    return Person(
        skin=_vary(rng, _pick(rng, SKIN), 6),
        hair=_vary(rng, _pick(rng, HAIR), 6),
        hair_style=style,
        beard=style in ("short", "bald") and rng.random() < 0.3,
        hat=_pick(rng, HATS),
        hat_colour=_vary(rng, _pick(rng, CLOTHES), 10),
        top=_pick(rng, TOPS),
        top_colour=top_colour,
        pattern=_pick(rng, PATTERNS),
        accent=accent,
        inner=_vary(rng, _pick(rng, CLOTHES), 10),
        bottom=_pick(rng, BOTTOMS),
        bottom_colour=_vary(rng, _pick(rng, TROUSERS), 10),
        shoes=_pick(rng, ((24, 24, 26), (70, 48, 34), (216, 214, 210), (150, 40, 40), (52, 60, 90))),
        bag=_pick(rng, BAGS),
        bag_colour=_vary(rng, _pick(rng, CLOTHES), 10),
        stature=float(rng.uniform(0.9, 1.06)),
        girth=float(rng.uniform(0.84, 1.28)),
        stride=float(rng.uniform(0.1, 0.19)),
        arm_swing=float(rng.uniform(0.06, 0.16)),
    )


def _lookalike(model: Person, other: Person, rng: np.random.Generator) -> Person:
    """``other`` in the clothes and shoes of ``model``; the bag is made to differ."""
    return replace(
        other,
        top=model.top,
        top_colour=_vary(rng, model.top_colour, 5),
        inner=model.inner,
        bottom=model.bottom,
        bottom_colour=_vary(rng, model.bottom_colour, 5),
        pattern=model.pattern,
        accent=_vary(rng, model.accent, 5),
        shoes=model.shoes,
        bag=_pick(rng, [bag for bag in BAGS if bag != model.bag]),
    )


def _pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _vary(rng: np.random.Generator, colour: Colour, spread: int) -> Colour:
    r, g, b = (int(np.clip(c + rng.integers(-spread, spread + 1), 0, 255)) for c in colour)
    return r, g, b

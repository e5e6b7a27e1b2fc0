"""Where the cameras look: a street, a corridor, a plaza, a car park, each drawn once and cropped many times."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from siamese_search.datasets.synthetic.people import Colour

SCENES = ("street", "corridor", "plaza", "car park")
#: A scene is this large (width, height); crops of it become backgrounds.
SCENE_SIZE = (1024, 640)
#: The height in a scene where the ground begins.
HORIZON = 250


def draw_scene(kind: str, seed: int) -> Image.Image:
    """One RGB scene of ``SCENE_SIZE``; the same kind with another seed is another place."""
    rng = np.random.default_rng([seed, 2, SCENES.index(kind)])
    image = Image.new("RGB", SCENE_SIZE)
    ink = ImageDraw.Draw(image)
    {"street": _street, "corridor": _corridor, "plaza": _plaza, "car park": _car_park}[kind](ink, rng)
    grain = rng.normal(0.0, 7.0, (SCENE_SIZE[1] // 4, SCENE_SIZE[0] // 4, 1))
    blotches = np.asarray(
        Image.fromarray(np.clip(grain[..., 0] * 3 + 128, 0, 255).astype(np.uint8)).resize(SCENE_SIZE), dtype=np.float32
    )
    lit = np.asarray(image, dtype=np.float32) + (blotches[..., None] - 128.0) * 0.35
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.2))


def _ground(ink: ImageDraw.ImageDraw, far: Colour, near: Colour) -> None:
    width, height = SCENE_SIZE
    for y in range(HORIZON, height):
        t = (y - HORIZON) / (height - HORIZON)
        ink.line((0, y, width, y), fill=_between(far, near, t))


def _street(ink: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    width, height = SCENE_SIZE
    _ground(ink, (120, 118, 114), (148, 146, 140))
    x = 0
    while x < width:  # shop fronts
        wide = int(rng.integers(90, 190))
        wall = _grey(rng, 90, 190, 26)
        ink.rectangle((x, 0, x + wide, HORIZON), fill=wall)
        ink.rectangle((x + 10, 96, x + wide - 10, HORIZON - 14), fill=_grey(rng, 30, 80, 14))
        ink.rectangle((x + 4, 62, x + wide - 4, 92), fill=_grey(rng, 60, 200, 60))
        for pane in range(x + 10, x + wide - 10, 38):
            ink.line((pane, 96, pane, HORIZON - 14), fill=wall, width=4)
        x += wide
    ink.rectangle((0, HORIZON - 14, width, HORIZON), fill=(84, 80, 76))
    ink.rectangle((0, 452, width, 470), fill=(182, 180, 172))  # kerb
    ink.rectangle((0, 470, width, height), fill=(88, 88, 92))
    for x in range(-20, width, 130):
        ink.polygon([(x, 548), (x + 70, 548), (x + 62, 562), (x - 8, 562)], fill=(206, 204, 190))
    for x in range(0, width, 64):  # paving
        ink.line((x, HORIZON, int(1.3 * (x - width / 2) + width / 2), 452), fill=(112, 110, 106), width=2)
    for y in (290, 336, 392):
        ink.line((0, y, width, y), fill=(112, 110, 106), width=2)


def _corridor(ink: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    width, height = SCENE_SIZE
    ink.rectangle((0, 0, width, HORIZON), fill=(196, 192, 178))
    _ground(ink, (122, 126, 122), (172, 172, 160))
    x = 20
    while x < width:  # doors and notice boards
        wide = int(rng.integers(70, 100))
        if rng.random() < 0.55:
            ink.rectangle((x, 30, x + wide, HORIZON), fill=_grey(rng, 70, 140, 24))
            ink.ellipse((x + wide - 18, 140, x + wide - 10, 150), fill=(210, 200, 150))
        else:
            ink.rectangle((x, 60, x + wide + 20, 150), fill=_grey(rng, 110, 210, 40))
        x += wide + int(rng.integers(40, 110))
    ink.rectangle((0, HORIZON - 16, width, HORIZON), fill=(92, 88, 80))
    ink.rectangle((0, 176, width, 182), fill=(150, 120, 84))  # handrail
    for x in range(40, width, 170):  # ceiling lights mirrored by the floor
        ink.polygon([(x, 270), (x + 50, 270), (x + 70, height), (x - 20, height)], fill=(190, 192, 182))
    for y in (300, 372, 470, 590):
        ink.line((0, y, width, y), fill=(140, 140, 130), width=2)


def _plaza(ink: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    width = SCENE_SIZE[0]
    ink.rectangle((0, 0, width, HORIZON), fill=(150, 160, 150))
    for _ in range(46):  # hedges
        x, y, r = (int(v) for v in rng.integers((0, 120, 26), (width, HORIZON, 60)))
        green = int(rng.integers(58, 110))
        ink.ellipse((x - r, y - r, x + r, y + r), fill=(green - 22, green, green - 34))
    _ground(ink, (170, 152, 132), (206, 188, 164))
    ys = [HORIZON + round(390 * (i / 9) ** 1.5) for i in range(10)]
    for row, (top, bottom) in enumerate(pairwise(ys)):
        for column in range(-8, 24):
            if (row + column) % 2:
                a = [_lean(64 * column, y) for y in (top, bottom)]
                b = [_lean(64 * (column + 1), y) for y in (top, bottom)]
                tint = int(rng.integers(-8, 9))
                ink.polygon(
                    [(a[0], top), (b[0], top), (b[1], bottom), (a[1], bottom)],
                    fill=(160 + tint, 122 + tint, 104 + tint),
                )


def _lean(x: float, y: float) -> float:
    """Perspective of the paving: columns spread from the middle as they come nearer."""
    middle = SCENE_SIZE[0] / 2
    return middle + (x - middle) * (0.7 + 0.8 * (y - HORIZON) / (SCENE_SIZE[1] - HORIZON))


def _car_park(ink: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    width, height = SCENE_SIZE
    ink.rectangle((0, 0, width, HORIZON), fill=(108, 112, 118))
    _ground(ink, (74, 76, 80), (104, 106, 110))
    for x in range(30, width, 180):
        ink.line((x, HORIZON + 6, x + 60 * (1 if x > width / 2 else -1), height), fill=(198, 194, 150), width=9)
    for x in range(10, width, 170):  # parked cars
        if rng.random() < 0.8:
            paint = _grey(rng, 40, 210, 60)
            ink.rounded_rectangle((x, 168, x + 136, 262), 18, fill=paint)
            ink.polygon(
                [(x + 18, 172), (x + 34, 124), (x + 102, 124), (x + 120, 172)], fill=_between(paint, (30, 36, 44), 0.75)
            )
            ink.rectangle((x + 6, 196, x + 26, 208), fill=(236, 230, 200))
            ink.rectangle((x + 110, 196, x + 130, 208), fill=(236, 230, 200))
            for wheel in (x + 16, x + 96):
                ink.ellipse((wheel, 236, wheel + 26, 276), fill=(22, 22, 24))
    for x in range(0, width, 340):  # concrete pillars
        ink.rectangle((x, 0, x + 34, 330), fill=(150, 150, 146))
        ink.rectangle((x, 250, x + 34, 300), fill=(196, 168, 40))


def _between(a: Colour, b: Colour, t: float) -> Colour:
    red, green, blue = (int(p + (q - p) * t) for p, q in zip(a, b))
    return red, green, blue


def _grey(rng: np.random.Generator, low: int, high: int, tint: int) -> Colour:
    """A grey between ``low`` and ``high`` with up to ``tint`` of colour."""
    level = int(rng.integers(low, high))
    r, g, b = (int(np.clip(level + rng.integers(-tint, tint + 1), 0, 255)) for _ in range(3))
    return r, g, b

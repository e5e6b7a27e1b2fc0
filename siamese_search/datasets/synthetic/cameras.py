"""Where the cameras look, and what each makes of a person there.

A scene (a street, a corridor, a plaza, a car park) is drawn once and cropped many times. A camera has its viewpoint,
light, colour cast, blur, occlusion, noise and JPEG.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from siamese_search.datasets.synthetic.figure import CANVAS, Pose, draw_figure
from siamese_search.datasets.synthetic.people import CLOTHES, Colour, Person

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
    grain = rng.normal(0.0, 7.0, (SCENE_SIZE[1] // 4, SCENE_SIZE[0] // 4))
    blotches = np.asarray(_picture(grain * 3 + 128).resize(SCENE_SIZE), dtype=np.float32)
    lit = np.asarray(image, dtype=np.float32) + (blotches[..., None] - 128.0) * 0.35
    return _picture(lit).filter(ImageFilter.GaussianBlur(1.2))


def _picture(levels: NDArray[np.floating]) -> Image.Image:
    """Levels of 0–255, [H, W] or [H, W, 3], as an image."""
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


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
                tint = int(rng.integers(-8, 9))
                corners = ((column, top), (column + 1, top), (column + 1, bottom), (column, bottom))
                ink.polygon([(_lean(64 * x, y), y) for x, y in corners], fill=(160 + tint, 122 + tint, 104 + tint))


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
            glass = [(x + 18, 172), (x + 34, 124), (x + 102, 124), (x + 120, 172)]
            ink.polygon(glass, fill=_between(paint, (30, 36, 44), 0.75))
            for lamp in (x + 6, x + 110):
                ink.rectangle((lamp, 196, lamp + 20, 208), fill=(236, 230, 200))
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


Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera: where it hangs and how it renders light. Angles in radians, blur in pixels of a 128-high crop."""

    yaw: float  # the way most people walk past it
    elevation: float  # 0 at eye level, 1 steeply from above
    gains: tuple[float, float, float]  # colour cast, per channel
    gamma: float
    saturation: float
    contrast: float
    haze: float
    blur: float
    noise: float  # standard deviation, in 8-bit levels
    quality: int  # of the JPEG
    occlusion: float  # chance
    light_side: float  # -1 light from the left, 1 from the right
    fill: float  # how much of a crop's height a person takes


#: One camera for each kind of scene, in the order of ``SCENES``.
_PRESETS = (
    Camera(
        yaw=0.25, elevation=0.32, gains=(1.03, 1.0, 0.95), gamma=0.94, saturation=1.04, contrast=1.02, haze=0.0,
        blur=0.42, noise=2.8, quality=89, occlusion=0.08, light_side=-0.7, fill=0.94,
    ),
    Camera(
        yaw=math.pi, elevation=0.62, gains=(1.08, 1.01, 0.85), gamma=1.13, saturation=0.91, contrast=0.92, haze=0.03,
        blur=0.70, noise=5.0, quality=78, occlusion=0.10, light_side=0.2, fill=0.92,
    ),
    Camera(
        yaw=1.35, elevation=0.50, gains=(0.98, 1.02, 1.04), gamma=0.82, saturation=0.92, contrast=1.04, haze=0.06,
        blur=0.55, noise=3.2, quality=85, occlusion=0.10, light_side=0.9, fill=0.90,
    ),
    Camera(
        yaw=-1.0, elevation=0.75, gains=(0.90, 0.98, 1.10), gamma=1.21, saturation=0.80, contrast=0.90, haze=0.04,
        blur=0.80, noise=6.5, quality=72, occlusion=0.15, light_side=-0.3, fill=0.93,
    ),
)  # fmt: skip
_SCENE_BLUR = 3.0  # pixels of the drawing canvas
_SCENE_PALE, _SCENE_GREY = 0.55, 140.0  # how far the background goes towards which grey
_YAW_SPREAD = 0.45  # standard deviation of where people walk, around the camera's usual way


@dataclass(frozen=True, slots=True)
class Place:
    """A camera together with the scene it looks at."""

    camera: Camera
    scene: Image.Image


def make_places(count: int, seed: int) -> list[Place]:
    """``count`` cameras with their scenes: the four kinds in turn, each with its own angle and light."""
    places = []
    for index in range(count):
        rng = np.random.default_rng([seed, 3, index])
        preset = _PRESETS[index % len(_PRESETS)]
        spread = 0.06 if index < len(_PRESETS) else 0.2  # a second camera of a kind strays further from it
        red, green, blue = (float(gain * (1 + rng.uniform(-spread, spread))) for gain in preset.gains)
        camera = replace(
            preset,
            gains=(red, green, blue),
            yaw=preset.yaw + 4 * float(rng.uniform(-spread, spread)),
            gamma=float(preset.gamma * (1 + rng.uniform(-spread, spread))),
        )
        # 1009 keeps the scenes of one seed's cameras apart from those of the next seed's.
        places.append(Place(camera, draw_scene(SCENES[index % len(SCENES)], seed * 1009 + index)))
    return places


def photograph(
    person: Person, place: Place, rng: np.random.Generator, size: tuple[int, int], *, misplaced: bool = False
) -> bytes:
    """One JPEG crop of ``person`` at ``place``, ``size`` = (height, width); ``rng`` decides pose and accidents.

    misplaced: frame the person badly, as a detector's junk boxes do.
    """
    camera, (height, width) = place.camera, size
    # Now and then somebody walks against the stream.
    turned = math.pi if rng.random() < 0.2 else 0.0
    pose = Pose(
        yaw=float(camera.yaw + turned + rng.normal(0.0, _YAW_SPREAD)),
        phase=float(rng.uniform(0, 2 * math.pi)),
        height=float(np.clip(camera.fill * rng.normal(1.0, 0.035), 0.74, 0.97)) * 0.98,
        feet=(float(rng.normal(0.5, 0.035)), float(rng.uniform(0.945, 0.985))),
        elevation=float(np.clip(camera.elevation + rng.normal(0, 0.05), 0, 1)),
    )
    if misplaced:
        shift = float(rng.uniform(0.3, 0.45)) * (-1 if rng.random() < 0.5 else 1)
        pose = replace(pose, feet=(0.5 + shift, float(rng.uniform(1.2, 1.45))))
    figure = draw_figure(person, pose)
    canvas = _background(place, rng)
    _cast_shadow(canvas, pose, camera)
    if rng.random() < 0.5 * camera.occlusion:
        canvas.paste(*_passer_by(pose, rng))
    figure_small = np.asarray(figure.resize((width, height), Image.Resampling.BOX), dtype=np.float32)
    ground = np.asarray(canvas.resize((width, height), Image.Resampling.BOX), dtype=np.float32)
    alpha = figure_small[..., 3:] / 255.0
    lit = figure_small[..., :3] * _shading(pose, camera, rng, size)[..., None]
    scene = ground * (1 - alpha) + lit * alpha
    if rng.random() < camera.occlusion:
        scene = _occlude(scene, rng)
    return _develop(scene, camera, rng)


def _background(place: Place, rng: np.random.Generator) -> Image.Image:
    """A window of the scene, canvas-sized, with the horizon high up, as a camera on a wall sees it."""
    tall = int(rng.integers(330, 400))
    wide = tall // 2
    left = int(rng.integers(0, SCENE_SIZE[0] - wide))
    top = HORIZON - int(tall * (0.42 - 0.3 * place.camera.elevation) + rng.uniform(-14, 14))
    top = max(0, min(top, SCENE_SIZE[1] - tall))
    window = place.scene.resize(CANVAS, Image.Resampling.BILINEAR, box=(left, top, left + wide, top + tall))
    # Out of focus and paler than the person in front, as a lens renders what is behind its subject.
    window = window.filter(ImageFilter.GaussianBlur(_SCENE_BLUR))
    pale = np.asarray(window, dtype=np.float32)
    return _picture(pale + _SCENE_PALE * (_SCENE_GREY - pale))


def _cast_shadow(canvas: Image.Image, pose: Pose, camera: Camera) -> None:
    """Darken the ground at the feet and away from the light."""
    small = (CANVAS[0] // 4, CANVAS[1] // 4)
    mask = Image.new("L", small, 0)
    x, y = pose.feet[0] * small[0], pose.feet[1] * small[1]
    reach = -camera.light_side * 26
    ink = ImageDraw.Draw(mask)
    ink.ellipse((x - 17, y - 5, x + 17, y + 4), fill=150)
    ink.polygon([(x - 9, y), (x + 9, y), (x + reach + 7, y - 17), (x + reach - 7, y - 17)], fill=90)
    mask = mask.filter(ImageFilter.GaussianBlur(2.2)).resize(CANVAS, Image.Resampling.BILINEAR)
    canvas.paste((22, 22, 28), mask=mask)


def _passer_by(pose: Pose, rng: np.random.Generator) -> tuple[Image.Image, tuple[int, int], Image.Image]:
    """Arguments of ``paste`` for a vague second pedestrian beside the first, and behind."""
    size = (CANVAS[0] // 4, CANVAS[1] // 4)
    layer = Image.new("RGBA", size, (0, 0, 0, 0))
    ink = ImageDraw.Draw(layer)
    side = -1 if rng.random() < 0.5 else 1
    x = (0.5 + side * float(rng.uniform(0.34, 0.46))) * size[0]
    foot, unit = pose.feet[1] * size[1] * 0.86, size[1] * pose.height * 0.75
    top, low = (CLOTHES[int(rng.integers(len(CLOTHES)))] for _ in range(2))
    for leg in (-1, 1):
        knee, heel = x + leg * 0.035 * unit, x + leg * 0.055 * unit
        bones = (x, foot - 0.5 * unit, knee, foot - 0.25 * unit, heel, foot)
        ink.line(bones, fill=(*low, 255), width=max(2, int(0.07 * unit)))
    chest = (x - 0.1 * unit, foot - 0.85 * unit, x + 0.1 * unit, foot - 0.46 * unit)
    ink.rounded_rectangle(chest, 0.05 * unit, fill=(*top, 255))
    ink.ellipse((x - 0.05 * unit, foot - unit, x + 0.05 * unit, foot - 0.87 * unit), fill=(120, 92, 74, 255))
    layer = layer.resize(CANVAS, Image.Resampling.BILINEAR)
    return layer.convert("RGB"), (0, 0), layer.getchannel("A")


def _shading(pose: Pose, camera: Camera, rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Light on the figure: [H, W] factors, round across the body, dimmer towards the feet, with folds in the cloth."""
    height, width = size
    across = (np.linspace(0, 1, width, dtype=np.float32) - pose.feet[0]) / 0.2
    down = np.linspace(0, 1, height, dtype=np.float32)
    side = 1.0 + 0.2 * camera.light_side * np.clip(across, -1, 1) - 0.2 * np.clip(across, -1, 1) ** 2
    fall = 1.12 - 0.26 * down
    folds = rng.normal(0.0, 1.0, (16, 8)).astype(np.float32)
    texture = Image.fromarray(folds).resize((width, height), Image.Resampling.BICUBIC)
    shading: Floats = side[None, :] * fall[:, None] * (1.0 + 0.07 * np.asarray(texture, dtype=np.float32))
    return shading


def _occlude(scene: Floats, rng: np.random.Generator) -> Floats:
    """Put something between person and camera: a post, a railing, a car's bonnet, a plant."""
    height, width = scene.shape[:2]
    large = Image.new("RGBA", (width * 3, height * 3), (0, 0, 0, 0))
    ink = ImageDraw.Draw(large)
    w, h = large.size
    grey = int(rng.integers(50, 150))
    kind = int(rng.integers(4))
    if kind == 0:
        x = int(rng.uniform(0.15, 0.75) * w)
        ink.rectangle((x, 0, x + int(0.09 * w), h), fill=(grey, grey, grey + 6, 255))
    elif kind == 1:
        y = int(rng.uniform(0.55, 0.68) * h)
        for step in range(3):
            ink.rectangle((0, y + step * h // 11, w, y + step * h // 11 + h // 60), fill=(grey, grey, grey, 255))
        for x in range(int(rng.integers(8, 30)), w, 56):
            ink.rectangle((x, y, x + 7, h), fill=(grey, grey, grey, 255))
    elif kind == 2:
        paint: Colour = CLOTHES[int(rng.integers(len(CLOTHES)))]
        y = int(rng.uniform(0.7, 0.82) * h)
        x = int(rng.uniform(-0.5, 0.3) * w)
        ink.rounded_rectangle((x, y, x + w, h + 40), 30, fill=(*paint, 255))
        ink.rectangle((x, y + h // 14, x + w, y + h // 14 + 4), fill=(20, 20, 22, 255))
    else:
        middle = float(rng.uniform(0.0, 1.0)) * w
        for _ in range(26):
            cx, cy = middle + float(rng.normal(0, 0.13)) * w, h - abs(float(rng.normal(0, 0.14))) * h
            r = float(rng.uniform(6, 15)) * h / 384
            green = int(rng.integers(50, 110))
            ink.ellipse((cx - r, cy - r, cx + r, cy + r), fill=(green - 25, green, green - 30, 255))
    cover = np.asarray(large.resize((width, height), Image.Resampling.BOX), dtype=np.float32)
    alpha = cover[..., 3:] / 255.0
    covered: Floats = scene * (1 - alpha) + cover[..., :3] * alpha
    return covered


def _develop(scene: Floats, camera: Camera, rng: np.random.Generator) -> bytes:
    """The camera's colour, optics, sensor and codec: float [H, W, 3] in 0–255 to JPEG bytes."""
    grey = scene @ np.asarray((0.299, 0.587, 0.114), dtype=np.float32)
    colour = grey[..., None] + camera.saturation * (scene - grey[..., None])
    exposure = float(rng.normal(1.0, 0.07))
    gains = np.asarray(camera.gains, dtype=np.float32) * exposure
    linear = np.clip(colour * gains / 255.0, 0.0, 1.0) ** np.float32(camera.gamma)
    linear = (linear - 0.5) * camera.contrast + 0.5
    linear = linear * (1 - camera.haze) + camera.haze * 0.85
    picture = Image.fromarray((np.clip(linear, 0, 1) * 255).astype(np.uint8))
    scale = scene.shape[0] / 128
    picture = picture.filter(ImageFilter.GaussianBlur(scale * camera.blur * float(rng.uniform(0.6, 1.4))))
    pixels = np.asarray(picture, dtype=np.float32)
    if rng.random() < 0.25:  # motion
        reach = max(1, round(scale * float(rng.uniform(1, 2.4))))
        smeared = [np.roll(pixels, shift, axis=1) for shift in range(-reach, reach + 1)]
        pixels = np.mean(smeared, axis=0, dtype=np.float32)
    noisy = pixels + rng.normal(0.0, camera.noise, pixels.shape)
    buffer = io.BytesIO()
    _picture(noisy).save(buffer, "JPEG", quality=camera.quality)
    return buffer.getvalue()

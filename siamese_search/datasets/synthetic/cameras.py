"""What a camera makes of a person in a scene: viewpoint, light, colour cast, blur, occlusion, noise, JPEG."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from siamese_search.datasets.synthetic.figure import CANVAS, Pose, draw_figure
from siamese_search.datasets.synthetic.people import CLOTHES, Colour, Person
from siamese_search.datasets.synthetic.scenes import HORIZON, SCENE_SIZE, SCENES, draw_scene

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
    return Image.fromarray((pale + _SCENE_PALE * (_SCENE_GREY - pale)).clip(0, 255).astype(np.uint8))


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
        ink.line(
            (x, foot - 0.5 * unit, knee, foot - 0.25 * unit, heel, foot),
            fill=(*low, 255),
            width=max(2, int(0.07 * unit)),
        )
    ink.rounded_rectangle(
        (x - 0.1 * unit, foot - 0.85 * unit, x + 0.1 * unit, foot - 0.46 * unit), 0.05 * unit, fill=(*top, 255)
    )
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
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=camera.quality)
    return buffer.getvalue()

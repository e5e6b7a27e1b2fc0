"""Pictures with the statistics of photographs: 1/f detail, things with edges, a lens, the noise of a sensor."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

#: Standard deviation of each octave of detail, against that of the one before: power falls as 1/f².
_FALL = 0.62
_OCTAVES = range(2, 12)


def draw_photo(seed: int, size: tuple[int, int], noise: float = 2.0) -> Image.Image:
    """RGB of ``size`` (height, width); the seed decides every pixel. noise: grey levels, standard deviation."""
    rng = np.random.default_rng([seed, *size])
    height, width = size
    light = np.full((height, width, 3), 120.0, np.float32) + rng.normal(0, 15, 3).astype(np.float32)
    for octave in _OCTAVES:
        rows, columns = (max(2, (1 << octave) * side // max(size)) for side in size)
        if rows > height or columns > width:
            break
        detail = rng.normal(0, 1, (rows, columns, 1)) + 0.35 * rng.normal(0, 1, (rows, columns, 3))
        detail = (detail * 60 * _FALL ** (octave - _OCTAVES[0])).astype(np.float32)
        for channel in range(3):
            plane = Image.fromarray(np.ascontiguousarray(detail[..., channel]))
            light[..., channel] += np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC))
    for _ in range(25):
        _place(light, rng)
    sharp = Image.fromarray(np.clip(light, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.8))
    seen = np.asarray(sharp, np.float32)
    seen = seen + noise * rng.standard_normal((height, width, 3), np.float32)
    return Image.fromarray(np.clip(seen, 0, 255).astype(np.uint8))


def _place(light: np.ndarray, rng: np.random.Generator) -> None:
    """Add one thing, a disc or a rectangle, of an even colour over what is there."""
    height, width, _ = light.shape
    reach = max(1, int(rng.uniform(0.01, 0.12) * width))
    y, x = rng.integers(0, height), rng.integers(0, width)
    top, left = max(0, y - reach), max(0, x - reach)
    part = light[top : y + reach, left : x + reach]
    colour = rng.uniform(-70, 70, 3).astype(np.float32)
    if rng.random() < 0.5:
        part += colour
    else:
        down, right = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
        part[(down - y) ** 2 + (right - x) ** 2 < reach**2] += colour

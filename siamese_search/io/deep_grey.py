"""Grey images of more than 8 bits, of cameras for science, industry and heat, as the 8 bits that a network sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Of 256 levels of grey so many have to be left by the high byte of 16 bits, or it is not all that is kept.
_LEVELS = 64
#: Pixels of an image that are converted at a time.
_STRIP_PIXELS = 4_000_000


def deep_grey(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as L; Pillow's own conversion clips at 255.

    Modes I and F do not say how deep the file is: Pillow scales PGM to 16 bits, anything else counts as 16-bit
    where it exceeds 255, and as 0–1 where it is float and does not exceed 1. Of 16 bits see :func:`_sixteen_bits`.
    """
    grey = np.empty((image.height, image.width), np.uint8)
    if image.mode.startswith("I;16"):
        return _sixteen_bits(image, grey)
    highest = max((float(_finite(values).max(initial=0.0)) for _, values in _strips(image)), default=0.0)
    if image.format == "PPM" or highest > 255.0:
        if image.mode == "I" and image.format != "PPM":
            return _sixteen_bits(image, grey)
        top = 65535.0
    else:
        top = 1.0 if image.mode == "F" and highest <= 1.0 else 255.0
    for rows, values in _strips(image):
        near = np.clip(_finite(values), -top, 2 * top)  # so that the next line cannot overflow
        grey[rows] = np.clip(near * np.float32(255.0 / top), 0, 255).astype(np.uint8)
    return Image.fromarray(grey)


def _finite(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)


def _strips(image: Image.Image) -> Iterator[tuple[slice, NDArray[Any]]]:
    """A large image's values, some rows at a time: an array of all would be held beside the image."""
    step = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        yield slice(top, bottom), np.asarray(image.crop((0, top, image.width, bottom)))


def _sixteen_bits(image: Image.Image, grey: NDArray[np.uint8]) -> Image.Image:
    """The high byte, unless next to nothing of the picture is in it.

    Sensors of 10, 12 or 14 bits write their values as they are, and thermal cameras a few hundred levels around
    29,000: of these the high byte keeps a handful. What hardly differs at all is a dark or blank frame, and stays one.
    """
    counts = np.zeros(65536, np.int64)
    for _, values in _strips(image):
        counts += np.bincount(np.clip(values, 0, 65535).ravel().astype(np.int64), minlength=65536)
    below = np.cumsum(counts)
    low, high, most = np.searchsorted(below, np.rint((below[-1] - 1) * np.array([0.001, 0.999, 1.0])), "right")
    span = float(high - low)
    depth = next((top for top in (1023.0, 4095.0, 16383.0) if most <= top), 65535.0)
    if span < _LEVELS or span >= _LEVELS * 256:
        base, scale = 0.0, 1 / 256
    elif span >= depth * _LEVELS / 256:
        base, scale = 0.0, 256 / (depth + 1)
    else:
        base, scale = float(low), 255 / span
    for rows, values in _strips(image):
        kept = np.clip(values, 0, 65535).astype(np.float32)
        grey[rows] = np.clip((kept - base) * np.float32(scale), 0, 255).astype(np.uint8)
    return Image.fromarray(grey)

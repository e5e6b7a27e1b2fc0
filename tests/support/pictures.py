"""What the tests of the decoder share: a small picture, and the reason why a file cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_search.errors import ImageError, SiameseSearchError
from siamese_search.io.images import read_image

HEIGHT, WIDTH = 24, 16


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Smooth colour, so that lossy formats keep it: red grows downwards, green to the right, blue is 60."""
    down, right = np.mgrid[0:height, 0:width]
    return np.stack([down * 240 // height, right * 240 // width, np.full_like(down, 60)], -1).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def reason(path: Path | str, **options) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path, **options)
    error = caught.value
    assert isinstance(error, SiameseSearchError)
    assert "\n" not in str(error)
    assert error.reason in str(error)
    return error.reason

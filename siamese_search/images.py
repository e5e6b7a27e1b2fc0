"""read_image(): the one decoder for training, ingest, search and evaluation.

Files come from strangers: only allow-listed formats are opened, only regular files, and only up to a
bound of pixels. Whatever the mode (grey, palette, RGBA, CMYK, 16-bit), RGB uint8 comes out, upright.
"""

from __future__ import annotations

import os
import stat
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from siamese_search.errors import ImageError

#: Pillow's decoders that may see a stranger's bytes. (Its JPEG decoder takes MPO, the format of stereo cameras,
#: too; naming MPO here would raise KeyError for every other format, because Pillow registers no opener for it.)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".gif"}
)

#: About 178 megapixels: above any camera, below what would exhaust memory.
MAX_PIXELS = 178_956_970
MAX_BYTES = 1 << 30


# Pillow warns of bombs and odd EXIF; the bounds below decide. Set once, for good: catch_warnings() would change
# the filters of the whole process from several decoding threads at once.
warnings.filterwarnings("ignore", module=r"PIL\.")


def is_image_name(name: str) -> bool:
    """Whether a file name has the suffix of an allow-listed format."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - hot in scans


def read_image(
    path: str | os.PathLike[str], size: tuple[int, int] | None = None, *, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode one image to RGB uint8 [H, W, 3], upright by its EXIF orientation.

    size: (height, width) to resize to, bilinear with antialiasing; ``None`` keeps the image's own size.
    Transparency is laid over white; of an animation the first frame counts; 16-bit grey keeps its high byte.
    Raises ImageError with a reason that can stand in a list of failures.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - also takes surrogate-escaped names
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(path, "not a regular file")
        if status.st_size == 0:
            raise ImageError(path, "empty file")
        if status.st_size > MAX_BYTES:
            raise ImageError(path, f"file of {status.st_size} bytes is over the limit of {MAX_BYTES}")
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(path, f"{width}x{height} pixels is over the limit of {max_pixels}")
            rgb = _to_rgb(image)
        rgb = ImageOps.exif_transpose(rgb)
        if size is not None and (rgb.height, rgb.width) != tuple(size):
            rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return np.asarray(rgb, dtype=np.uint8)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(path, "no such file") from None
    except PermissionError:
        raise ImageError(path, "permission denied") from None
    except UnidentifiedImageError:
        raise ImageError(path, f"not an image in one of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ImageError(path, f"too many pixels (limit {max_pixels})") from None
    except MemoryError:
        raise ImageError(path, "not enough memory to decode it") from None
    except Exception as error:  # Pillow's decoders raise whatever the damage provokes
        text = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(path, f"cannot be decoded: {text[:160]}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Load the first frame as RGB, keeping its EXIF for the orientation."""
    exif = image.getexif()
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        rgb = Image.fromarray(_deep_grey(image)).convert("RGB")
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        rgb = Image.new("RGB", rgba.size, (255, 255, 255))
        rgb.paste(rgba, mask=rgba.getchannel("A"))
    else:
        rgb = image.convert("RGB")
        if rgb is image:
            rgb = image.copy()
    if exif.get(0x0112, 1) != 1:
        rgb.getexif()[0x0112] = exif[0x0112]
    return rgb


def _deep_grey(image: Image.Image) -> NDArray[np.uint8]:
    """Grey of more than 8 bits as uint8 [H, W]; Pillow's own conversion clips at 255.

    16-bit files keep their high byte, so that a dark frame stays dark. Modes I and F do not say how deep the
    file is: Pillow scales PGM to 16 bits, anything else counts as 16-bit where it exceeds 255, and as 0–1
    where it is float and does not exceed 1.
    """
    if image.mode.startswith("I;16"):
        high: NDArray[np.uint8] = (np.asarray(image) >> 8).astype(np.uint8)
        return high
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)
    highest = values.max(initial=0.0)
    if image.format == "PPM" or highest > 255.0:
        top = 65535.0
    else:
        top = 1.0 if image.mode == "F" and highest <= 1.0 else 255.0
    grey: NDArray[np.uint8] = np.clip(values * np.float32(255.0 / top), 0, 255).astype(np.uint8)
    return grey

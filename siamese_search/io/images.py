"""read_image(): the one decoder for training, ingest, search and evaluation.

Files come from strangers: only allow-listed formats are opened, only regular files, and only up to bounds of
pixels and of work. Whatever the mode (grey, palette, RGBA, CMYK, 16-bit), RGB uint8 comes out, upright.

Of a JPEG much larger than what is asked for, libjpeg-turbo (which Pillow's wheels bring) computes only every
2nd, 4th or 8th pixel, as the mean of the block around it: 12 megapixels to 256×128 cost a quarter of the time.
"""

from __future__ import annotations

import ctypes
import functools
import io
import os
import threading
import warnings
from contextlib import AbstractContextManager, nullcontext, suppress

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, _imaging
from PIL.JpegImagePlugin import JpegImageFile

from siamese_search.errors import ImageError, MissingExtraError, UsageError, printable
from siamese_search.io.image_bytes import read_bytes, without_text
from siamese_search.io.location import FileStamp, RemotePath

#: Pillow's decoders that may see a stranger's bytes. (Its JPEG decoder takes MPO, the format of stereo cameras,
#: too; naming MPO here would raise KeyError for every other format, because Pillow registers no opener for it.)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
#: HEIC counts as an image with and without its decoder, so that no telephone's pictures are passed over in
#: silence: without it each is named, and what to install.
HEIC_SUFFIXES = frozenset({".heic", ".heif"})
IMAGE_SUFFIXES = HEIC_SUFFIXES | {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".gif",
}  # fmt: skip

#: About 178 megapixels: above any camera, below what would exhaust memory.
MAX_PIXELS = 178_956_970
#: A JPEG is decoded at 1/s of its size while that is at least this many times the size asked for. Means of s×s
#: pixels then blur the triangle of the bilinear filter: an ideal edge of contrast C moves by at most
#: C / (8 · 2.9²) = C / 67 (in general C / (8 g²) at g decoded pixels per pixel of the result).
_DECODED_PER_PIXEL = 2.9
#: Images of more pixels, and files of more bytes, are decoded one at a time, so that memory does not grow with threads.
_LARGE_PIXELS = 40_000_000
_LARGE_BYTES = 64 << 20
#: Pixels per byte of a large image. Real ones have at most about 20, a blank PNG of 24 bits has 340.
_MOST_PIXELS_PER_BYTE = 1000
#: Pillow's decoders that are written in Python (a second per megapixel, under the GIL), and the pixels they may have.
_SLOW_DECODERS = frozenset({"ppm_plain", "ppm", "bmp_rle"})
_SLOW_PIXELS = 4_000_000
#: Pixels times scans of a JPEG: each of the scans of a progressive one passes over the whole picture (10 is usual).
_MAX_SCANNED = 4_000_000_000
#: Of 256 levels of grey so many have to be left by the high byte of 16 bits, or it is not all that is kept.
_LEVELS = 64

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: ISO/IEC 23008-12, annex B: brands of files whose pictures are HEVC.
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})

_one_large = threading.RLock()

# Pillow warns of bombs and odd EXIF; the bounds below decide. Set once, for good: catch_warnings() would change
# the filters of the whole process from several decoding threads at once.
warnings.filterwarnings("ignore", module=r"PIL\.")


def is_image_name(name: str) -> bool:
    """Whether a file name has the suffix of an allow-listed format."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - hot in scans


def read_image(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    *,
    fit: bool = False,
    max_pixels: int = MAX_PIXELS,
    expected: FileStamp | None = None,
) -> NDArray[np.uint8]:
    """Decode one image to RGB uint8 [H, W, 3], upright by its EXIF orientation.

    size: (height, width) to resize to, bilinear with antialiasing; ``None`` keeps the image's own size. The
    result is that of a full decode, except that a JPEG of at least 5.8 times the size (in both directions) is
    decoded reduced: nearly all values within 2 grey levels of it, more only at the hardest edges.
    fit: keep the image's shape instead: as large as goes into ``size``, and never enlarged (for thumbnails).
    expected: the state of the file that a scan saw; in another one it counts as changed.
    The content decides the format, not the name. Transparency is laid over white; of an animation the first
    frame counts; 16-bit grey keeps its high byte, or what fewer bits of it hold.
    Raises ImageError with a reason that can stand in a list of failures.
    """
    try:
        with _turn(_file_size(path) > _LARGE_BYTES):
            data = content_of(path, expected)
            try:
                return _decode(path, data, size, max_pixels, fit)
            except (
                ValueError
            ):  # Pillow's limits of text and colour profiles, which are no part of the picture
                plain = without_text(data)
                if len(plain) == len(data):
                    raise
                return _decode(path, plain, size, max_pixels, fit)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(path, f"not an image in one of {', '.join(FORMATS)}, HEIC") from None
    except Image.DecompressionBombError:
        raise ImageError(path, f"too many pixels (limit {max_pixels})") from None
    except MemoryError:
        raise ImageError(path, "not enough memory to decode it") from None
    except Exception as error:  # Pillow's decoders raise whatever the damage provokes
        text = printable(" ".join(str(error).split())) or type(error).__name__
        raise ImageError(path, f"cannot be decoded: {text[:160]}") from None


def resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """An RGB array at ``size``, resampled exactly as :func:`read_image` does. UsageError for what is none."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UsageError(f"a query array must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR), np.uint8)


def content_of(path: str | os.PathLike[str], expected: FileStamp | None = None) -> bytes:
    """All bytes of an image's file, wherever it is: :func:`~siamese_search.io.image_bytes.read_bytes`, or by URL.

    Raises ImageError, within the same bounds for both.
    """
    if isinstance(path, RemotePath):
        from siamese_search.io.remote import fetch

        return fetch(path, expected)
    return read_bytes(path, expected)


def _file_size(path: str | os.PathLike[str]) -> int:
    if isinstance(path, RemotePath):
        return 0 if path.stamp is None else path.stamp.size
    try:
        return os.stat(path).st_size  # noqa: PTH116 - also takes surrogate-escaped names
    except (OSError, ValueError):
        return 0  # content_of() will say why


def _turn(large: bool) -> AbstractContextManager[object]:
    return _one_large if large else nullcontext()


def _decode(
    path: str | os.PathLike[str], data: bytes, size: tuple[int, int] | None, max_pixels: int, fit: bool
) -> NDArray[np.uint8]:
    formats = _heic_formats(path) if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS else FORMATS
    if data.startswith((b"II", b"MM")):
        _silence_libtiff()
    with Image.open(io.BytesIO(data), formats=formats) as image:
        width, height = image.size
        pixels = width * height
        if pixels > max_pixels:
            raise ImageError(path, f"{width}x{height} pixels is over the limit of {max_pixels}")
        if pixels > _LARGE_PIXELS and pixels > _MOST_PIXELS_PER_BYTE * len(data):
            raise ImageError(path, f"{width}x{height} pixels in {len(data)} bytes: a decompression bomb")
        if pixels > _SLOW_PIXELS and image.tile and image.tile[0][0] in _SLOW_DECODERS:
            raise ImageError(
                path,
                f"{width}x{height} pixels is over the limit of {_SLOW_PIXELS} for this kind of {image.format}",
            )
        if isinstance(image, JpegImageFile) and pixels * (scans := _scans(image, data)) > _MAX_SCANNED:
            raise ImageError(
                path, f"a JPEG of {scans} scans of {width}x{height} pixels takes too long to decode"
            )
        if fit and size is not None:
            size = _fitted(image, size)
        with _turn(pixels > _LARGE_PIXELS):
            return _upright(image, size)


def _scans(image: JpegImageFile, data: bytes) -> int:
    """At most how many times a JPEG's data pass over the picture."""
    # A sequential JPEG whose first scan has all components ends with it; only others are searched for more scans.
    assert image.fp is not None
    layers = image.layers
    first = b"\xff\xda" + (6 + 2 * layers).to_bytes(2, "big") + bytes([layers])  # ISO/IEC 10918-1, B.2.3
    at = image.fp.tell() - 8 - 2 * layers  # Pillow has read up to the end of the first scan's header
    if "progressive" not in image.info and data.startswith(first, max(at, 0)):
        return 1
    return data.count(first[:2])


@functools.cache
def _silence_libtiff() -> None:
    """libtiff prints each error on stderr, without the name of the file; we have Pillow's exception."""
    with suppress(Exception):  # a Pillow that keeps the function to itself goes on printing
        handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        handler.argtypes = [ctypes.c_void_p]
        handler.restype = ctypes.c_void_p
        handler(None)


def _heic_formats(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The format of HEIC, once its decoder is there."""
    if "HEIF" not in Image.OPEN:
        try:
            import pillow_heif
        except ImportError:
            raise ImageError(path, str(MissingExtraError("HEIC", "heic"))) from None
        pillow_heif.register_heif_opener(
            thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
        )
    return ("HEIF",)


def _upright(image: Image.Image, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """The first frame as RGB, turned upright, at ``size``."""
    factor = 1
    if size is not None and isinstance(image, JpegImageFile) and image.mode in ("L", "RGB"):
        turned = _orientation(image) >= 5
        factor = _reduction(image.size, size[::-1] if turned else size)
    width, height = image.size[0] / factor, image.size[1] / factor
    if factor > 1:
        image.draft(image.mode, (int(width), int(height)))
    image.load()
    rgb = _to_rgb(image)
    transpose = _UPRIGHT.get(_orientation(image))
    if factor > 1:
        assert size is not None
        # The last decoded row and column may stand for less than a whole block: the box ends where the image does.
        target = size if transpose in _SIDEWAYS else size[::-1]
        rgb = rgb.resize(target, Image.Resampling.BILINEAR, box=(0, 0, width, height))
    if transpose is not None:
        rgb = rgb.transpose(transpose)
    if size is not None and (rgb.height, rgb.width) != tuple(size):
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(rgb, dtype=np.uint8)


def _fitted(image: Image.Image, room: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the upright image within ``room``; its own where it is no larger."""
    width, height = image.size if _UPRIGHT.get(_orientation(image)) not in _SIDEWAYS else image.size[::-1]
    scale = min(room[0] / height, room[1] / width, 1.0)
    return max(1, round(height * scale)), max(1, round(width * scale))


_SIDEWAYS = frozenset(_UPRIGHT[orientation] for orientation in (5, 6, 7, 8))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or where the EXIF data are damaged."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow's parser raises whatever the damage provokes; the picture itself may be sound
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _reduction(stored: tuple[int, int], size: tuple[int, int]) -> int:
    """By how much libjpeg may reduce a picture of ``stored`` (width, height) for a ``size`` of (height, width)."""
    ratio = min(stored[0] / size[1], stored[1] / size[0]) / _DECODED_PER_PIXEL
    return next(factor for factor in (8, 4, 2, 1) if factor <= max(ratio, 1.0))


def _to_rgb(image: Image.Image) -> Image.Image:
    """The loaded image as RGB."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_deep_grey(image)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        rgb = Image.new("RGB", rgba.size, (255, 255, 255))
        rgb.paste(rgba, mask=rgba.getchannel("A"))
        return rgb
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_grey(image: Image.Image) -> NDArray[np.uint8]:
    """Grey of more than 8 bits as uint8 [H, W]; Pillow's own conversion clips at 255.

    Modes I and F do not say how deep the file is: Pillow scales PGM to 16 bits, anything else counts as 16-bit
    where it exceeds 255, and as 0–1 where it is float and does not exceed 1. Of 16 bits see :func:`_sixteen_bits`.
    """
    if image.mode.startswith("I;16"):
        return _sixteen_bits(np.asarray(image))
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)
    highest = values.max(initial=0.0)
    if image.format == "PPM" or highest > 255.0:
        if image.mode == "I" and image.format != "PPM":
            return _sixteen_bits(np.clip(values, 0, 65535).astype(np.uint16))
        top = 65535.0
    else:
        top = 1.0 if image.mode == "F" and highest <= 1.0 else 255.0
    values = np.clip(values, -top, 2 * top)  # so that the next line cannot overflow
    grey: NDArray[np.uint8] = np.clip(values * np.float32(255.0 / top), 0, 255).astype(np.uint8)
    return grey


def _sixteen_bits(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """The high byte, unless next to nothing of the picture is in it.

    Sensors of 10, 12 or 14 bits write their values as they are, and thermal cameras a few hundred levels around
    29,000: of these the high byte keeps a handful. What hardly differs at all is a dark or blank frame, and stays one.
    """
    low, high = (float(value) for value in np.percentile(values, (0.1, 99.9), method="nearest"))
    span = high - low
    depth = next((top for top in (1023.0, 4095.0, 16383.0) if values.max(initial=0) <= top), 65535.0)
    if span < _LEVELS or span >= _LEVELS * 256:
        base, scale = 0.0, 1 / 256
    elif span >= depth * _LEVELS / 256:
        base, scale = 0.0, 256 / (depth + 1)
    else:
        base, scale = low, 255 / span
    if (base, scale) == (0.0, 1 / 256):
        grey: NDArray[np.uint8] = (values >> 8).astype(np.uint8)
    else:
        grey = np.clip((values.astype(np.float32) - base) * scale, 0, 255).astype(np.uint8)
    return grey

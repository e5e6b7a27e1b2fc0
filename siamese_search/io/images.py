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
import logging
import os
import warnings
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, _imaging
from PIL.JpegImagePlugin import JpegImageFile

from siamese_search.errors import ImageError, MissingExtraError, UsageError, in_words
from siamese_search.io.deep_grey import deep_grey
from siamese_search.io.location import MAX_BYTES, FileStamp, RemotePath, TooLargeError, read_bytes, without_text
from siamese_search.io.resources import Room, available_memory

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
#: All threads together hold so many bytes of files, and of pixels: memory does not grow with their number.
_files, _pixels = Room(available_memory() // 8), Room(available_memory() // 4)
#: Of one image, so that what else the process holds has its place.
_MOST_BYTES = available_memory() // 2
_TOO_MUCH = f"more than half of the memory that there is ({available_memory() >> 20} MiB)"
#: Bytes held for an object whose size nobody has said; a larger one is asked for again, alone.
_UNKNOWN_BYTES = 8 << 20
#: Images of more pixels are looked at for bombs.
_LARGE_PIXELS = 40_000_000
#: Pixels per byte of a large image. Real ones have at most about 20, a blank PNG of 24 bits has 340.
_MOST_PIXELS_PER_BYTE = 1000
#: Pillow's decoders that are written in Python (a second per megapixel, under the GIL), and the pixels they may have.
_SLOW_DECODERS = frozenset({"ppm_plain", "ppm", "bmp_rle"})
_SLOW_PIXELS = 4_000_000
#: Pixels times scans of a JPEG: each of the scans of a progressive one passes over the whole picture (10 is usual).
_MAX_SCANNED = 4_000_000_000

#: Bytes of a decode after which a few milliseconds for giving them back do not count.
_WORTH_TRIMMING = 32 << 20

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
_SIDEWAYS = (5, 6, 7, 8)
#: ISO/IEC 23008-12, annex B: brands of files whose pictures are HEVC.
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})

# Pillow warns of bombs and odd EXIF; the bounds below decide. Set once, for good: catch_warnings() would change
# the filters of the whole process from several decoding threads at once.
warnings.filterwarnings("ignore", module=r"PIL\.")
# And it logs an error before it raises one, which names the file.
logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)


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

    size: (height, width) to resize to, bilinear with antialiasing; ``None`` keeps the image's own. The result is that
    of a full decode, except that a JPEG of at least 5.8 times the size is decoded reduced: nearly all values within 2
    grey levels of it. fit: keep the image's shape instead, and never enlarge. expected: the state of the file that a
    scan saw; in another one it counts as changed. The content decides the format, not the name. Transparency is laid
    over white; of an animation the first frame counts; of 16-bit grey see :mod:`.deep_grey`. Raises ImageError with a
    reason that can stand in a list of failures.
    """
    return _guarded(path, max_pixels, lambda: _read(path, size, max_pixels, fit, expected))


def held_image(image: NDArray[np.uint8] | bytes | Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image in memory at ``size``, uint8 [H, W, 3], as :func:`read_image` gives that of a file.

    image: an RGB array, the bytes of a file, or one of Pillow's. Raises as :func:`read_image` and :func:`resized`.
    """
    if isinstance(image, np.ndarray):
        return resized(image, size)
    if isinstance(image, bytes):
        return decode_image(image, size)
    if 0 in image.size:
        raise UsageError(f"an image of {image.width} x {image.height} pixels shows nothing")
    return _guarded("image", MAX_PIXELS, lambda: _upright(image, size))


def decode_image(
    data: bytes,
    size: tuple[int, int] | None = None,
    *,
    name: str = "image",
    fit: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.uint8]:
    """:func:`read_image` of a file's bytes that are in memory. name: for the errors."""
    if not data:
        raise ImageError(name, "empty file")
    return _guarded(name, max_pixels, lambda: _without_limits(name, data, size, max_pixels, fit))


def _guarded(path: str | os.PathLike[str], max_pixels: int, work: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """What ``work`` makes, or an ImageError whatever goes wrong in it."""
    try:
        return work()
    except ImageError as error:
        failed = error
    except UnidentifiedImageError:
        failed = ImageError(path, f"not an image in one of {', '.join(FORMATS)}, HEIC")
    except Image.DecompressionBombError:
        failed = ImageError(path, f"too many pixels (limit {max_pixels})")
    except MemoryError:
        failed = ImageError(path, "not enough memory to decode it")
    except Exception as error:  # Pillow's decoders raise whatever the damage provokes
        failed = ImageError(path, f"cannot be decoded: {in_words(error)}")
    # Without its past, whose frames would keep file and pixels for as long as the error stands in a list of failures.
    failed.__context__ = failed.__cause__ = None
    raise failed.with_traceback(None)


def _read(
    path: str | os.PathLike[str], size: tuple[int, int] | None, max_pixels: int, fit: bool, expected: FileStamp | None
) -> NDArray[np.uint8]:
    """The image, its file's bytes held within the room for them."""
    known = _file_size(path)
    if known > _MOST_BYTES:
        raise ImageError(path, f"file of {known} bytes is {_TOO_MUCH}")
    if not known:
        with suppress(TooLargeError), _files.taken(_UNKNOWN_BYTES):
            return _without_limits(path, content_of(path, expected, limit=_UNKNOWN_BYTES), size, max_pixels, fit)
    with _files.taken(known or _files.size):
        return _without_limits(path, content_of(path, expected), size, max_pixels, fit)


def _without_limits(
    path: str | os.PathLike[str], data: bytes, size: tuple[int, int] | None, max_pixels: int, fit: bool
) -> NDArray[np.uint8]:
    """:func:`_decode`, also where text and colour profiles, which are no part of the picture, pass Pillow's limits."""
    try:
        return _decode(path, data, size, max_pixels, fit)
    except ValueError:
        plain = without_text(data)
        if len(plain) == len(data):
            raise
        return _decode(path, plain, size, max_pixels, fit)


def resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """An RGB array at ``size``, resampled exactly as :func:`read_image` does. UsageError for what is none."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        how = "; of 0 to 1: (255 * array).astype('uint8')" if image.dtype.kind == "f" else ""
        raise UsageError(f"a query array must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}{how}")
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR), np.uint8)


def content_of(path: str | os.PathLike[str], expected: FileStamp | None = None, *, limit: int = MAX_BYTES) -> bytes:
    """All bytes of an image's file, wherever it is: :func:`~siamese_search.io.location.read_bytes`, or by URL.

    limit: of bytes, for what comes by URL. Raises ImageError, within the same bounds for both.
    """
    if isinstance(path, RemotePath):
        from siamese_search.io.remote import fetch

        return fetch(path, expected, limit=min(limit, _MOST_BYTES))
    return read_bytes(path, expected)


def _file_size(path: str | os.PathLike[str]) -> int:
    if isinstance(path, RemotePath):
        return 0 if path.stamp is None else path.stamp.size
    try:
        return os.stat(path).st_size  # noqa: PTH116 - also takes surrogate-escaped names
    except (OSError, ValueError):
        return 0  # content_of() will say why


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
                path, f"{width}x{height} pixels is over the limit of {_SLOW_PIXELS} for this kind of {image.format}"
            )
        if isinstance(image, JpegImageFile) and pixels * (scans := _scans(image, data)) > _MAX_SCANNED:
            raise ImageError(path, f"a JPEG of {scans} scans of {width}x{height} pixels takes too long to decode")
        if fit and size is not None:
            size = _fitted(image, size)
        needed = _memory_of(image, size)
        if len(data) + needed > _MOST_BYTES:
            raise ImageError(path, f"{width}x{height} pixels need {needed >> 20} MiB to decode, {_TOO_MUCH}")
        with _pixels.taken(needed):
            try:
                return _upright(image, size)
            finally:
                image.close()  # its pixels go while they are still counted
                if needed > _WORTH_TRIMMING:
                    # Give freed memory back: glibc keeps up to some 100 MB for each thread that has decoded one.
                    with suppress(Exception):  # another C library
                        ctypes.CDLL(None).malloc_trim(0)


def _memory_of(image: Image.Image, size: tuple[int, int] | None) -> int:
    """About the most bytes that :func:`_upright` holds at one moment."""
    pixels = image.size[0] * image.size[1]
    if isinstance(image, JpegImageFile):
        kept = 6 * pixels if "progressive" in image.info else 0  # the coefficients, of the full size
        return kept + 12 * pixels // _factor(image, size) ** 2
    each = {"RGB": 8, "L": 6, "F": 6, "I": 6}.get(image.mode.split(";")[0], 12)  # once more where RGB is turned
    if "A" in image.mode.upper() or "transparency" in image.info:
        each = 17
    return pixels * (each + (4 if image.format in ("TIFF", "WEBP", "HEIF") else 0))  # the decoder's own


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
        handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        handler(None)


def _heic_formats(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The format of HEIC, once its decoder is there."""
    if "HEIF" not in Image.OPEN:
        try:
            import pillow_heif
        except ImportError:
            raise ImageError(path, str(MissingExtraError("HEIC", "heic"))) from None
        pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    return ("HEIF",)


def _upright(image: Image.Image, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """The first frame as RGB, turned upright, at ``size``."""
    factor = _factor(image, size)
    width, height = image.size[0] / factor, image.size[1] / factor
    if factor > 1:
        image.draft(image.mode, (int(width), int(height)))
    image.load()
    rgb = _plain(image)
    orientation = _orientation(image)
    if factor > 1:
        assert size is not None
        # The last decoded row and column may stand for less than a whole block: the box ends where the image does.
        target = size if orientation in _SIDEWAYS else size[::-1]
        rgb = rgb.resize(target, Image.Resampling.BILINEAR, box=(0, 0, width, height))
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    if size is not None and (rgb.height, rgb.width) != tuple(size):
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(rgb if rgb.mode == "RGB" else rgb.convert("RGB"), dtype=np.uint8)


def _factor(image: Image.Image, size: tuple[int, int] | None) -> int:
    """By how much libjpeg reduces the picture; 1 for other formats."""
    if size is None or not isinstance(image, JpegImageFile) or image.mode not in ("L", "RGB"):
        return 1
    return _reduction(image.size, size[::-1] if _orientation(image) in _SIDEWAYS else size)


def _fitted(image: Image.Image, room: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the upright image within ``room``; its own where it is no larger."""
    width, height = image.size[::-1] if _orientation(image) in _SIDEWAYS else image.size
    scale = min(room[0] / height, room[1] / width, 1.0)
    return max(1, round(height * scale)), max(1, round(width * scale))


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


def _plain(image: Image.Image) -> Image.Image:
    """The loaded image as RGB, or as L where it is grey: resized, that is the same in a quarter of the memory."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return deep_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        rgb = Image.new("RGB", rgba.size, (255, 255, 255))
        rgb.paste(rgba, mask=rgba.getchannel("A"))
        return rgb
    return image if image.mode in ("RGB", "L") else image.convert("RGB")

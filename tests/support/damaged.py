"""A fuzzer with a seed: good images of every format that the project opens become damaged files.

    python tests/support/damaged.py DIRECTORY [--count 1000] [--seed 0]

writes them. The same seed and the same Pillow give the same bytes. The damage is that of disks (lost, repeated,
zeroed and swapped blocks), of networks (cut off, garbage around), of people (wrong extensions, files glued together)
and of those who want to harm (sizes and lengths that lie).
"""

from __future__ import annotations

import argparse
import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

#: Values at which decoders have gone wrong: nothing, one, and the edges of signed and unsigned numbers.
_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_SIDES = (0, 1, 7, 255, 2000, 16383, 20000, 65535)
_SUFFIXES = (".jpg", ".png", ".webp", ".bmp", ".tif", ".ppm", ".gif", ".heic")


@dataclass(frozen=True, slots=True)
class DamagedFile:
    """name: of the file, with the kinds of image and damage in it. data: what is left of it."""

    name: str
    data: bytes


@cache
def good_images() -> dict[str, bytes]:
    """Small images that can all be read, by ``kind.suffix``; HEIC where pillow-heif is installed."""
    down, right = np.mgrid[0:48, 0:40]
    colour = np.stack([down * 5, right * 6, (down + right) * 2 % 256], -1).astype(np.uint8)
    rgb = Image.fromarray(colour)
    frames = [Image.new("RGB", rgb.size, shade) for shade in ("red", "green", "blue")]
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a picture"
    deep = Image.fromarray((down * right * 30).astype(np.uint16))
    rgba = rgb.copy()
    rgba.putalpha(Image.fromarray((255 - right * 5).astype(np.uint8)))
    good = {
        "baseline.jpg": _saved(rgb, "JPEG", quality=90, exif=exif),
        "progressive.jpg": _saved(rgb, "JPEG", progressive=True),
        "full.jpg": _saved(rgb, "JPEG", subsampling=0),
        "large.jpg": _saved(rgb.resize((400, 480)), "JPEG", quality=80),
        "grey.jpg": _saved(rgb.convert("L"), "JPEG"),
        "cmyk.jpg": _saved(rgb.convert("CMYK"), "JPEG"),
        "stereo.jpg": _saved(rgb, "MPO", frames[:1], quality=95),
        "rgb.png": _saved(rgb, "PNG", exif=exif),
        "rgba.png": _saved(rgba, "PNG"),
        "palette.png": _saved(rgb.quantize(16), "PNG", transparency=3),
        "deep.png": _saved(deep, "PNG"),
        "bits.png": _saved(rgb.convert("1"), "PNG"),
        "animated.png": _saved(rgb, "PNG", frames),
        "lossy.webp": _saved(rgb, "WEBP", exif=exif),
        "lossless.webp": _saved(rgba, "WEBP", lossless=True),
        "animated.webp": _saved(rgb, "WEBP", frames),
        "rgb.bmp": _saved(rgb, "BMP"),
        "palette.bmp": _saved(rgb.quantize(16), "BMP"),
        "raw.tif": _saved(rgb, "TIFF"),
        "lzw.tif": _saved(rgb, "TIFF", compression="tiff_lzw", exif=exif),
        "deflate.tif": _saved(deep, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": _saved(rgb, "TIFF", compression="jpeg"),
        "packbits.tif": _saved(rgb.convert("1"), "TIFF", compression="packbits"),
        "float.tif": _saved(Image.fromarray(down.astype(np.float32) / 48), "TIFF"),
        "pages.tif": _saved(rgb, "TIFF", frames),
        "rgb.ppm": _saved(rgb, "PPM"),
        "deep.pgm": _saved(deep, "PPM"),
        "plain.ppm": b"P3\n4 2\n200\n" + b" ".join(b"%d" % (n * 8) for n in range(24)) + b"\n",
        "scaled.ppm": b"P6\n4 2\n200\n" + bytes(range(0, 192, 8)),
        "one.gif": _saved(rgb, "GIF"),
        "animated.gif": _saved(rgb, "GIF", frames),
    }
    try:
        from pillow_heif import from_pillow
    except ImportError:
        return good
    for name, image in (("rgb.heic", rgb), ("rgba.heic", rgba)):
        buffer = io.BytesIO()
        from_pillow(image).save(buffer, quality=60)
        good[name] = buffer.getvalue()
    return good


def _saved(image: Image.Image, form: str, frames: Sequence[Image.Image] = (), **options: object) -> bytes:
    buffer = io.BytesIO()
    if frames:
        options |= {"save_all": True, "append_images": [frame.copy() for frame in frames]}
    # A copy, because Pillow leaves the options of one encoder on the image for the next.
    image.copy().save(buffer, form, **options)
    return buffer.getvalue()


def damaged_files(count: int, seed: int = 0) -> Iterator[DamagedFile]:
    """``count`` damaged files: the kinds of image and of damage in turn, where it strikes by the seed."""
    good = sorted(good_images().items())
    kinds = sorted(DAMAGE.items())
    for number in range(count):
        name, data = good[number % len(good)]
        damage, strike = kinds[number // len(good) % len(kinds)]
        rng = random.Random(f"{seed} {number}")
        kind, suffix = name.rsplit(".", 1)
        extension = rng.choice(_SUFFIXES) if damage == "wrong extension" else f".{suffix}"
        result = strike(data, rng)
        yield DamagedFile(f"{number:05d} {suffix} {kind} {damage}{extension}", result)


def write_damaged(root: Path, count: int, seed: int = 0) -> list[Path]:
    """The files of :func:`damaged_files` in one directory."""
    root.mkdir(parents=True, exist_ok=True)
    paths = []
    for file in damaged_files(count, seed):
        paths.append(root / file.name)
        paths[-1].write_bytes(file.data)
    return paths


# -- kinds of damage ------------------------------------------------------------------------------------------


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _cut_short(data: bytes, rng: random.Random) -> bytes:
    return data[: -rng.randrange(1, 16)]


def _flip_bits(data: bytes, rng: random.Random) -> bytes:
    body = bytearray(data)
    for _ in range(rng.choice((1, 3, 10, 100))):
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    return bytes(body)


def _noise(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def _zeros(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + bytes(end - start) + data[end:]


def _zero_tail(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))  # a download that reserved its space and stopped
    return data[:start] + bytes(len(data) - start)


def _remove(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 2, 50)) + data[end:]


def _swap(data: bytes, rng: random.Random) -> bytes:
    block = max(1, len(data) // rng.choice((3, 6, 12)))
    blocks = [data[at : at + block] for at in range(0, len(data), block)]
    one, other = rng.randrange(len(blocks)), rng.randrange(len(blocks))
    blocks[one], blocks[other] = blocks[other], blocks[one]
    return b"".join(blocks)


def _garbage_before(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((1, 2, 4, 512))) + data


def _garbage_after(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.choice((1, 100, 5000)))


def _header_lies(data: bytes, rng: random.Random) -> bytes:
    body = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        _overwrite(body, rng.randrange(min(len(body), 64)), rng)
    return bytes(body)


def _length_lies(data: bytes, rng: random.Random) -> bytes:
    """Where a number stands that could be a length or an offset into this file, put another."""
    body = bytearray(data)
    likely = [
        at
        for at in range(len(data) - 4)
        for order in (">I", "<I")
        if 0 < struct.unpack_from(order, data, at)[0] <= len(data)
    ]
    for _ in range(rng.randrange(1, 4)):
        _overwrite(body, rng.choice(likely) if likely else 0, rng)
    return bytes(body)


def _size_lies(data: bytes, rng: random.Random) -> bytes:
    """Another width and height in the header, with what the format needs to believe it."""
    width, height = rng.choice(_SIDES), rng.choice(_SIDES)
    body = bytearray(data)
    if data.startswith(b"\x89PNG"):
        struct.pack_into(">II", body, 16, width, height)
        struct.pack_into(">I", body, 29, zlib.crc32(body[12:29]))
    elif data.startswith(b"GIF"):
        for at in (6, data.find(b"\x2c") + 5):  # the screen, and what is likely the first frame
            struct.pack_into("<HH", body, at, width & 0xFFFF, height & 0xFFFF)
    elif data.startswith(b"BM"):
        struct.pack_into("<ii", body, 18, width, rng.choice((height, -height)))
    elif data.startswith((b"P3", b"P5", b"P6")):
        kind, _, rest = data.split(b"\n", 2)
        return b"%s\n%d %d\n%s" % (kind, width, height, rest)
    elif data.startswith(b"\xff\xd8"):
        at = next((at for at in (data.find(bytes((0xFF, m))) for m in (0xC0, 0xC1, 0xC2)) if at > 0), 0)
        struct.pack_into(">HH", body, at + 5, height & 0xFFFF, width & 0xFFFF)
    elif data.startswith((b"II", b"MM")):
        for tag, value in ((256, width), (257, height)):
            if (at := data.find(struct.pack("<H", tag))) > 0 and at + 12 <= len(data):
                struct.pack_into("<HHII", body, at, tag, 4, 1, value)
    else:  # WebP's canvas, and HEIC's "ispe" box
        at = data.find(b"ispe")
        struct.pack_into(">II" if at > 0 else "<HH", body, at + 8 if at > 0 else 24, width & 0xFFFF, height & 0xFFFF)
    return bytes(body)


def _chimera(data: bytes, rng: random.Random) -> bytes:
    """The beginning of one file and the rest of another."""
    other = rng.choice(sorted(good_images().values()))
    at = rng.randrange(4, min(len(data), len(other)) // 2)
    return data[:at] + other[at:]


def _whole(data: bytes, rng: random.Random) -> bytes:
    return data


def _empty(data: bytes, rng: random.Random) -> bytes:
    return bytes(rng.choice((0, 1, 2, 8, 4096))) if data else b""


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice((1, 4, 16, 64, 512)))


def _overwrite(body: bytearray, at: int, rng: random.Random) -> None:
    width = rng.choice((1, 2, 4))
    number = (rng.choice(_EXTREMES) & ((1 << 8 * width) - 1)).to_bytes(width, rng.choice(("big", "little")))
    body[at : at + width] = number[: max(0, len(body) - at)]


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bits flipped": _flip_bits,
    "block of noise": _noise,
    "block of zeros": _zeros,
    "block removed": _remove,
    "block repeated": _repeat,
    "blocks swapped": _swap,
    "chimera": _chimera,
    "cut": _cut,
    "cut at the very end": _cut_short,
    "empty or zeros": _empty,
    "garbage after": _garbage_after,
    "garbage before": _garbage_before,
    "header lies": _header_lies,
    "length lies": _length_lies,
    "size lies": _size_lies,
    "tail of zeros": _zero_tail,
    "wrong extension": _whole,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(len(write_damaged(options.directory, options.count, options.seed)), "files in", options.directory)

"""read_image: everything that is not to be opened, cannot be read, or would take too long, and its reason."""

from __future__ import annotations

import io
import os
import random
import signal
import struct
import subprocess
import sys
import time
import traceback
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pictures import HEIGHT, WIDTH, picture, reason, saved
from PIL import Image

from siamese_search.errors import ImageError
from siamese_search.io import images
from siamese_search.io.images import MAX_PIXELS, read_image
from siamese_search.io.resources import Room


def test_missing_empty_directory_and_text(tmp_path):
    assert reason(tmp_path / "no.jpg") == "no such file"
    assert reason(tmp_path) == "not a regular file"
    (tmp_path / "zero.jpg").write_bytes(b"")
    assert reason(tmp_path / "zero.jpg") == "empty file"
    (tmp_path / "text.jpg").write_text("hello, this is no picture")
    assert reason(tmp_path / "text.jpg").startswith("not an image")
    assert "name too long" in reason(tmp_path / ("x" * 300 + ".jpg"))


def test_a_name_with_nul_is_an_image_error():
    assert reason("a\x00b.jpg")


def test_a_fifo_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    signal.alarm(10)
    try:
        assert reason(tmp_path / "pipe.jpg") == "not a regular file"
    finally:
        signal.alarm(0)


def test_devices_are_refused():
    assert reason("/dev/zero") == "not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(tmp_path):
    path = saved(tmp_path / "x.png", Image.fromarray(picture()))
    path.chmod(0)
    assert reason(path) == "permission denied"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "gif", "bmp"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_truncated_files(tmp_path, suffix, keep):
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    path = saved(tmp_path / f"x.{suffix}", Image.fromarray(noise))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    assert reason(path)


def test_too_many_pixels_are_refused_before_decoding(tmp_path):
    path = saved(tmp_path / "x.png", Image.new("1", (3000, 2000)))
    assert reason(path, max_pixels=5_999_999) == "3000x2000 pixels is over the limit of 5999999"
    assert read_image(path, (8, 8), max_pixels=6_000_000).shape == (8, 8, 3)


def test_a_bomb_that_claims_gigapixels(tmp_path):
    """A header of 60000×60000 in a file of a few bytes."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
        + header
        + struct.pack(">I", zlib.crc32(b"IHDR" + header))
        + b"\x00\x00\x10\x00IDAT"
    )
    assert "pixels" in reason(path)


def claiming(form: str, width: int, height: int) -> bytes:
    """A small image whose header says that it is ``width`` × ``height``."""
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, format=form)
    data = bytearray(buffer.getvalue())
    if form == "PNG":
        struct.pack_into(">II", data, 16, width, height)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    elif form == "JPEG":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    elif form == "BMP":
        struct.pack_into("<ii", data, 18, width, height)
    elif form == "GIF":
        struct.pack_into("<HH", data, 6, width, height)
    elif form == "TIFF":
        for tag, value in ((256, width), (257, height)):
            struct.pack_into("<HHII", data, data.index(struct.pack("<HHI", tag, 4, 1)), tag, 4, 1, value)
    else:
        data[:] = data.replace(b"%d %d" % (WIDTH, HEIGHT), b"%d %d" % (width, height), 1)
    return bytes(data)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM"])
def test_twenty_thousand_by_twenty_thousand(tmp_path, form):
    path = tmp_path / "x"
    path.write_bytes(claiming(form, 20_000, 20_000))
    assert reason(path) == f"too many pixels (limit {MAX_PIXELS})"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM"])
def test_a_bomb_within_the_limit_of_pixels(tmp_path, form):
    """Each would take seconds and half a gigabyte, and there may be thousands of them."""
    path = tmp_path / "x"
    path.write_bytes(claiming(form, 13_000, 13_000))
    assert reason(path).endswith(f"pixels in {path.stat().st_size} bytes: a decompression bomb")


def test_a_jpeg_of_very_many_scans_is_refused(tmp_path):
    """A scan costs a few bytes in the file and a pass over the whole picture."""
    image = Image.fromarray(picture(1000, 1000))
    usual = saved(tmp_path / "a.jpg", image, progressive=True)
    assert read_image(usual).shape == (1000, 1000, 3)
    data = usual.read_bytes()
    scan = data[data.rindex(b"\xff\xda") : -2]
    usual.write_bytes(data[:-2] + scan * 4000 + data[-2:])
    assert reason(usual) == (
        f"a JPEG of {data.count(bytes([255, 218])) + 4000} scans of 1000x1000 pixels takes too long to decode"
    )
    sequential = saved(tmp_path / "b.jpg", image)  # whose only scan is complete: what follows is not read
    sequential.write_bytes(sequential.read_bytes() + b"\xff\xda" * 4000)
    assert read_image(sequential).shape == (1000, 1000, 3)


def test_large_images_that_pillow_decodes_in_python_are_refused(tmp_path):
    path = tmp_path / "x.ppm"
    path.write_bytes(b"P6\n2001 2000\n255\n" + bytes(2001 * 2000 * 3))
    assert read_image(path, (8, 8)).shape == (8, 8, 3)
    path.write_bytes(b"P6\n2001 2000\n254\n" + bytes(2001 * 2000 * 3))
    assert reason(path) == "2001x2000 pixels is over the limit of 4000000 for this kind of PPM"
    path.write_bytes(b"P3\n2001 2000\n255\n" + b"0 " * 6000)
    assert reason(path) == "2001x2000 pixels is over the limit of 4000000 for this kind of PPM"


def test_pillow_writes_nothing_to_stderr_of_what_we_name(tmp_path):
    """It logs an error before it raises one, which Python prints where nobody set up logging."""
    path = tmp_path / "a.tif"
    Image.new("RGB", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<HHI", 277, 3, 1))  # SamplesPerPixel, one SHORT
    data[at + 8 : at + 10] = struct.pack("<H", 2196)
    path.write_bytes(data)
    code = f"from siamese_search.io.images import read_image; read_image({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "ImageError" in done.stderr
    assert "More samples" not in done.stderr.partition("Traceback")[0]


def test_images_that_have_no_room_beside_each_other_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    """Else memory would grow with the number of threads."""
    monkeypatch.setattr(images, "_pixels", Room(1))
    path = saved(tmp_path / "x.png", Image.fromarray(picture()))
    upright, inside, most = images._upright, [], []

    def counted(*arguments):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        try:
            return upright(*arguments)
        finally:
            inside.pop()

    monkeypatch.setattr(images, "_upright", counted)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(read_image, [path] * 12):
            np.testing.assert_array_equal(result, picture())
    assert len(most) == 12
    assert max(most) == 1
    monkeypatch.setattr(images, "_pixels", Room(1 << 30))
    most.clear()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_image, [path] * 12))
    assert max(most) > 1


def test_many_deep_images_at_once_take_the_memory_of_few(tmp_path):
    """Each is within all limits; together they are not to have more than there is room for."""
    row = np.random.default_rng(0).random(4000).astype(np.float32)
    Image.fromarray(np.tile(row, (2500, 1))).save(tmp_path / "x.tif", compression="tiff_adobe_deflate")
    code = f"""
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from siamese_search.io import images
from siamese_search.io.resources import Room
images._pixels = Room(100 << 20)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
one = images.read_image({str(tmp_path / "x.tif")!r}, (256, 128)); before = peak()
with ThreadPoolExecutor(8) as pool:
    for result in pool.map(images.read_image, [{str(tmp_path / "x.tif")!r}] * 8, [(256, 128)] * 8):
        assert (result == one).all()
print(before, peak())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after - before < 120  # MiB; the images alone would be 320


def test_an_error_keeps_nothing_of_its_file(tmp_path):
    """Of thousands of failures in a list each would keep what it had read."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = saved(tmp_path / "x.png", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageError) as caught:
        read_image(path)
    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert names[1:] == ["read_image", "_guarded"]
    assert caught.value.__context__ is None


def test_what_needs_more_than_half_of_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_MOST_BYTES", 1 << 20)
    path = saved(tmp_path / "x.png", Image.fromarray(picture(500, 500)))
    assert "500x500 pixels need 1 MiB to decode, more than half of the memory" in reason(path)
    path.write_bytes(bytes(2 << 20))
    assert "file of 2097152 bytes is more than half of the memory" in reason(path)


@pytest.mark.parametrize("form", ["EPS", "PDF", "ICO", "TGA", "PCX", "SGI", "ICNS", "JPEG2000", "DDS"])
def test_other_formats_of_pillow_are_refused(tmp_path, form):
    path = tmp_path / "x.jpg"
    try:
        Image.fromarray(picture(32, 32)).save(path, format=form)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow cannot write {form}")
    assert reason(path).startswith("not an image in one of JPEG")


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One of the things that disks, networks and people do to files."""
    body = bytearray(data)
    kind = rng.randrange(6)
    at = rng.randrange(len(body))
    if kind == 0:
        for _ in range(rng.randrange(1, 12)):
            body[rng.randrange(len(body))] = rng.randrange(256)
    elif kind == 1:
        del body[at:]
    elif kind == 2:
        del body[at : at + rng.randrange(1, 40)]
    elif kind == 3:
        body[at:at] = rng.randbytes(rng.randrange(1, 40))
    elif kind == 4:  # the header, where sizes and offsets live
        for _ in range(rng.randrange(1, 6)):
            body[rng.randrange(min(64, len(body)))] = rng.choice((0, 1, 127, 128, 255))
    else:
        end = min(len(body), at + 64)
        body[at:end] = bytes(end - at)
    return bytes(body)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF", "MPO"])
def test_damage_never_raises_anything_but_an_image_error(tmp_path, form):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if form in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    Image.fromarray(picture(40, 30)).save(buffer, format=form, **options)
    rng = random.Random(form)
    path = tmp_path / "x"
    outcomes = {"read": 0, "refused": 0}
    for _ in range(100):
        path.write_bytes(damaged(buffer.getvalue(), rng))
        try:
            result = read_image(path, (16, 8), max_pixels=4_000_000)
        except ImageError:
            outcomes["refused"] += 1
        else:
            assert (result.shape, result.dtype) == ((16, 8, 3), np.uint8)
            outcomes["read"] += 1
    assert outcomes["refused"] > 0

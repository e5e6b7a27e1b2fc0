"""read_image: every mode and form that an image can have. What it refuses is in test_images_refused.py."""

from __future__ import annotations

import os
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from pictures import HEIGHT, WIDTH, picture, reason, saved
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from siamese_search.errors import ImageError, UsageError
from siamese_search.io.images import FORMATS, HEIC_SUFFIXES, IMAGE_SUFFIXES, held_image, is_image_name, read_image


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "ppm"])
def test_lossless_formats_are_exact(tmp_path, suffix):
    path = saved(tmp_path / f"x.{suffix}", Image.fromarray(picture()))
    result = read_image(path)
    assert (result.dtype, result.shape) == (np.uint8, (HEIGHT, WIDTH, 3))
    np.testing.assert_array_equal(result, picture())


@pytest.mark.parametrize(("suffix", "tolerance"), [("jpg", 12), ("webp", 16), ("gif", 40)])
def test_lossy_formats_are_close(tmp_path, suffix, tolerance):
    path = saved(tmp_path / f"x.{suffix}", Image.fromarray(picture()))
    assert np.abs(read_image(path).astype(int) - picture()).max() <= tolerance


def test_the_content_decides_not_the_name(tmp_path):
    path = saved(tmp_path / "x.jpg", Image.fromarray(picture()), format="PNG")
    np.testing.assert_array_equal(read_image(path), picture())


def test_mpo_the_format_of_phones(tmp_path):
    frame = Image.fromarray(picture())
    path = tmp_path / "x.jpg"
    frame.save(path, format="MPO", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))], quality=95)
    assert np.abs(read_image(path).astype(int) - picture()).max() <= 20


def test_grey_is_repeated(tmp_path):
    grey = picture()[..., 0]
    result = read_image(saved(tmp_path / "x.png", Image.fromarray(grey)))
    np.testing.assert_array_equal(result, np.repeat(grey[..., None], 3, -1))


def test_one_bit(tmp_path):
    bits = picture()[..., 0] > 100
    result = read_image(saved(tmp_path / "x.png", Image.fromarray(bits)))
    np.testing.assert_array_equal(result[..., 1], bits * 255)


def test_palette(tmp_path):
    image = Image.fromarray(picture()[..., 1] // 30).convert("P")
    image.putpalette([c for i in range(256) for c in (i * 7 % 256, 255 - i, i)])
    result = read_image(saved(tmp_path / "x.png", image))
    np.testing.assert_array_equal(result, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(tmp_path, mode):
    image = Image.new(mode, (3, 1), (0,) * len(mode))
    for x, alpha in enumerate((0, 128, 255)):
        image.putpixel((x, 0), (0,) * (len(mode) - 1) + (alpha,))
    result = read_image(saved(tmp_path / "x.png", image))
    np.testing.assert_allclose(result[0, :, 0], [255, 127, 0], atol=1)


def test_transparent_palette_colour_is_white(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 200, 100, 50] + [0] * 762)
    image.putpixel((1, 0), 1)
    result = read_image(saved(tmp_path / "x.png", image, transparency=0))
    assert result.tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_transparent_grey_and_rgb_chunks(tmp_path):
    grey = saved(tmp_path / "g.png", Image.fromarray(np.asarray([[5, 9]], np.uint8)), transparency=5)
    assert read_image(grey)[0, :, 0].tolist() == [255, 9]
    rgb = saved(
        tmp_path / "c.png", Image.fromarray(np.asarray([[[1, 2, 3], [4, 5, 6]]], np.uint8)), transparency=(1, 2, 3)
    )
    assert read_image(rgb).tolist() == [[[255, 255, 255], [4, 5, 6]]]


@pytest.mark.parametrize("suffix", ["tif", "jpg"])
def test_cmyk(tmp_path, suffix):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    result = read_image(saved(tmp_path / f"x.{suffix}", image))
    np.testing.assert_allclose(result.reshape(-1, 3).mean(0), [255, 0, 0], atol=8)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path, suffix):
    values = np.asarray([[0, 256, 32768, 65535]], np.uint16)
    path = saved(tmp_path / f"x.{suffix}", Image.fromarray(values))
    np.testing.assert_allclose(read_image(path)[0, :, 0], [0, 1, 127, 255], atol=1)


def test_sixteen_bit_grey_with_a_dark_image_stays_dark(tmp_path):
    """Scaling must follow the file's depth, not its content: an all-dark frame is not a bright one."""
    path = saved(tmp_path / "x.png", Image.fromarray(np.full((4, 4), 200, np.uint16)))
    assert read_image(path).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("factor", "offset"), [(4, 0), (16, 0), (64, 0), (4, 29_000), (1, 7_000)])
def test_fewer_bits_in_sixteen_keep_their_levels(tmp_path, suffix, factor, offset):
    """Sensors of 10, 12 and 14 bits, and thermal cameras, whose values all have nearly the same high byte."""
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    path = saved(tmp_path / f"x.{suffix}", Image.fromarray(grey * factor + np.uint16(offset)))
    result = read_image(path)[:, :, 0]
    if not offset:
        np.testing.assert_allclose(result, grey, atol=1)
    assert len(np.unique(result)) >= 250
    assert (np.diff(result.ravel().astype(int)) >= 0).all()


def test_one_broken_pixel_hides_no_thermal_picture(tmp_path):
    values = np.repeat(np.arange(29_000, 30_000, dtype=np.uint16), 8).reshape(80, 100)
    values[3, 3] = 65_535
    assert len(np.unique(read_image(saved(tmp_path / "x.png", Image.fromarray(values))))) > 200


def test_text_and_profiles_of_a_png_do_not_count_against_it(tmp_path):
    info = PngInfo()
    info.add_text("workflow", "x" * (2 << 20), zip=True)
    info.add_itxt("workflow", "y" * (2 << 20), zip=True)
    path = saved(tmp_path / "x.png", Image.fromarray(picture()), pnginfo=info, icc_profile=bytes(2 << 20))
    np.testing.assert_array_equal(read_image(path), picture())
    (tmp_path / "y.png").write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ImageError):
        read_image(tmp_path / "y.png")


def test_sixteen_bit_rgb_png(tmp_path):
    pixels = b"\x00" + struct.pack(">6H", 65535, 32768, 0, 256, 0, 65535)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path = tmp_path / "x.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )
    np.testing.assert_allclose(read_image(path)[0], [[255, 128, 0], [1, 0, 255]], atol=1)


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_float_tiff_with_nan_and_infinity(tmp_path, top):
    values = np.asarray([[0.0, 0.5, 1.0, np.nan, np.inf, -np.inf, -1.0]], np.float32) * np.float32(top)
    result = read_image(saved(tmp_path / "x.tif", Image.fromarray(values)))
    assert result[0, :, 0].tolist() == [0, 127, 255, 0, 0, 0, 0]


#: What each EXIF orientation does to upright pixels before they are stored.
ORIENTATIONS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_exif_orientation_is_undone(tmp_path, orientation, suffix):
    stored = np.ascontiguousarray(ORIENTATIONS[orientation](picture()))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"x.{suffix}", Image.fromarray(stored), exif=exif, quality=95)
    result = read_image(path)
    assert result.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(result.astype(int) - picture()).max() <= (0 if suffix in ("png", "tif") else 20)


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16"])
def test_exif_orientation_of_other_modes(tmp_path, mode):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new(mode, (5, 3)) if mode == "I;16" else Image.new("RGB", (5, 3)).convert(mode)
    assert read_image(saved(tmp_path / "x.png", image, exif=exif)).shape == (5, 3, 3)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_exif_orientation_that_does_not_exist_is_ignored(tmp_path, value):
    exif = Image.Exif()
    exif[0x0112] = value
    path = saved(tmp_path / "x.png", Image.fromarray(picture()), exif=exif)
    np.testing.assert_array_equal(read_image(path), picture())


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_counts(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    path = tmp_path / f"x.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    np.testing.assert_allclose(read_image(path).reshape(-1, 3).mean(0), [250, 0, 0], atol=6)


def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "x.jpg", Image.fromarray(picture()), exif=exif, quality=95)
    data = bytearray(path.read_bytes())
    at = data.index(b"Exif\x00\x00") + 6
    data[at : at + 8] = b"\xff" * 8  # where its byte order and its first offset stand
    path.write_bytes(data)
    result = read_image(path)
    assert result.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(result.astype(int) - picture()).max() <= 12


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF"])
@pytest.mark.parametrize("size", [None, (16, 8)])
def test_one_pixel(tmp_path, form, size):
    path = saved(tmp_path / "x.jpg", Image.new("RGB", (1, 1), (200, 200, 200)), format=form)
    result = read_image(path, size)
    assert result.shape == (*(size or (1, 1)), 3)
    assert np.abs(result.astype(int) - 200).max() <= 2


def test_a_link_to_an_image_is_an_image(tmp_path):
    path = saved(tmp_path / "x.png", Image.fromarray(picture()))
    (tmp_path / "link.png").symlink_to(path)
    np.testing.assert_array_equal(read_image(tmp_path / "link.png"), picture())


def test_a_name_with_a_newline_is_printed_on_one_line(tmp_path):
    (tmp_path / "two\nlines.jpg").write_bytes(b"no picture")
    assert reason(tmp_path / "two\nlines.jpg").startswith("not an image")


def heic(path: Path, image: Image.Image, **options) -> Path:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(image).save(path, **options)
    return path


def test_heic(tmp_path):
    path = heic(tmp_path / "x.heic", Image.fromarray(picture(96, 64)), quality=90)
    assert np.abs(read_image(path).astype(int) - picture(96, 64)).max() <= 30
    assert read_image(path, (16, 8)).shape == (16, 8, 3)
    path.rename(tmp_path / "x.jpg")  # the content decides here too
    assert read_image(tmp_path / "x.jpg").shape == (96, 64, 3)
    assert reason(tmp_path / "x.jpg", max_pixels=96 * 64 - 1) == "64x96 pixels is over the limit of 6143"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_orientation_is_undone_once(tmp_path, orientation):
    stored = np.ascontiguousarray(ORIENTATIONS[orientation](picture(96, 64)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = heic(tmp_path / "x.heic", Image.fromarray(stored), quality=90, exif=exif.tobytes())
    result = read_image(path)
    assert result.shape == (96, 64, 3)
    assert np.abs(result.astype(int) - picture(96, 64)).mean() <= 4


def test_heic_transparency_is_laid_over_white(tmp_path):
    path = heic(tmp_path / "x.heic", Image.new("RGBA", (64, 64), (0, 0, 0, 0)))
    assert read_image(path).min() >= 250


def test_damaged_heic(tmp_path):
    path = heic(tmp_path / "x.heic", Image.fromarray(picture(96, 64)))
    path.write_bytes(path.read_bytes()[:-100])
    assert reason(path)
    path.write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(100))
    assert reason(path)


def test_heic_without_its_decoder_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "x.heic"
    path.write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100))
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert reason(path) == "HEIC needs the [heic] extra: pip install 'siamese-search[heic]'"
    (tmp_path / "y.heic").write_bytes(saved(tmp_path / "y.png", Image.fromarray(picture())).read_bytes())
    np.testing.assert_array_equal(read_image(tmp_path / "y.heic"), picture())


def test_size_is_height_and_width_and_antialiased(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # without antialiasing every eighth column would be black or white
    path = saved(tmp_path / "x.png", Image.fromarray(stripes))
    result = read_image(path, (16, 8))
    assert result.shape == (16, 8, 3)
    assert np.abs(result.astype(int) - 127).max() <= 12
    oracle = Image.fromarray(stripes).resize((8, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(result, np.asarray(oracle))


def test_size_comes_after_the_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(picture(), 1)))
    result = read_image(saved(tmp_path / "x.png", stored, exif=exif), (HEIGHT, WIDTH))
    np.testing.assert_array_equal(result, picture())


def test_the_result_is_ours_to_use(tmp_path):
    result = read_image(saved(tmp_path / "x.png", Image.fromarray(picture())))
    assert result.flags.c_contiguous


def test_names_that_are_not_utf8(tmp_path):
    path = os.path.join(os.fspath(tmp_path), os.fsdecode(b"caf\xe9.png"))  # noqa: PTH118
    Image.fromarray(picture()).save(path)
    np.testing.assert_array_equal(read_image(path), picture())
    Path(path).write_bytes(b"")
    with pytest.raises(ImageError) as caught:
        read_image(path)
    str(caught.value).encode("utf-8")


def test_float_values_beyond_all_bounds_are_no_warning(tmp_path):
    values = np.asarray([[0.0, 1.0, 3e38, -3e38]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(saved(tmp_path / "x.tif", Image.fromarray(values)))[0, :, 0].tolist() == [0, 0, 255, 0]


def test_the_allow_list_is_what_suffixes_promise():
    promised = {Image.registered_extensions()[suffix] for suffix in IMAGE_SUFFIXES - HEIC_SUFFIXES}
    assert promised <= set(FORMATS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", True),
        ("A.JPEG", True),
        ("A.HEIC", True),
        ("a.avif", False),
        ("a.jpg.txt", False),
        ("jpg", False),
        (".jpg", False),
        ("a.eps", False),
        ("a.", False),
    ],
)
def test_image_names(name, expected):
    assert is_image_name(name) is expected


def test_an_image_in_memory_without_pixels_is_refused():
    for size in ((0, 0), (5, 0), (0, 5)):
        with pytest.raises(UsageError, match="shows nothing"):
            held_image(Image.new("RGB", size), (4, 2))

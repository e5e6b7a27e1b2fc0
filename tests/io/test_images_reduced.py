"""read_image of photographs that are much larger than what is asked for: reduced by libjpeg, within 2 grey levels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from photos import draw_photo
from PIL import Image, ImageOps

from siamese_search.errors import ImageError
from siamese_search.io.images import _DECODED_PER_PIXEL, _reduction, read_image

SIZE = (64, 32)


def oracle(path, size):
    """The full decode, resized: what a reduced one stands for."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image.convert("RGB"))
    return np.asarray(upright.resize(size[::-1], Image.Resampling.BILINEAR))


def difference(path, size):
    ours = read_image(path, size)
    assert (ours.dtype, ours.shape) == (np.uint8, (*size, 3))
    assert ours.flags.c_contiguous
    return np.abs(ours.astype(int) - oracle(path, size))


def check_close(path, size):
    """Within 2 grey levels but for a few values at the hardest edges, and not by chance the full decode itself."""
    off = difference(path, size)
    assert off.any(), "this was not decoded reduced"
    assert off.mean() < 0.4
    assert (off > 2).mean() < 0.01
    assert off.max() <= 8


@pytest.fixture(scope="module")
def photo():
    return draw_photo(1, (768, 1024))


@pytest.fixture(scope="module")
def odd_photo():
    return draw_photo(2, (1001, 1279))


def test_a_photograph_is_within_two_grey_levels(tmp_path):
    """A quarter of 12 megapixels at a quarter of the usual sizes; benchmarks/decode.py takes all 12."""
    path = tmp_path / "x.jpg"
    draw_photo(5, (1512, 2016)).save(path, quality=92)
    for size in ((128, 64), (64, 32), (112, 112)):
        off = difference(path, size)
        assert off.any()
        assert off.max() <= 2


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 60}], ids=str)
def test_every_subsampling(tmp_path, photo, subsampling, options):
    path = tmp_path / "x.jpg"
    photo.save(path, subsampling=subsampling, **{"quality": 92, **options})
    check_close(path, SIZE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [SIZE, (32, 64), (48, 48)])
def test_every_orientation(tmp_path, photo, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x.jpg"
    photo.save(path, quality=92, exif=exif)
    check_close(path, size)


@pytest.mark.parametrize("height", [745, 768, 1001])
@pytest.mark.parametrize("width", [901, 1024, 1279])
@pytest.mark.parametrize("size", [(32, 16), (100, 120), (61, 127)])
def test_sizes_that_are_no_multiple_of_a_block(tmp_path, odd_photo, height, width, size):
    path = tmp_path / "x.jpg"
    odd_photo.crop((0, 0, width, height)).save(path, quality=92)
    off = difference(path, size)
    assert off.any()
    inner = off[:-1, :-1]  # the last block is filled up by whatever the encoder chose
    assert inner.mean() < 0.4
    assert (inner > 2).mean() < 0.01
    assert inner.max() <= 10
    assert (off > 2).mean() < 0.03


def test_grey_photographs(tmp_path, photo):
    path = tmp_path / "x.jpg"
    photo.convert("L").save(path, quality=92)
    check_close(path, SIZE)


def test_stereo_photographs(tmp_path, photo):
    path = tmp_path / "x.jpg"
    photo.save(path, format="MPO", save_all=True, append_images=[photo.resize((64, 48))], quality=92)
    check_close(path, SIZE)


def test_cmyk_is_decoded_in_full(tmp_path, photo):
    """Its colours are products of two channels: the mean of products is not the product of means."""
    path = tmp_path / "x.jpg"
    photo.convert("CMYK").save(path, quality=92)
    assert not difference(path, SIZE).any()


@pytest.mark.parametrize("size", [(768, 1024), (384, 512), (140, 180), (1000, 1000), (700, 5), (5, 900)])
def test_an_image_not_much_larger_is_bit_for_bit_the_full_decode(tmp_path, photo, size):
    path = tmp_path / "x.jpg"
    photo.save(path, quality=92)
    assert not difference(path, size).any()


def test_truncated_photographs_are_refused_as_ever(tmp_path, photo):
    path = tmp_path / "x.jpg"
    photo.save(path, quality=92)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ImageError, match="truncated"):
        read_image(path, SIZE)


@given(st.tuples(*[st.integers(1, 20_000)] * 2), st.tuples(*[st.integers(1, 2_000)] * 2))
def test_the_reduction_is_the_largest_that_leaves_enough_pixels(stored, size):
    factor = _reduction(stored, size)

    def enough(candidate):
        return all(have / candidate >= _DECODED_PER_PIXEL * want for have, want in zip(stored, size[::-1], strict=True))

    assert factor == max([candidate for candidate in (2, 4, 8) if enough(candidate)], default=1)


@given(st.tuples(*[st.integers(8, 20_000)] * 2), st.sampled_from([2, 4, 8]))
def test_pillow_reduces_by_what_is_asked(stored, factor):
    """draft() takes a size, not a factor: the one that it derives must be ours."""
    width, height = stored
    derived = min(width // (width // factor), height // (height // factor))
    assert next(scale for scale in (8, 4, 2, 1) if derived >= scale) == factor


@pytest.mark.parametrize(
    ("stored", "room", "expected"),
    [
        ((768, 1024), (96, 96), (72, 96)),  # as large as goes in, of the same shape
        ((1024, 768), (96, 96), (96, 72)),
        ((40, 30), (96, 96), (40, 30)),  # never enlarged
        ((3, 900), (50, 50), (1, 50)),  # never of no height
    ],
)
def test_a_thumbnail_keeps_its_shape(tmp_path, stored, room, expected):
    path = tmp_path / "a.jpg"
    draw_photo(1, stored).save(path, quality=95)
    thumbnail = read_image(path, room, fit=True)
    assert thumbnail.shape == (*expected, 3)
    np.testing.assert_array_equal(thumbnail, read_image(path, expected))


def test_a_thumbnail_of_a_photograph_on_its_side_is_upright(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    draw_photo(1, (768, 1024)).save(path, quality=95, exif=exif)
    assert read_image(path, (96, 96), fit=True).shape == (96, 72, 3)

"""Any bytes at all: an image, or one line that says why not. The corpus is tests/support/damaged.py, of every kind of
image and damage; from it hypothesis goes on."""

from __future__ import annotations

import numpy as np
import pytest
from damaged import DAMAGE, damaged_files, good_images
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siamese_search.errors import ImageError
from siamese_search.io.images import read_image

SUFFIXES = sorted({name.rsplit(".", 1)[1] for name in good_images()})
CORPUS = {**good_images(), **{one.name: one.data for one in damaged_files(len(good_images()) * 4)}}


def reads_or_says_why(path, size):
    try:
        pixels = read_image(path, size)
    except ImageError as error:
        said = error.reason
    else:
        said = "an image"
        assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
        assert size is None or pixels.shape[:2] == size
    assert said
    assert said.isprintable(), said


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_the_corpus_holds_every_kind_of_damage(damage):
    kinds = {one.name for one in damaged_files(len(good_images()) * len(DAMAGE))}
    assert any(damage in name for name in kinds)


#: Where, how many bytes go, and what comes in their place: near the beginning, where sizes stand, and all over.
EDITS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 80), st.integers(0, 1 << 20)),
        st.sampled_from([0, 0, 1, 2, 4, 64, 1 << 20]),
        st.one_of(st.binary(max_size=8), st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x80"])),
    ),
    max_size=6,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(CORPUS)), EDITS, st.sampled_from(SUFFIXES), st.sampled_from([None, (64, 32)]))
def test_any_file_is_an_image_or_one_line(tmp_path, name, edits, suffix, size):
    body = bytearray(CORPUS[name])
    for at, gone, put in edits:
        at %= len(body) + 1
        body[at : at + (gone or len(put))] = put
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(body)
    reads_or_says_why(path, size)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from(SUFFIXES))
def test_bytes_of_no_format_are_one_line(tmp_path, data, suffix):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(data)
    reads_or_says_why(path, None)

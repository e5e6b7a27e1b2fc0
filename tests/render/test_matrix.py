"""A comparison as a picture of a screenful and as a page: shades, names, and what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import write_image
from hypothesis import given
from hypothesis import strategies as st
from pages import check_page
from PIL import Image

from siamese_search.render.canvas import BLUE, GREEN, PALE, RED, Canvas
from siamese_search.render.matrix import MAX_SIDE, labels, shade
from siamese_search.render.sheets import _name, draw_comparison
from siamese_search.retrieval.comparison import Comparison


def comparison(paths, scores, threshold=0.5):
    scores = np.asarray(scores, np.float32)
    left, right = paths[: scores.shape[0]], paths[: scores.shape[1]]
    return Comparison(left, right, scores, threshold, None, None, [], "m")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"]),
        (["camera_0001.jpg", "camera_0002.jpg"], ["…0001", "…0002"]),
        (["0001_c3s1_008364_01.jpg", "0002_c1s1_008381_01.jpg"], ["0001_c3s1_008364", "0002_c1s1_008381"]),
        (["anna_left.jpg", "anton_left.jpg"], ["anna", "anton"]),
        (["x/0.jpg", "y/0.jpg"], ["x", "y"]),
        (["a.jpg", "b.png"], ["a.jpg", "b.png"]),
        (["only.jpg"], ["only.jpg"]),
        (["same.jpg", "same.jpg"], ["/same.jpg", "/same.jpg"]),
        (["img.jpg", "img_2.jpg"], ["img.jpg", "img_2.jpg"]),
    ],
)
def test_names_tell_rows_apart(names, expected):
    assert labels([Path(name) for name in names]) == expected


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12)


@given(st.lists(NAMES, unique=True, max_size=8))
def test_names_that_differ_stay_different(names):
    shown = labels([Path("d") / name for name in names if name not in (".", "..")])
    assert len(set(shown)) == len(shown)
    assert all(text.isprintable() for text in shown)


def test_shades_grow_with_the_distance_from_the_threshold():
    one = comparison([Path("a"), Path("b"), Path("c"), Path("d")], [[1.0, 0.51, 0.49, 0.0]])
    fills = [np.array(shade(one, 0, column)[0]) for column in range(4)]
    assert tuple(fills[0]) == GREEN
    assert tuple(fills[3]) == RED
    assert (fills[1] > fills[0]).all()  # paler
    assert (fills[2] >= fills[3]).all()
    assert shade(one, 0, 3)[1] != shade(one, 0, 1)[1]  # text that can be read on either


def test_a_picture_is_a_screenful_and_a_page_is_all(tmp_path):
    paths = [write_image(tmp_path / f"<b>{number:03}.jpg", size=(64, 32)) for number in range(20)]
    found = comparison(paths, np.linspace(-1, 1, 400).reshape(20, 20))
    with Image.open(draw_comparison(found, tmp_path / "pairs.png")) as picture:
        assert picture.width <= 1920
        assert picture.height <= 1300
    page = draw_comparison(found, tmp_path / "pairs.html").read_text()
    check_page(page)
    assert page.count("<td") == 400
    assert page.count("data:image/jpeg") == 40
    assert "20 by 20 images" in page
    assert "<b>" not in page.replace("<body>", "")
    many = comparison([Path(f"{number}") for number in range(MAX_SIDE + 5)], np.zeros((2, MAX_SIDE + 5)), None)
    assert f"the nearest 2 by {MAX_SIDE} shown" in draw_comparison(many, tmp_path / "many.html").read_text()


def test_names_that_only_differ_inside_are_told_apart_as_they_are_drawn(monkeypatch):
    canvas, said = Canvas(400, 400), []
    monkeypatch.setattr(Canvas, "text", lambda _self, _at, text, *_more: said.append(text))
    names = labels([Path(f"0000_c{c}s1_03{frame:04}_01.jpg") for c in (1, 2) for frame in (25, 125, 525)])
    for name in names:
        said.clear()
        _name(canvas, name, (0, 0))
        assert "".join(said) == name
        assert all(canvas.width_of(line, 13) <= 96 for line in said)


@given(st.floats(-1, 1, width=32), st.sampled_from([None, 0.2, 0.5, 0.9]))
def test_a_score_can_be_read_on_its_shade(score, threshold):
    def luminance(colour):
        parts = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in np.array(colour) / 255
        ]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2] + 0.05

    light, dark = sorted(map(luminance, shade(comparison([Path("a")], [[score]], threshold), 0, 0)), reverse=True)
    assert light / dark > 3.9


@pytest.mark.parametrize(("rows", "least"), [(2, 90), (4, 90), (8, 40)])
def test_tall_images_are_as_wide_as_a_screenful_allows(tmp_path, rows, least):
    paths = [write_image(tmp_path / f"{number}.jpg", size=(128, 64)) for number in range(rows)]
    with Image.open(draw_comparison(comparison(paths, np.eye(rows)), tmp_path / "pairs.png")) as picture:
        assert picture.height <= 1300
        blue = (np.asarray(picture.convert("RGB")) == BLUE).all(axis=2)
    across = np.flatnonzero(blue[:, : 28 + 128].any(axis=0))  # of the first column
    assert across[-1] - across[0] >= least


def test_the_frames_of_a_pair_are_the_truth_and_its_word_is_the_verdict(tmp_path):
    names = ["0007_c1s1_000001_01.jpg", "0007_c2s1_000002_01.jpg", "0008_c2s1_000003_01.jpg", "who.jpg"]
    first, *others = [write_image(tmp_path / name, size=(64, 32)) for name in names]
    for other, frame in zip(others, (GREEN, RED, PALE), strict=True):
        pair = Comparison([first], [other], np.array([[0.2]], np.float32), 0.5, None, None, [], "m")
        with Image.open(draw_comparison(pair, tmp_path / "pair.png")) as picture:
            pixels = picture.convert("RGB")
        assert pixels.getpixel((28 + 2, 28 + 100)) == frame
        word = np.asarray(pixels.crop((28 + 208, 28, 28 + 208 + 190, pixels.height))).astype(int)
        assert (np.abs(word - RED).max(axis=2) < 4).sum() > 50

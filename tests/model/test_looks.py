"""What the images of a calibration look like, and which images look like none of them."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from PIL.Image import Resampling

from siamese_search.model.bundle import load_bundle
from siamese_search.model.calibration import FIGURES, LEAST_LOOKS, Calibration, Looks, figures_of

KNOWN = Calibration((0.5, 0.01), (0.1, 0.6), slope=10.0, offset=-5.0, genuine=50, impostor=100)


def figures_slowly(image: np.ndarray) -> list[float]:
    """The definition, pixel by pixel, of one RGB image [h, w, 3]."""
    rows = image.astype(float).tolist()
    light = [[0.299 * r + 0.587 * g + 0.114 * b for r, g, b in row] for row in rows]
    flat = [(sum(map(lambda x, y: x * y, (0.299, 0.587, 0.114), p)), p) for row in rows for p in row]
    planes = [[one for one, _ in flat], [p[0] - p[1] for _, p in flat], [p[2] - one for one, p in flat]]
    means = [sum(plane) / len(plane) for plane in planes]
    found = [mean / 32 for mean in means]
    for plane, mean in zip(planes, means, strict=True):
        found.append(math.log(math.sqrt(sum((one - mean) ** 2 for one in plane) / len(plane)) + 1))
    for level in range(5):
        if level and min(len(light), len(light[0])) >= 4:
            light = [
                [
                    sum(light[2 * y + dy][2 * x + dx] for dy in (0, 1) for dx in (0, 1)) / 4
                    for x in range(len(light[0]) // 2)
                ]
                for y in range(len(light) // 2)
            ]
        across = [abs(b - a) for row in light for a, b in pairwise(row)]
        down = [abs(b - a) for upper, lower in pairwise(light) for a, b in zip(upper, lower, strict=True)]
        for edges in (across, down):
            mean = sum(edges) / len(edges) + 0.5
            root = math.sqrt(sum(one**2 for one in edges) / len(edges)) + 0.5
            alike = sum(one < 1 for one in edges) / len(edges)
            found += [math.log(mean), math.log(root / mean) if level else alike]
    return found


@pytest.mark.parametrize("size", [(8, 8), (32, 16), (37, 21), (128, 64)])
def test_the_figures_are_those_of_their_definition_whatever_the_batch(size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    images[1] = 77
    images[2] = np.arange(size[1], dtype=np.uint8)[:, None] * 2
    found = figures_of(images)
    assert found.shape == (3, FIGURES)
    assert found.dtype == np.float32
    for image, row in zip(images, found, strict=True):
        assert row == pytest.approx(figures_slowly(image), abs=2e-3)
        assert figures_of(image[None])[0] == pytest.approx(row, abs=1e-4)
    assert figures_of(images[:0]).shape == (0, FIGURES)


def test_of_the_images_themselves_one_in_a_hundred_looks_strange() -> None:
    figures = np.random.default_rng(1).normal(size=(1000, FIGURES)).astype(np.float32)
    looks = Looks.of(figures)
    assert looks is not None
    assert 8 <= looks.strange(figures).sum() <= 11  # ten, but for rounding
    far = np.zeros((2, FIGURES), np.float32)
    far[1, 7] = 9.0
    assert looks.strange(far).tolist() == [False, True]


def test_few_images_do_not_tell_what_is_usual() -> None:
    figures = np.random.default_rng(2).normal(size=(LEAST_LOOKS, FIGURES)).astype(np.float32)
    assert Looks.of(figures) is not None
    assert Looks.of(figures[1:]) is None
    assert not KNOWN.strange(figures).any()  # it knows no looks


def test_a_calibration_keeps_its_looks() -> None:
    figures = np.random.default_rng(3).normal(size=(100, FIGURES)).astype(np.float32)
    known = Calibration(KNOWN.rates, KNOWN.thresholds, 10.0, -5.0, 50, 100, "here", Looks.of(figures))
    assert Calibration.from_json(json.loads(json.dumps(known.to_json()))) == known
    assert "looks" not in KNOWN.to_json()


@settings(deadline=None)
@given(
    st.sampled_from(["means", "deviations", "limit"]),
    st.one_of(
        st.none(),
        st.text(max_size=3),
        st.floats(max_value=0),
        st.lists(st.floats(), max_size=40),
        st.floats().map(lambda value: [value] * FIGURES),
        st.dictionaries(st.text(max_size=2), st.none(), max_size=2),
    ),
)
def test_damaged_looks_are_refused(name: str, value: object) -> None:
    saved = Looks((0.0,) * FIGURES, (1.0,) * FIGURES, 4.0).to_json() | {name: value}
    try:
        found = Looks.from_json(saved)
    except (ValueError, KeyError, TypeError):
        return
    assert all(map(math.isfinite, (*found.means, *found.deviations, found.limit)))
    assert len(found.means) == len(found.deviations) == FIGURES
    assert min(*found.deviations, found.limit) > 0
    with np.errstate(all="raise"):  # what numpy would warn of, on the terminal of who searches
        found.strange(np.zeros((1, FIGURES), np.float32))


def test_the_bundled_models_know_what_people_do_not_look_like() -> None:
    rng = np.random.default_rng(4)
    chart = Image.new("RGB", (640, 480), "white")
    pen = ImageDraw.Draw(chart)
    for bar, height in enumerate(rng.integers(50, 400, 8).tolist()):
        pen.rectangle((40 + 70 * bar, 440 - height, 90 + 70 * bar, 440), fill="steelblue")
    pictures = [Image.new("RGB", (64, 128), colour) for colour in ("black", "white", "red")]
    pictures += [chart, Image.fromarray(rng.integers(0, 256, (128, 64, 3), np.uint8))]
    rows = np.stack([np.asarray(one.resize((64, 128), Resampling.BILINEAR)) for one in pictures])
    for name in ("bundled", "fast"):
        known = load_bundle(name).calibration
        assert known is not None
        assert known.looks is not None
        assert known.strange(figures_of(rows)).all()

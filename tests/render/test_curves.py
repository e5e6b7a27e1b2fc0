"""The picture of an evaluation is written whole, in both formats, whatever the figures."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from siamese_search.errors import SiameseSearchError, UsageError
from siamese_search.evaluation.evaluate import evaluate
from siamese_search.io.images import read_image
from siamese_search.render.curves import draw_curves


def test_a_png_is_a_picture_with_three_panels(make_images, embedder, memory_gallery, tmp_path):
    report = evaluate(make_images([str(i) for i in range(1, 9)], noise=60), embedder, memory_gallery())
    out = tmp_path / "new" / "curves.png"
    draw_curves(report, out)
    picture = read_image(out)
    height, width, _ = picture.shape
    assert width > 2 * height
    for panel in np.array_split(picture, 3, axis=1):
        assert (panel.min(axis=2) < 128).mean() > 0.005  # something dark is drawn in each
    assert [path.name for path in out.parent.iterdir()] == ["curves.png"]


def test_an_svg_is_well_formed_and_shows_names_as_they_are(make_images, embedder, memory_gallery, tmp_path):
    report = evaluate(make_images(), embedder, memory_gallery(), data="<b>&$x^2$ 'q'", model_name="m$_1$")
    out = tmp_path / "curves.svg"
    draw_curves(report, out)
    assert ET.parse(out).getroot().tag.endswith("svg")
    assert "<b>" not in out.read_text()
    first = out.read_bytes()
    draw_curves(report, out)
    assert out.read_bytes() == first


def test_figures_that_do_not_exist_are_said_to_be_missing(make_images, embedder, memory_gallery, tmp_path):
    report = evaluate(make_images(["1"], ("1", "2"), each=1), embedder, memory_gallery())
    out = tmp_path / "curves.svg"
    draw_curves(report, out)
    assert "no pairs of the same or of different identities" in out.read_text()


def test_a_place_that_cannot_be_written_is_named(make_images, embedder, memory_gallery, tmp_path):
    report = evaluate(make_images(), embedder, memory_gallery())
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SiameseSearchError, match=r"file/curves\.svg: the curves cannot be written: "):
        draw_curves(report, tmp_path / "file" / "curves.svg")


def test_another_suffix_is_refused(make_images, embedder, memory_gallery, tmp_path):
    report = evaluate(make_images(), embedder, memory_gallery())
    with pytest.raises(UsageError, match=r"curves are drawn as .png or .svg"):
        draw_curves(report, tmp_path / "curves.gif")


def test_rates_are_written_in_per_cent_everywhere(make_images, embedder, memory_gallery, tmp_path):
    report = evaluate(make_images([str(i) for i in range(1, 9)], noise=60), embedder, memory_gallery())
    out = tmp_path / "curves.svg"
    draw_curves(report, out)
    drawn = re.findall(r"<!-- (.*?) -->", out.read_text())
    assert "false accept rate, %" in drawn
    assert any(text.startswith("TAR@1%") for text in drawn)
    assert not any("1e-" in text for text in drawn)

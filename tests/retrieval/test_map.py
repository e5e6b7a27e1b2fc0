import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from fakes import write_image
from pages import check_page, screenshot
from PIL import Image, ImageColor

from siamese_search.errors import SiameseSearchError
from siamese_search.render.map import draw_map, map_page, write_map_page
from siamese_search.retrieval.map import GREY, MOST_ENTRIES, GalleryMap, MapPoint, colouring, luminance, placed

EVIL = "<script>alert(1)</script>"


def make_map(values, color="identity", places=None, path=Path("/gone.jpg"), **more):
    points = tuple(
        MapPoint(f"0001_c1_{i}.jpg", "s", path, str(v) if color == "identity" and v is not None else None, "1", v)
        for i, v in enumerate(values)
    )
    if places is None:
        places = np.random.default_rng(0).normal(size=(len(points), 2))
    about = {
        "gallery": "default", "store": ".sss", "model": "m", "method": "pca", "seed": 0, "total": len(points), **more
    }  # fmt: skip
    return GalleryMap(color=color, points=points, places=places, **about)


def test_few_values_have_colours_far_apart_and_many_have_one_each():
    few = colouring(make_map(["10", "9", "9", None, "0000", "-1"]))
    assert [(e.label, e.count) for e in few.entries] == [
        ("9", 2), ("10", 1), ("distractors", 1), ("junk", 1), ("no identity", 1)
    ]  # fmt: skip
    assert few.colours[1] == few.colours[2] != few.colours[0]
    assert few.colours[3:] == [GREY] * 3
    # A camera of that name is a camera.
    assert {e.label for e in colouring(make_map(["-1", "2"], "camera")).entries} == {"-1", "2"}
    many = colouring(make_map([f"p{i % 40}" for i in range(90)]))
    assert len(set(many.colours)) == 40
    assert (len(many.entries), many.first) == (40, MOST_ENTRIES)
    assert all(entry.count == 3 for entry in many.entries[:10])  # the most frequent first
    last = colouring(make_map([f"p{i}" for i in range(20)] + [None, "-1"]))
    assert [entry.label for entry in last.entries[MOST_ENTRIES : last.first]] == ["junk", "no identity"]


@pytest.mark.parametrize("values", [["1", "2", None, "junk", "-1"], [f"p{i % 31}" for i in range(80)] + [None]])
def test_every_point_has_the_line_of_the_legend_that_says_its_value(values):
    drawn = colouring(make_map(values))
    for value, code, colour in zip(values, drawn.codes, drawn.colours, strict=True):
        said = {None: "no identity", "-1": "junk"}.get(value, value)
        assert (drawn.entries[code].label, drawn.entries[code].color) == (said, colour)
        assert (colour == GREY) == (value in (None, "-1"))
    assert [entry.count for entry in drawn.entries] == [drawn.codes.count(place) for place in range(len(drawn.entries))]


def oklab(colour):
    """After B. Ottosson, 2020: distances are differences that are seen."""
    parts = np.array(ImageColor.getrgb(colour)) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    cones = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.63]]
    mixed = [[0.2105, 0.7936, -0.0041], [1.978, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.array(mixed) @ np.cbrt(np.array(cones) @ linear)


def test_colours_are_told_apart_on_light_and_on_dark_ground():
    few = set(colouring(make_map([f"p{i}" for i in range(12)])).colours)
    many = set(colouring(make_map([f"p{i}" for i in range(400)])).colours)
    numbers = set(colouring(make_map(list(range(200)), "frame")).colours)
    for colour in few | many | numbers | {GREY}:
        for ground in ("#ffffff", "#1d232a"):  # --card of base.css
            light, dark = sorted(
                (luminance(np.divide(ImageColor.getrgb(one), 255)) for one in (colour, ground)), reverse=True
            )
            assert (light + 0.05) / (dark + 0.05) >= 3, (colour, ground)
    apart = [np.linalg.norm(oklab(a) - oklab(b)) for a, b in itertools.combinations(few | {GREY}, 2)]
    assert min(apart) > 0.08
    assert len(many) > 300


def test_many_numbers_have_a_scale_and_few_do_not():
    scaled = colouring(make_map([None, *range(100, 130)], "frame"))
    assert scaled.scale == (100, 129)
    assert scaled.colours[0] == GREY
    assert [e.label for e in scaled.entries] == ["none"]
    assert len(set(scaled.colours)) > 25
    assert colouring(make_map([1, 2, 3] * 20, "frame")).scale is None
    assert colouring(make_map([True, False], "night")).scale is None
    assert colouring(make_map([*range(20), "x"], "frame")).scale is None


def test_places_keep_their_shape():
    spots = placed(np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 5.0]]))
    np.testing.assert_allclose(spots, [[0, 0.25], [1, 0.25], [1, 0.75]])
    np.testing.assert_allclose(placed(np.array([[3.0, 4.0]])), [[0.5, 0.5]])


def test_the_picture_has_the_points_where_they_are(tmp_path):
    places = np.array([[0.0, 0.0], [1.0, 1.0]])
    found = make_map(["a", "b"], places=places)
    with Image.open(draw_map(found, tmp_path / "map.png")) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)[92:992, 28:928]
    a, b = map(ImageColor.getrgb, colouring(found).colours)
    for colour, low in ((a, True), (b, False)):
        rows, columns = np.nonzero(np.abs(pixels - colour).max(axis=2) < 4)
        assert len(rows) > 80
        assert (rows.mean() > 800, columns.mean() < 100) == (low, low)  # y grows upwards


def test_the_page_has_pictures_and_asks_nobody(tmp_path):
    path = write_image(tmp_path / "a.png", size=(400, 200))
    page = map_page(make_map(["a", "b", None], path=path))
    assert {"figure", "img", "script"} <= check_page(page).tags
    assert page.count("data:image/jpeg") == 3
    assert "3 images, by PCA, coloured by identity" in page
    assert "at random" in map_page(make_map(["a"], total=9))


def test_names_from_strangers_cannot_speak_html(tmp_path):
    nasty = os.fsdecode(b"/caf\xe9\n\x1b[31m.jpg")
    found = make_map([EVIL, f'"{EVIL}', "a\nb"], EVIL, path=Path(nasty), gallery=EVIL, store=EVIL, model='"><b>')
    page = map_page(found)
    assert len(check_page(page).scripts) == 1  # our own
    json.dumps(found.to_json()).encode()
    draw_map(found, tmp_path / "map.png")


@pytest.mark.parametrize("color", ["identity", "frame"])
def test_a_browser_shows_it_without_a_complaint(tmp_path, color):
    values = list(range(30)) if color == "frame" else ["a", EVIL] * 15
    found = make_map(values, color, path=write_image(tmp_path / "a.png", size=(40, 20)))
    picture = screenshot(write_map_page(found, tmp_path / "map.html"), tmp_path / "map.png", (1000, 1100))
    assert len(picture.getcolors(1 << 20) or []) > 50


def test_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    for write in (draw_map, write_map_page):
        with pytest.raises(SiameseSearchError, match="cannot be written"):
            write(make_map(["a"]), tmp_path / "file" / "x")

"""The map's page in a real browser, from disk: find, zoom, move, legend; light and dark; with and without a script."""

from __future__ import annotations

import numpy as np
import pytest
from browsing import Watch
from fakes import write_image
from PIL import ImageColor

from siamese_search.render.map import write_map_page
from siamese_search.retrieval.map import GalleryMap, MapPoint, colouring

#: Two images each, on a ring, and two more of nobody.
NAMES = [f"{number:04d}" for number in range(1, 31)]


@pytest.fixture(scope="module")
def chromium():
    from browsing import browser

    with browser() as opened:
        yield opened


@pytest.fixture
def found(tmp_path) -> GalleryMap:
    path = write_image(tmp_path / "a.png", size=(40, 20))
    values = [*NAMES * 2, None, None]
    points = tuple(
        MapPoint(f"cam{i % 3}/{i:03d}.jpg", "s", path, value, str(i % 3), value) for i, value in enumerate(values)
    )
    angles = np.arange(len(values)) * 2 * np.pi / len(NAMES)
    places = np.stack([np.cos(angles), np.sin(angles)], 1) * np.linspace(0.7, 1, len(values))[:, None]
    return GalleryMap("default", ".sss", "m", "pca", 0, "identity", len(points), points, places)


@pytest.fixture
def opened(chromium, found, tmp_path):
    """Opens the page from disk; when the test ends it may have asked nobody and complained of nothing."""
    address = write_map_page(found, tmp_path / "map.html").as_uri()
    contexts = []

    def at(**how):
        context = chromium.new_context(viewport={"width": 980, "height": 900}, **how)
        contexts.append((context, Watch(context, address)))
        page = context.new_page()
        page.goto(address)
        return page

    yield at
    for context, watch in contexts:
        context.close()
        watch.check()


def pixels(page, colour) -> np.ndarray:
    """The places [n, 2], row and column, of the canvas's pixels that have a colour at full strength."""
    found = page.evaluate(
        """(colour) => {
          const canvas = document.querySelector("canvas");
          const { width, height } = canvas;
          const copy = Object.assign(document.createElement("canvas"), { width, height });
          const pen = copy.getContext("2d", { willReadFrequently: true });
          pen.drawImage(canvas, 0, 0);
          const data = pen.getImageData(0, 0, width, height).data;
          const near = (at) => colour.every((part, k) => Math.abs(data[at + k] - part) < 6);
          const found = [];
          for (let at = 0; at < width * height; at += 1)
            if (data[4 * at + 3] > 250 && near(4 * at)) found.push(at);
          return [width, found];
        }""",
        list(ImageColor.getrgb(colour)),
    )
    return np.stack(np.divmod(np.array(found[1], int), found[0]), 1)


def spots(page, colour) -> int:
    return len(pixels(page, colour))


def middle(page, colour) -> np.ndarray:
    return pixels(page, colour).mean(axis=0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_looked_for_lights_up_and_all_else_fades(opened, found, scheme):
    page = opened(color_scheme=scheme)
    colours = dict(zip(found.points, colouring(found).colours, strict=True))
    ours, other = colours[found.points[6]], colours[found.points[2]]
    assert spots(page, ours) > 40
    assert spots(page, other) > 40
    page.get_by_role("searchbox").fill("0007")
    assert page.get_by_role("status").inner_text() == "2 images"
    assert spots(page, ours) > 40
    assert spots(page, other) == 0
    lines = page.locator(".legend li:visible")
    assert lines.all_inner_texts() == ["0007\n2"]  # it was one of those that "18 more" hid
    page.get_by_role("searchbox").fill("CAM1/004")  # a key, in any case
    assert page.get_by_role("status").inner_text() == "1 image"
    assert spots(page, colours[found.points[4]]) > 20
    page.get_by_role("searchbox").fill("nobody")
    assert page.get_by_role("status").inner_text() == "0 images"
    page.get_by_role("searchbox").press("Escape")
    assert page.get_by_role("searchbox").input_value() == ""
    assert spots(page, other) > 40


def test_enter_goes_to_what_was_found(opened, found):
    page = opened()
    colour = colouring(found).colours[3]
    page.get_by_role("searchbox").fill("0004")
    page.get_by_role("searchbox").press("Enter")
    box = page.locator("canvas").bounding_box()
    size = np.array([box["height"], box["width"]])
    assert np.abs(middle(page, colour) / size - 0.5).max() < 0.02
    page.get_by_role("button", name="Show all").click()
    assert np.abs(middle(page, colour) / size - 0.5).max() > 0.2


def test_wheel_drag_keys_buttons_and_two_fingers(opened, found):
    page = opened(has_touch=True)
    colour = colouring(found).colours[0]  # on the right, at half the height
    box = page.locator("canvas").bounding_box()
    centre = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    start = middle(page, colour)

    page.mouse.move(*centre)
    page.mouse.wheel(0, -60)
    page.wait_for_timeout(100)
    assert middle(page, colour)[1] > start[1] + 20
    page.mouse.down()
    page.mouse.move(centre[0] - 200, centre[1] + 50, steps=4)
    page.mouse.up()
    assert middle(page, colour)[1] < start[1] - 100
    page.locator("canvas").press("0")
    assert np.abs(middle(page, colour) - start).max() < 2

    for more, less in (("+", "-"), ("=", "-")):
        page.locator("canvas").press(more)
        assert middle(page, colour)[1] > start[1] + 20
        page.locator("canvas").press(less)
        assert np.abs(middle(page, colour) - start).max() < 2
    page.get_by_role("button", name="Zoom in").click()
    assert middle(page, colour)[1] > start[1] + 20
    page.get_by_role("button", name="Zoom out").click()
    assert np.abs(middle(page, colour) - start).max() < 2
    page.locator("canvas").press("+")
    page.locator("canvas").press("ArrowLeft")
    page.get_by_role("button", name="Show all").click()
    assert np.abs(middle(page, colour) - start).max() < 2

    hand = page.context.new_cdp_session(page)
    for apart in (60, 64, 68):
        fingers = [{"x": centre[0] + side * apart, "y": centre[1], "id": side} for side in (-1, 1)]
        kind = "touchStart" if apart == 60 else "touchMove"
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
    hand.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert middle(page, colour)[1] > start[1] + 20


def test_the_legend_turns_values_off_and_on_and_shows_one_alone(opened, found):
    page = opened()
    drawn = colouring(found)
    first = page.locator(".legend button").first
    assert first.inner_text() == "0001\n2"
    colour = drawn.entries[0].color
    first.click()
    assert first.get_attribute("aria-pressed") == "false"
    assert spots(page, colour) == 0
    assert spots(page, drawn.entries[1].color) > 40
    first.click()
    assert spots(page, colour) > 40
    first.dblclick()
    assert spots(page, colour) > 40
    assert spots(page, drawn.entries[1].color) == 0
    page.get_by_role("searchbox").fill("0002")  # what is asked for by name is there
    assert spots(page, drawn.entries[1].color) > 40
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="show all", exact=True).click()
    assert spots(page, drawn.entries[1].color) > 40
    assert page.locator(".legend li:visible").count() == drawn.first
    page.get_by_text("18 more").click()
    assert page.locator(".legend li:visible").count() == len(drawn.entries)


def test_a_dot_shows_its_image_and_needs_no_script_for_it(opened, found):
    page = opened()
    box = page.locator("canvas").bounding_box()
    spot = pixels(page, colouring(found).colours[0])[-1].tolist()
    page.mouse.move(box["x"] + spot[1], box["y"] + spot[0])
    card = page.locator(".hover")
    assert card.inner_text().startswith("0001, camera 0: cam0/0")
    assert card.locator("img").evaluate("(one) => one.decode().then(() => one.naturalWidth)") > 0
    plain = opened(java_script_enabled=False)
    assert plain.locator("canvas").count() == 0
    assert plain.locator(".legend li:visible").count() == colouring(found).first
    plain.locator(".map i").first.hover()
    assert plain.locator(".map i span").first.inner_text() == "0001, camera 0: cam0/000.jpg"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_it_fits_any_width(opened, width, scheme):
    page = opened(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    assert page.locator("canvas").bounding_box()["width"] > min(0.75 * width, 700)

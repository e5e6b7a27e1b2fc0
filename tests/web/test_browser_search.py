"""The search as a person has it, in a real browser: images in, people out."""

from __future__ import annotations

import re
from collections import Counter
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from browsing import CAMERAS, hand_over
from http_client import Client
from PIL import Image

from siamese_search.gallery import open_gallery


def names(page):
    return page.locator("ol.cards .name").all_inner_texts()


def title(page):
    return page.locator(".verdict h1").inner_text()


def facet(page, field):
    return page.locator(".facet", has=page.locator(f"h3:text-is('{field}')"))


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_an_image_finds_its_person_and_the_answer_is_an_address(drawn, read_server, tab, way):
    page = tab(read_server)
    page.goto("/")
    hand_over(page, way, *drawn.queries["0002"])
    assert names(page)[0] == "0002"
    assert re.fullmatch(r"0002, probability (> )?\d+\.\d%", title(page))
    first = page.locator("ol.cards .word").first
    assert first.inner_text() == "match"
    assert "good" in first.get_attribute("class").split()
    before = names(page)
    page.reload()
    assert names(page) == before


def test_several_images_are_one_target(drawn, read_server, tab):
    page = tab(read_server)
    page.goto("/")
    page.locator("form.upload input[type=file]").set_input_files([*drawn.queries["0001"], *drawn.queries["0003"]])
    page.wait_for_url("**/?q=*&q=*")
    assert page.locator(".query .card").count() == 2
    assert set(names(page)[:4]) <= {"0001", "0003"}
    page.locator(".query .card").first.get_by_text("remove").click()
    page.wait_for_url(lambda url: url.count("q=") == 1)
    assert names(page)[0] == "0003"


def test_who_is_not_there_is_said_not_to_be_there(read_server, tab, tmp_path):
    noise = np.random.default_rng(7).integers(0, 256, (160, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    page = tab(read_server)
    page.goto("/")
    hand_over(page, "drop", str(tmp_path / "noise.png"))
    assert title(page) == "Not in the gallery"
    assert "no match" in page.locator("ol.cards .word").all_inner_texts()
    assert "match" not in page.locator("ol.cards .word").all_inner_texts()


def test_a_facet_narrows_and_counts_what_is_there(drawn, read_server, tab):
    page = tab(read_server)
    page.goto("/")
    hand_over(page, "drop", *drawn.queries["0001"])
    on_disk = Counter(path.name[6] for path in (drawn.place / "demo" / "gallery").glob("*_c*.jpg"))
    choices = facet(page, "camera").locator("li a")
    shown = {one.locator("span").inner_text(): int(one.locator("em").inner_text()) for one in choices.all()}
    assert shown == dict(on_disk)
    assert len(shown) == CAMERAS
    choices.filter(has_text="2").first.click()
    page.wait_for_url("**where=camera*")
    page.wait_for_selector(".chip")
    assert set(page.locator("ol.cards .soft > span:first-child").all_inner_texts()) == {"camera 2"}
    facet(page, "camera").locator("li a").filter(has_text="3").first.click()
    page.wait_for_url("**camera*2*3*")
    page.locator(".chip", has_text="3").wait_for()
    assert set(page.locator("ol.cards .soft > span:first-child").all_inner_texts()) == {"camera 2", "camera 3"}
    page.locator(".chip").click()
    page.wait_for_url(lambda url: "where" not in url)


def test_images_without_a_camera_are_a_choice_of_their_own(drawn, write_server, tab):
    address, store = write_server
    with open_gallery(store) as gallery:
        seen = {one.id: one.camera for one in gallery.scroll(fields=("camera",))}
    unseen = sorted(one for one, camera in seen.items() if camera == "2")[:3]
    client = Client(address)
    status, edit = client.json("POST", "/api/v1/labels", {"points": unseen, "values": {"camera": None}})
    assert (status, edit["changed"]) == (200, len(unseen))
    try:
        page = tab(address)
        page.goto("/")
        hand_over(page, "drop", *drawn.queries["0001"])
        choices = facet(page, "camera").locator("li a")
        lacking, second = choices.filter(has_text="no camera"), choices.filter(has_text=re.compile("^2"))
        assert lacking.locator("em").inner_text() == str(len(unseen))
        assert int(second.locator("em").inner_text()) == list(seen.values()).count("2") - len(unseen)
        lacking.click()
        page.wait_for_url("**where=camera%21%3D*")
        page.locator(".chip", has_text="camera!=*").wait_for()
        assert page.locator("ol.cards > li").count() == len(unseen)
        linked = [one.get_attribute("href") for one in page.locator("ol.cards a.picture").all()]
        assert sorted(parse_qs(urlsplit(one).query)["like"][0] for one in linked) == unseen
        assert "camera" not in page.locator("ol.cards").inner_text()
        assert lacking.get_attribute("aria-current") == "true"
        second.click()  # one or the other: an image with no camera is in none
        page.locator(".chip", has_text="camera=2").wait_for()
        assert set(page.locator("ol.cards .soft > span:first-child").all_inner_texts()) == {"camera 2"}
        lacking.click()
        page.locator(".chip", has_text="camera!=*").wait_for()
        page.go_back()
        page.locator(".chip", has_text="camera=2").wait_for()
    finally:
        assert client.json("POST", "/api/v1/undo", {"undo": edit["undo"]})[0] == 200


def test_a_range_narrows(drawn, read_server, tab):
    page = tab(read_server)
    page.goto("/")
    hand_over(page, "drop", *drawn.queries["0001"])
    frames = sorted(int(path.name.split("_")[2]) for path in (drawn.place / "demo" / "gallery").glob("*.jpg"))
    middle = frames[len(frames) // 2]
    page.get_by_label("to", exact=True).fill(str(middle))
    page.get_by_role("button", name="Apply the range of frame").click()
    page.wait_for_url("**where=frame*")
    page.wait_for_selector(".chip")
    assert page.locator("ol.cards > li").count() == min(20, sum(frame <= middle for frame in frames))


def test_a_box_on_the_query_searches_for_that_part(drawn, read_server, tab):
    page = tab(read_server)
    page.goto("/")
    hand_over(page, "drop", *drawn.queries["0004"])
    whole, scores = page.url, page.locator("ol.cards .numbers").all_inner_texts()
    box = page.locator(".crop").bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.1 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.6 * box["height"], steps=4)
    page.mouse.up()
    page.wait_for_url(lambda url: url != whole)
    page.get_by_text("part of your image").wait_for()
    assert page.locator("ol.cards .numbers").all_inner_texts() != scores
    page.reload()
    x, y = (int(page.locator(".crop rect").get_attribute(name)) for name in ("x", "y"))
    assert (x, y) == (pytest.approx(2000, abs=200), pytest.approx(1000, abs=200))
    page.get_by_role("button", name="whole image").click()
    page.get_by_text("your image", exact=True).wait_for()
    assert page.locator("ol.cards .numbers").all_inner_texts() == scores


def test_a_box_is_placed_by_keys(drawn, read_server, tab):
    page = tab(read_server)
    page.goto("/")
    hand_over(page, "drop", *drawn.queries["0004"])
    whole = page.url

    def box():
        return [int(page.locator(".crop rect").get_attribute(name)) for name in ("x", "y", "width", "height")]

    assert page.locator(".keys").is_hidden()
    while page.evaluate("!document.activeElement.matches('.crop')"):
        page.keyboard.press("Tab")
    assert page.locator(".keys").is_visible()
    page.keyboard.press("Enter")  # there is no box yet
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowRight")
    assert box() == [2500, 2000, 5500, 5000]
    page.keyboard.press("Escape")
    assert box() == [0, 0, 10_000, 10_000]
    for _ in range(30):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Shift+ArrowUp")
    assert box() == [5000, 2500, 5000, 500]  # neither beyond the image nor empty
    assert page.url == whole
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: url != whole)
    page.get_by_text("part of your image").wait_for()
    assert box() == [5000, 2500, 5000, 500]
    page.locator(".crop").focus()
    page.keyboard.press("Shift+ArrowDown")  # from the box that there is
    assert box() == [5000, 2500, 5000, 1000]


def test_a_result_is_searched_on_from_and_away_from(drawn, read_server, tab):
    page = tab(read_server)
    page.goto("/")
    hand_over(page, "drop", *drawn.queries["0003"])
    page.locator("ol.cards a.picture").first.click()
    page.wait_for_url("**/?like=*")
    page.wait_for_selector(".query img[src^='/images/']")
    point = page.url.split("like=")[1]
    assert not any(point in (link.get_attribute("href") or "") for link in page.locator("a.picture").all())
    page.locator("ol.cards").get_by_text("less like this").last.click()
    page.wait_for_url("**not=*")
    page.locator(".query .away").wait_for()
    assert title(page).startswith("Nearest: ")
    assert not {"match", "no match"} & set(page.locator("ol.cards .word").all_inner_texts())


def test_grouped_and_reranked_by_a_tick(drawn, read_server, tab):
    page = tab(read_server)
    page.goto("/")
    hand_over(page, "drop", *drawn.queries["0002"])
    page.get_by_label("One per identity").check()
    page.wait_for_url("**group=1*")
    page.wait_for_selector("text=/\\dx cam/")
    known = [name for name in names(page) if name.startswith("000") and name != "0000"]
    assert len(known) == len(set(known))
    page.get_by_label("Re-rank by neighbours").check()
    page.wait_for_url("**rerank=1*")
    page.get_by_text("k-reciprocal").wait_for()
    assert names(page)[0] == "0002"


def test_a_filter_that_cannot_work_says_so_and_can_be_taken_away(drawn, read_server, tab):
    page = tab(read_server)
    page.goto("/")
    hand_over(page, "drop", *drawn.queries["0001"])
    page.goto(page.url + "&where=shoe%3D42")
    assert "shoe" in page.locator("[role=alert]").inner_text()
    page.locator(".chip").click()
    page.wait_for_url(lambda url: "shoe" not in url)
    page.wait_for_selector("ol.cards .name")

"""A timeline as a picture and as a page: lanes, ticks, gaps, and what cannot be placed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fakes import write_image
from matplotlib.figure import Figure
from pages import check_page, screenshot
from PIL import Image

from siamese_search.errors import UsageError
from siamese_search.render.timeline import MAX_LANES, draw_timelines, timeline_page, write_timeline_page
from siamese_search.retrieval.results import QueryResult, SearchResult
from siamese_search.retrieval.timeline import arrange

GREEN, GAP = (0, 146, 94), (243, 244, 245)


@pytest.fixture
def photo(tmp_path) -> Path:
    return write_image(tmp_path / "photo.png", size=(20, 40))


def timeline(rows, path, field="time", identity="ann"):
    """rows: (time, camera) or (time, camera, sequence)."""
    found = tuple(
        SearchResult(
            rank, 1 - rank / 1000, "ann", camera, path, f"{rank}.jpg",
            {name: value for name, value in ((field, time), ("sequence", "".join(more) or None)) if value is not None},
        )
        for rank, (time, camera, *more) in enumerate(rows, start=1)
    )  # fmt: skip
    return arrange(QueryResult("q.jpg", found, path, identity=identity), identity, field, len(found))


def texts(page: str) -> list[str]:
    """What stands in the drawing, in its order."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", page)


def test_lanes_share_an_axis_of_time_and_long_gaps_are_named(photo):
    rows = [
        ("2024-03-01T09:00:00", "10"),
        ("2024-03-01T09:05:00", "2"),
        ("2024-03-01T12:00:00+02:00", "2"),  # 55 minutes later
        ("2024-03-01T13:00:00", "10"),
    ]
    page = timeline_page([timeline(rows, photo)])
    check_page(page)
    found = texts(page)
    assert [text for text in found if text.startswith("camera")] == ["camera 2", "camera 10"]
    assert found.index("camera 2") < found.index("10:00")
    assert found.count("10:00") == 1  # one axis, below
    assert [text for text in found if text.startswith("gap")] == ["gap 55 min", "gap 3 h"]
    assert "time, UTC" in found
    assert "+3 h" in page.split("</svg>")[1]  # below its image, too
    assert page.split("</svg>")[0].count("<image") == 4


def test_frames_of_cameras_have_axes_of_their_own(photo):
    rows = [(100, "1", "1"), (160, "1", "1"), (9000, "2", "1"), (9010, "2", "2")]
    page = timeline_page([timeline(rows, photo, field="frame")])
    found = texts(page)
    assert found.count("frame") == 3  # camera 1, and two sequences of camera 2
    assert "each lane has an axis of its own" in page
    assert [text for text in found if text.startswith("gap")] == ["gap 60"]


def test_images_that_would_overlap_are_counted(photo):
    rows = [(second, "1") for second in range(40)] + [(10_000, "1")]
    drawing = timeline_page([timeline(rows, photo)]).split("</svg>")[0]
    assert drawing.count("<image") == 2
    assert "+39" in texts(drawing)


def test_what_no_axis_can_show_is_said(photo):
    texts_only = timeline([("dawn", "1"), ("dusk", "2")], photo)
    page = timeline_page([texts_only])
    assert "<svg" not in page
    assert "2 of 2 have no time that an axis can show" in page
    some = timeline([("2024-03-01T09:00:00", "1"), (None, "1"), ("soon", "2")], photo)
    assert "2 of 3 have no time that an axis can show" in timeline_page([some])


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("time", ["0001-01-01T00:00:00", "9999-12-31T23:59:59"]),
        ("time", ["9999-12-31T23:59:59"]),
        ("time", [1_700_000_000_000_000_000, 1_700_000_000_000_000_007]),
        ("time", [-1e300, 1e300]),
        ("time", [0.125]),
    ],
)
def test_times_at_the_edge(photo, tmp_path, field, values):
    one = timeline([(value, "1") for value in values], photo, field=field)
    check_page(timeline_page([one]))
    with Image.open(draw_timelines([one], tmp_path / "x.png")) as picture:
        assert picture.size[0] == 1440


def test_a_picture_has_a_dot_at_each_time_and_shows_the_gap(photo, tmp_path):
    one = timeline([("2024-03-01T09:00:00", "1"), ("2024-03-01T10:00:00", "1")], photo)
    with Image.open(draw_timelines([one], tmp_path / "x.png")) as picture:
        seen = picture.convert("RGB")
    bottom = seen.height - round(0.55 * 120) - round(0.07 * 1.3 * 0.97 * 120)  # where the dots are
    row = [seen.getpixel((x, bottom)) for x in range(seen.width)]
    dots = [x for x in range(1, len(row)) if row[x] == GREEN and row[x - 1] != GREEN]
    assert len(dots) == 2
    assert dots[1] - dots[0] == pytest.approx(10.25 * 120 / 1.12, abs=3)  # an axis has 6 % of room at each end
    assert seen.getpixel((sum(dots) // 2 + 40, bottom - 20)) == pytest.approx(GAP, abs=2)


def test_lanes_and_timelines_beyond_what_is_drawn_are_counted(photo, tmp_path):
    many = timeline([(number, f"{number}") for number in range(MAX_LANES + 3)], photo)
    assert f"the first {MAX_LANES} of {MAX_LANES + 3} lanes drawn" in timeline_page([many])
    failed = arrange(QueryResult("bad.jpg", error="no such file"), None, "time", 0)
    assert "no such file" in timeline_page([failed, many])
    with pytest.raises(UsageError, match="no results"):
        draw_timelines([failed], tmp_path / "x.png")


def test_names_are_not_markup_or_mathematics(photo, tmp_path):
    evil = "$x^$<script>alert(1)</script>\x1b[31m"
    one = timeline([(1, evil), (2, evil)], tmp_path / "gone.jpg", field=f"frame{evil}")
    page = timeline_page([one])
    check_page(page)
    assert "\x1b" not in page
    assert "such" in texts(page)
    draw_timelines([one], tmp_path / "x.png")


def test_a_browser_has_nothing_to_complain_of(photo, tmp_path):
    one = timeline([("2024-03-01T09:00:00", "1"), ("2024-03-01T10:00:00", "2")], photo)
    page = write_timeline_page([one, one], tmp_path / "x.html")
    light = screenshot(page, tmp_path / "light.png", (390, 900))
    dark = screenshot(page, tmp_path / "dark.png", (390, 900), dark=True)
    assert light.getpixel((2, 2)) == (251, 251, 249)
    assert dark.getpixel((2, 2)) == (21, 25, 30)


def test_a_picture_says_what_its_frames_mean_where_they_mean_something(photo, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(Figure, "text", lambda _self, *_place, **how: said.append(how["s"]))
    rows = [("2024-03-01T09:00:00", "1"), ("2024-03-01T10:00:00", "1")]
    draw_timelines([timeline(rows, photo), timeline(rows, photo, identity=None)], tmp_path / "x.png")
    assert [("frames: green same identity" in text) for text in said if "q.jpg" in text or "photo" in text] == [
        True,
        False,
    ]

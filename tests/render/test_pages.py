import os
import re
from pathlib import Path

import numpy as np
import pytest
from fakes import write_image
from pages import check_page, screenshot

from siamese_search.errors import SiameseSearchError, UsageError
from siamese_search.render import pages as module
from siamese_search.render.pages import html_sheet, write_html_sheet
from siamese_search.retrieval.results import QueryResult, SearchResult, Verdict

EVIL = "<script>alert(1)</script>"


def result(rank, identity, path, **more):
    return SearchResult(rank, 1 - rank / 50, identity, more.pop("camera", "1"), Path(path), str(path), **more)


@pytest.fixture
def picture(tmp_path):
    return write_image(tmp_path / "0007_c1s1_000001_01.jpg", size=(128, 64))


@pytest.fixture
def hostile(tmp_path, picture):
    """Answers whose every text tries to be something else."""
    names = [f"{EVIL}.jpg", "\"onload='alert(1)'.jpg", "a\nb\x1b[31m.jpg", "&lt;.jpg", "\u202ereversed.jpg"]
    paths = [tmp_path / os.fsdecode(b"caf\xe9.jpg"), *(tmp_path / name.replace("/", "_") for name in names)]
    for path in paths:
        path.write_bytes(picture.read_bytes())
    found = [
        result(
            rank, f'"><img src=x onerror=alert({rank})>', path, camera=EVIL,
            metadata={EVIL: EVIL, '" onclick="alert(1)': os.fsdecode(b"\xff\n")}, match=rank % 2 == 0, probability=0.5,
        )
        for rank, path in enumerate(paths, start=1)
    ]  # fmt: skip
    return [
        QueryResult(
            str(paths[0]), tuple(found), paths[0], found[1].identity, verdict=Verdict(0.01, 0.5, 10, 0.1, 0.1, 10, 0.05)
        ),
        QueryResult(EVIL, path=Path(EVIL), error=f"no such file {EVIL}"),
        QueryResult("image 3", (result(1, None, tmp_path / "gone.jpg", sightings=2, cameras=(EVIL,)),)),
    ]


def test_names_from_files_cannot_speak_html(hostile):
    page = html_sheet(hostile, title=EVIL)
    check_page(page)
    assert "<script" not in page
    assert "onerror=alert(1)>" not in page
    assert "&lt;script&gt;" in page
    assert "caf\\xe9.jpg" in page
    assert "\\n" in page
    assert "\\u202e" in page
    page.encode("utf-8")


@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_without_a_complaint(hostile, tmp_path, dark):
    page = write_html_sheet(hostile, tmp_path / "out.html")
    picture = np.asarray(screenshot(page, tmp_path / "page.png", (900, 1200), dark=dark))
    corner = picture[2, 2].astype(int)
    assert (corner.max() < 64) if dark else (corner.min() > 192)
    # The frames of matches and of others are there: the page's style was let through by its own policy.
    for colour in ((0, 146, 94), (205, 62, 38)):
        assert (np.abs(picture.astype(int) - colour).max(axis=2) < 4).sum() > 500


def test_frames_say_the_truth_and_words_the_verdict(picture):
    calibrated = QueryResult(
        "q", (result(1, "a", picture, match=True, probability=0.97), result(2, "b", picture, match=False)),
        verdict=Verdict(0.01, 0.5, 10, 0.1, 0.1, 10, 0.05),
    )  # fmt: skip
    page = html_sheet([calibrated])
    assert re.findall(r'class="tile (\w*)"', page) == ["query", "", ""]  # nobody knows who the query is
    assert '"word right">match</span>' in page
    assert '"word wrong">no match</span>' in page
    assert "badges: match or no match" in page
    assert "97.0%" in page
    assert "a match scores 0.5000 or more" in page
    known = QueryResult(str(picture), (result(1, "0007", picture), result(2, "b", picture)), picture)
    page = html_sheet([known])
    assert re.findall(r'class="tile (\w*)"', page) == ["query", "right", "wrong"]
    assert ">same</span>" in page
    anonymous = QueryResult("q", (result(1, "a", picture),))
    assert re.findall(r'class="tile (\w*)"', html_sheet([anonymous])) == ["query", ""]


def test_pictures_are_encoded_anew_and_small(tmp_path):
    big = write_image(tmp_path / "big.png", size=(2000, 1000))
    big.write_bytes(big.read_bytes() + b"SECRET BEHIND THE IMAGE")
    page = html_sheet([QueryResult("q", (result(1, "a", big),) * 5, big)])
    assert len(page) < 400_000
    assert "SECRET" not in page
    assert page.count("data:image/jpeg") == 6


def test_what_cannot_be_read_is_named(tmp_path, picture):
    (tmp_path / "broken.jpg").write_bytes(picture.read_bytes()[:80])
    long = tmp_path / ("x" * 300 + ".jpg")
    answers = [
        QueryResult(
            "image 1",
            (result(1, "a", tmp_path / "gone.jpg"), result(2, "b", tmp_path / "broken.jpg"), result(3, "c", long)),
        ),
        QueryResult("none"),
    ]
    page = html_sheet(answers)
    check_page(page)
    for text in ("no such file", "unreadable", "no file", "no results"):
        assert f">{text}<" in page


def test_it_says_what_it_leaves_out(picture, monkeypatch):
    monkeypatch.setattr(module, "MAX_QUERIES", 2)
    monkeypatch.setattr(module, "MAX_RESULTS", 3)
    page = html_sheet([QueryResult("q", tuple(result(i, "a", picture) for i in range(1, 6)))] * 4)
    assert page.count('<section class="answer">') == 2
    assert "4 queries, the first 2 shown" in page
    assert "the first 3 of 5 shown" in page


def test_what_cannot_be_written(tmp_path, picture):
    with pytest.raises(UsageError, match="no results"):
        write_html_sheet([], tmp_path / "x.html")
    (tmp_path / "file").write_text("x")
    with pytest.raises(SiameseSearchError, match="cannot be written"):
        write_html_sheet([QueryResult("q")], tmp_path / "file" / "x.html")


def test_what_holds_for_every_answer_is_said_once(picture):
    why = "this gallery is not like what the model was calibrated on"
    found = (result(1, "a", picture),)
    page = html_sheet([QueryResult("p", found, no_verdict=why), QueryResult("q", found, no_verdict=why)])
    assert page.count(why) == 1
    page = html_sheet([QueryResult("p", found, no_verdict=why), QueryResult("q", found, no_verdict="another reason")])
    assert page.count(why) == page.count("another reason") == 1
    assert html_sheet([QueryResult("p", found, no_verdict=why)]).count(why) == 1

import math
from pathlib import Path

import numpy as np
import pytest
from fakes import write_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from siamese_search.errors import UsageError
from siamese_search.render import star
from siamese_search.render.canvas import BLUE, GREEN, RED, Canvas
from siamese_search.render.star import MAX_RESULTS, arrange, draw_star, rings
from siamese_search.retrieval.results import QueryResult, SearchResult, Verdict

SIZES = st.tuples(st.integers(40, 220), st.integers(40, 260))


def boxes(layout, middle):
    yield (-middle[0] / 2, -middle[1] / 2, middle[0] / 2, middle[1] / 2)
    for x, y in layout.centres:
        yield (x - layout.size[0] / 2, y - layout.size[1] / 2, x + layout.size[0] / 2, y + layout.size[1] / 2)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1, 1, allow_nan=False, width=32), max_size=MAX_RESULTS).map(lambda s: sorted(s, reverse=True)),
    SIZES,
    SIZES,
)
def test_no_picture_covers_another_and_distance_is_linear_in_similarity(scores, size, middle):
    layout = arrange(scores, size, middle)
    assert len(layout.centres) == len(scores)
    all_boxes = list(boxes(layout, middle))
    for i, a in enumerate(all_boxes):
        for b in all_boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for (x, y), score in zip(layout.centres, scores, strict=True):
        assert math.hypot(x, y) == pytest.approx(layout.inner + (layout.best - score) * layout.step)
    assert layout.step > 0


def test_few_results_go_once_around_clockwise_from_the_top():
    layout = arrange([0.9, 0.8, 0.7, 0.6], (50, 80), (60, 90))
    (up, right, down, left) = layout.centres
    assert abs(up[0]) < 1e-6
    assert up[1] < 0 < right[0]
    assert down[1] > 0 > left[0]


@pytest.mark.parametrize(
    ("best", "worst", "expected"),
    [
        (0.744, 0.626, [0.7, 0.65, 0.6]),
        (0.9, 0.1, [0.8, 0.6, 0.4, 0.2, 0.0]),
        (0.5, 0.5, [0.5]),
        (1.0, -1.0, [1.0, 0.5, 0.0, -0.5, -1.0]),
    ],
)
def test_rings_are_round_and_few(best, worst, expected):
    assert rings(best, worst) == pytest.approx(expected)


def share(picture, colour):
    return (np.abs(np.asarray(picture).astype(int) - colour).max(axis=2) < 4).sum()


def test_frames_say_the_truth_and_badges_the_verdict(tmp_path):
    path = write_image(tmp_path / "a.jpg", size=(128, 64))

    def found(rank, match, identity):
        return SearchResult(rank, 1 - rank / 20, identity, "1", path, "a.jpg", match=match)

    verdict = Verdict(0.01, 0.5, 168, 0.815, 1.68, 48, 1 / 96)
    cases = {"same": (None, "a", True, False), "other": (None, "b", False, True), "nobody": (None, None, False, False),
             "match": (True, None, True, False), "no": (False, None, False, True)}  # fmt: skip
    for name, (match, identity, green, red) in cases.items():
        results = tuple(found(i, match, identity) for i in range(1, 5))
        judged = None if match is None else verdict
        answer = QueryResult("q", results, path, identity="a", verdict=judged)
        with Image.open(draw_star([answer], tmp_path / f"{name}.png")) as picture:
            drawn = picture.convert("RGB")
        assert (share(drawn, GREEN) > 700) == green, name
        assert (share(drawn, RED) > 700) == red, name
        assert share(drawn, BLUE) > 500


def test_words_are_wrapped_and_never_cut():
    canvas = Canvas(1, 1)
    text = "the chance of any false match among 168 images is 81.5% " * 3
    lines = canvas.wrapped(text, 13, 200)
    assert " ".join(lines) == text.strip()
    assert len(lines) > 3
    assert all(canvas.width_of(line, 13) <= 200 for line in lines)
    assert canvas.wrapped("", 13, 200) == []


def test_dirt_never_stops_the_drawing(tmp_path):
    path = write_image(tmp_path / "wide.png", size=(4, 900))
    many = tuple(SearchResult(i, 0.5, None, None, Path("/gone\n\x1b[31m"), "k") for i in range(1, MAX_RESULTS + 10))
    answers = [QueryResult("image 1", many), QueryResult(str(path), (), path), QueryResult("x", error="gone")]
    with Image.open(draw_star(answers, tmp_path / "star.png")) as picture:
        picture.load()
    with pytest.raises(UsageError, match="no results"):
        draw_star(answers[2:], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_no_ring_is_cut_and_badges_are_explained_only_where_there_are_any(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.jpg", size=(128, 64))
    results = tuple(SearchResult(i, 1 / i, "a", "1", path, "k") for i in range(1, 41))
    drawn, said = [], []
    lines = star._Star._lines
    monkeypatch.setattr(
        star._Star, "_lines", lambda one, layout, radii: drawn.append((one, radii)) or lines(one, layout, radii)
    )
    monkeypatch.setattr(Canvas, "text", lambda _self, _at, text, *_more: said.append(text))
    draw_star([QueryResult("q", results, path, no_verdict="not calibrated")], tmp_path / "star.png")
    ((one, radii),) = drawn
    x, y = one.centre
    assert radii
    assert all(x - radius >= 0 and x + radius <= one.canvas.image.width for radius in radii)
    assert all(one.head <= y - radius and y + radius <= one.bottom for radius in radii)
    assert not any("badges" in text for text in said)
    assert "not calibrated" in said

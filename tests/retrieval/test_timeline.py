"""Sightings in the order of time, as far as their times can be compared."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fakes import ColourEmbedder, MemoryGallery, write_image, write_market

from ingest.pipeline import run_ingest
from siamese_search.errors import UsageError
from siamese_search.gallery.filters import Condition
from siamese_search.model.calibration import Calibration
from siamese_search.render.marks import sightings
from siamese_search.retrieval import timeline as following
from siamese_search.retrieval.judging import Judge
from siamese_search.retrieval.options import TimelineOptions
from siamese_search.retrieval.results import QueryResult, SearchResult
from siamese_search.retrieval.searcher import Searcher
from siamese_search.retrieval.timeline import arrange, choose_field, follow

LENIENT = Calibration((0.5, 0.1), (0.0, 0.5), slope=10.0, offset=0.0, genuine=50, impostor=100)


def answer(rows, field="time"):
    """rows: (time, camera, sequence); ranks as given, shuffled to the same order every time."""
    results = [
        SearchResult(
            rank, 1 - rank / 100, "ann", camera, Path(f"{rank}.jpg"), f"{rank}.jpg",
            {name: value for name, value in ((field, time), ("sequence", sequence)) if value is not None},
        )
        for rank, (time, camera, sequence) in enumerate(rows, start=1)
    ]  # fmt: skip
    random.Random(0).shuffle(results)
    return QueryResult("q.jpg", tuple(results))


def order(timeline):
    return [sighting.result.rank for sighting in timeline.sightings]


def test_dates_and_times_across_cameras():
    rows = [
        ("2024-03-01T10:05:00", "1", None),
        ("2024-03-01T09:00:00", "2", None),
        ("2024-03-01T12:05:30+02:00", "3", None),  # half a minute after the first
        (None, "9", None),
        ("2024-03-02T09:00:00", "3", None),
    ]
    timeline = arrange(answer(rows), "ann", "time", 5)
    assert order(timeline) == [2, 1, 3, 5, 4]
    assert [s.gap for s in timeline.sightings] == [None, 3900.0, 30.0, 82_470.0, None]
    assert [s.came_from for s in timeline.sightings] == [None, "2", "1", None, None]
    assert (timeline.unit, timeline.within) == ("seconds", ())
    assert [hit.rank for hit in timeline.answer.results] == order(timeline)
    # What pictures say below each image.
    assert [sightings(hit) for hit in timeline.answer.results][::2] == [
        "2024-03-01T09:00:00", "2024-03-01T12:05:30+02:00", "time not known",
    ]  # fmt: skip


def test_frames_count_within_a_camera_and_a_sequence():
    rows = [(30, "1", 2), (10, "2", 1), (25, "1", 1), (5, "1", 1), (20, "2", 1), (40, "1", 10)]
    timeline = arrange(answer(rows, "frame"), "ann", "frame", 6)
    assert order(timeline) == [4, 2, 5, 3, 1, 6]  # sequence 10 after 2
    assert [s.gap for s in timeline.sightings] == [None, None, 10.0, 20.0, None, None]
    assert {s.came_from for s in timeline.sightings} == {None}
    assert timeline.within == ("camera", "sequence")
    # One camera, one sequence: all of them are comparable.
    alone = arrange(answer([(7, "1", 1), (3, "1", 1)], "frame"), "ann", "frame", 2)
    assert (alone.within, [s.gap for s in alone.sightings]) == ((), [None, 4.0])


@pytest.mark.parametrize(
    ("field", "values", "gaps", "unit"),
    [
        ("time", [5, 2.5, 10], [None, 2.5, 5.0], None),
        ("time", ["10", "9", "100"], [None, 1.0, 90.0], None),  # numbers that came as text
        ("time", ["week 2", "week 1", "week 3"], [None, None, None], None),
        ("date", [20240201, 20240131, 20240202], [None, 86_400.0, 86_400.0], "seconds"),
        ("Date", ["2024-02-01", "2024-01-31", "2024-02-02"], [None, 86_400.0, 86_400.0], "seconds"),
        ("time", [True, False, True], [None, 1.0, 0.0], None),
    ],
)
def test_kinds_of_time(field, values, gaps, unit):
    timeline = arrange(answer([(value, "1", None) for value in values], field), "ann", field, 3)
    assert order(timeline) == [2, 1, 3]
    assert [s.gap for s in timeline.sightings] == gaps
    assert timeline.unit == unit
    assert [s.time for s in timeline.sightings] == [values[1], values[0], values[2]]


def test_what_is_no_time_comes_last_and_is_named():
    odd = arrange(answer([("2024-05-01T10:00:00+02:00", "1", None), ("2024-05-01T08:30:00Z", "2", None),
                          ("unknown", "2", None), ("2024-05-01T07:59:59", "1", None)]), "ann", "time", 4)  # fmt: skip
    assert order(odd) == [4, 1, 2, 3]
    assert [s.gap for s in odd.sightings] == [None, 1.0, 1800.0, None]
    assert odd.unit == "seconds"
    assert "1 of 4 values cannot be read as times ('unknown')" in odd.notes[0]
    assert "1 of 3 times name no zone" in odd.notes[1]
    european = arrange(answer([("13/04/2024", "1", None), ("01/05/2024", "1", None)], "date"), "ann", "date", 2)
    assert "ordered as text, for '01/05/2024', '13/04/2024'" in european.notes[0]
    mixed = arrange(answer([("10", "1", None), ("n/a", "1", None), ("9", "1", None)], "frame"), "ann", "frame", 3)
    assert (order(mixed), [s.gap for s in mixed.sightings]) == ([3, 1, 2], [None, 1.0, None])
    assert "not a number" in mixed.notes[0]


def test_nanoseconds_do_not_run_together():
    start = 1_700_000_000_000_000_000
    timeline = arrange(answer([(start + n, "1", None) for n in (2, 0, 1)], "timestamp"), "ann", "timestamp", 3)
    assert order(timeline) == [2, 3, 1]
    assert [s.gap for s in timeline.sightings] == [None, 1, 1]


def test_equal_times_are_ordered_by_camera_then_score():
    rows = [(1, "10", None), (1, "9", None), (1, "9", None)]
    assert order(arrange(answer(rows), "ann", "time", 3)) == [2, 3, 1]
    empty = arrange(QueryResult("q.jpg"), None, "time", 0)
    assert (empty.sightings, empty.to_json()["sightings"]) == ((), [])


def test_the_field_of_the_time():
    fields = {"frame": "int", "Timestamp": "str", "camera": "str"}
    assert choose_field(fields, None) == "Timestamp"
    assert choose_field(fields, "camera") == "camera"
    assert choose_field({"frame": "int"}, None) == "frame"
    with pytest.raises(UsageError, match=r"no field 'when' to take times from; it has Timestamp, camera, frame"):
        choose_field(fields, "when")
    with pytest.raises(UsageError, match="--time-field"):
        choose_field({"camera": "str"}, None)


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """Three people, two cameras, four images each; a distractor nearest to all; the paths and the gallery."""
    root = tmp_path_factory.mktemp("market")
    paths = write_market(root)
    write_image(root / "0000_c1s1_000009_01.jpg", seed=paths[0].name)  # the same pixels, but nobody's
    gallery = MemoryGallery()
    run_ingest([root], gallery, ColourEmbedder())
    return paths, gallery


def followed(gallery, queries, calibration=None, where=(), **options):
    searcher = Searcher(gallery, ColourEmbedder())
    wanted = TimelineOptions(rerank="candidates" in options, **options)
    return follow(searcher, searcher.probes(queries), "frame", wanted, where, Judge(calibration))


def test_all_sightings_of_the_nearest_identity(market):
    paths, gallery = market
    first, second = followed(gallery, [paths[0], paths[5]])
    assert (first.identity, second.identity) == ("0001", "0002")  # not the distractor
    assert [hit.key for hit in first.answer.results] == [paths[n].name for n in (0, 2, 1, 3)]
    assert (first.total, first.within) == (4, ("camera",))
    assert [(s.time, s.gap) for s in first.sightings] == [(0, None), (0, None), (1, 1.0), (1, 1.0)]
    scores = sorted((s.result.score for s in first.sightings), reverse=True)
    assert sorted((s.result.rank, s.result.score) for s in first.sightings) == list(enumerate(scores, start=1))
    (seen,) = followed(gallery, [paths[0]], where=[Condition("camera", "=", ("2",))])
    assert all(hit.camera == "2" for hit in seen.answer.results)
    (others,) = followed(gallery, [paths[0]], exclude_self=True)
    assert paths[0].name not in {hit.key for hit in others.answer.results}


def test_only_so_many_of_the_nearest(market):
    paths, gallery = market
    (everything,) = followed(gallery, [paths[0]])
    (two,) = followed(gallery, [paths[0]], k=2)
    assert (len(two.sightings), two.total) == (2, 4)
    nearest = {s.result.key for s in everything.sightings if s.result.rank <= 2}
    assert {s.result.key for s in two.sightings} == nearest
    (none,) = followed(gallery, [paths[4]], min_score=1.0, exclude_self=True)
    assert (none.sightings, none.total) == ((), 0)


def test_a_calibration_marks_every_sighting(market):
    paths, gallery = market
    (timeline,) = followed(gallery, [paths[0]], LENIENT, fmr=0.1)
    assert len(timeline.sightings) == 4
    assert [s.result.match for s in timeline.sightings] == [
        s.result.score >= 0.5 or s.result.itself for s in timeline.sightings
    ]
    assert timeline.answer.verdict is not None
    shape = timeline.to_json()
    assert list(shape) == [
        "query", "identity", "time_field", "unit", "within", "total", "notes", "sightings", "in_gallery", "verdict",
    ]  # fmt: skip
    assert list(shape["sightings"][0])[:4] == ["time", "gap", "came_from", "rank"]


def test_where_nobody_has_a_name_the_images_themselves_are_ordered(tmp_path, monkeypatch):
    rows = ["path,frame"]
    for number in range(30):
        write_image(tmp_path / f"{number}.png", seed=f"shot {number % 3}")
        rows.append(f"{number}.png,{100 - number}")
    (tmp_path / "all.csv").write_text("\n".join(rows) + "\n")
    gallery = MemoryGallery()
    run_ingest([tmp_path / "all.csv"], gallery, ColourEmbedder())
    query = tmp_path / "0.png"
    (nearest,) = followed(gallery, [query])
    assert (nearest.identity, len(nearest.sightings), nearest.total) == (None, 10, 10)
    assert [s.time for s in nearest.sightings] == sorted(s.time for s in nearest.sightings)
    assert {int(hit.key.split(".")[0]) % 3 for hit in nearest.answer.results} == {0}
    (few,) = followed(gallery, [query], k=3)
    assert len(few.sightings) == 3
    strict = Calibration((0.5, 0.1), (0.0, 0.999), slope=10.0, offset=0.0, genuine=50, impostor=100)
    (matches,) = followed(gallery, [query], strict, fmr=0.1)
    assert (len(matches.sightings), matches.total) == (10, 10)
    assert all(hit.match for hit in matches.answer.results)
    monkeypatch.setattr(following, "MOST", 4)
    (capped,) = followed(gallery, [query], strict, fmr=0.1)
    assert len(capped.sightings) == 4


def test_queries_that_cannot_be_read_and_values_that_cannot_be(market, tmp_path):
    paths, gallery = market
    (tmp_path / "broken.png").write_bytes(b"")
    bad, good = followed(gallery, [tmp_path / "broken.png", paths[0]])
    assert (bad.answer.error, bad.to_json()["error"], good.identity) == ("empty file", "empty file", "0001")
    with pytest.raises(UsageError, match="cosine similarity"):
        followed(gallery, [paths[0]], min_score=2.0)
    with pytest.raises(UsageError, match="candidates"):
        followed(gallery, [paths[0]], candidates=20_000)
    (again,) = followed(gallery, [paths[0]], candidates=5)
    assert (again.identity, again.answer.candidates) == ("0001", 5)

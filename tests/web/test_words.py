"""What the pages say of answers that a small gallery gives too rarely to be searched for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the [web] extra is not installed")

from siamese_search.retrieval.judging import STRANGE
from siamese_search.retrieval.results import QueryResult, SearchResult, Verdict
from siamese_search.web.pages.search import _verdict

THRESHOLD = 0.8


def answer(score, *, best, candidates):
    shown = SearchResult(
        1, score, "0001", "1", Path("x"), "x", match=score >= THRESHOLD, probability=score, sightings=6, cameras=("1",)
    )
    judged = Verdict(0.01, THRESHOLD, 168, 0.815, 1.68, 48, 1 / 96)
    return QueryResult("q", (shown,), verdict=judged, best_score=best, candidates=candidates)


def test_no_image_takes_the_name_of_a_match_that_reranking_put_out_of_sight():
    told = _verdict(answer(0.3, best=0.9, candidates=200), False)
    assert (told["kind"], told["title"]) == ("good", "In the gallery")
    assert any("scores 0.9000, is not shown" in line for line in told["lines"])
    told = _verdict(answer(0.9, best=0.9, candidates=200), False)
    assert told["title"] == "0001, probability 90.0%"
    assert not any("is not shown" in line for line in told["lines"])
    assert _verdict(answer(0.3, best=0.3, candidates=200), False)["title"] == "Not in the gallery"


def test_an_image_of_the_gallery_is_not_said_to_be_missing_there():
    own = replace(answer(0.3, best=0.3, candidates=200), from_gallery=True)
    assert _verdict(own, False)["title"] == "No other image matches"
    assert _verdict(own, True)["title"] == "No match under these filters"


def test_a_query_that_is_no_such_object_gets_no_name_as_its_answer():
    strange = replace(answer(0.3, best=0.3, candidates=200), verdict=None, no_verdict=STRANGE)
    told = _verdict(strange, False)
    assert (told["kind"], told["title"]) == ("", "No verdict; the nearest is 0001")
    assert told["lines"][0] == STRANGE

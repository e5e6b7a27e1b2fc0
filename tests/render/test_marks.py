from pathlib import Path

import pytest

from siamese_search.render.marks import Mark, known_identities, mark, percent, reranking_sentence, verdict_sentence
from siamese_search.retrieval.results import QueryResult, SearchResult, Verdict


def result(identity, match=None):
    return SearchResult(1, 0.5, identity, "1", Path("x"), "x", match=match)


@pytest.mark.parametrize(
    ("query", "found", "match", "expected"),
    [
        ("a", "a", None, Mark("good", "same", "good")),
        ("a", "b", None, Mark("bad", "another", "bad")),
        (None, "b", None, Mark("unknown", "", "unknown")),
        ("a", None, None, Mark("unknown", "", "unknown")),
        ("-1", "-1", None, Mark("unknown", "", "unknown")),
        # The frame stays with the truth, and the badge with the model, also where they disagree.
        ("a", "b", True, Mark("bad", "match", "good")),
        ("a", "a", False, Mark("good", "no match", "bad")),
        (None, None, False, Mark("unknown", "no match", "bad")),
    ],
)
def test_a_mark_is_the_truth_and_the_models_verdict(query, found, match, expected):
    assert mark(result(found, match), query) == expected


def test_where_an_identity_is_known_from():
    answers = [
        QueryResult("0007_c1s1_000001_01.jpg", path=Path("0007_c1s1_000001_01.jpg")),
        QueryResult("x.jpg", path=Path("x.jpg"), identity="ann"),
        QueryResult("image 3"),
    ]
    assert known_identities(answers) == ["0007", "ann", None]
    assert known_identities(answers, {"x.jpg": "bob"}) == ["0007", "bob", None]


def test_the_sentence_of_a_verdict():
    verdict = Verdict(0.01, 0.5, 168, 0.815, 1.68, 48, 1 / 96)
    assert verdict_sentence(QueryResult("q")) == ""
    assert verdict_sentence(QueryResult("q", verdict=verdict)).startswith("not in the gallery; a match scores")
    own = QueryResult("q", verdict=verdict, from_gallery=True)
    assert verdict_sentence(own).startswith("no other image matches; a match scores")
    found = QueryResult("q", (result("a", True),), verdict=verdict)
    assert verdict_sentence(found).startswith("a match scores 0.5000 or more")
    assert verdict_sentence(found).endswith("a query that is not here gets about 1.7 false matches")


def test_a_match_that_is_not_shown_is_said_to_be_there():
    verdict = Verdict(0.01, 0.5, 168, 0.815, 1.68, 48, 1 / 96)

    def said(**more):
        return reranking_sentence(QueryResult("q", (result("a", False),), verdict=verdict, best_score=0.7, **more))

    assert said() == ""
    assert "the match, which scores 0.7000, is not shown" in said(candidates=50)
    shown = QueryResult("q", (result("a", True),), verdict=verdict, best_score=0.7, candidates=50)
    assert "is not shown" not in reranking_sentence(shown)
    assert "is not shown" not in reranking_sentence(QueryResult("q", (result("a"),), best_score=0.7, candidates=50))


def test_a_probability_is_never_rounded_to_certainty():
    assert [percent(p) for p in (None, 0.5, 0.9995, 1.0)] == ["", "50.0%", "> 99.9%", "100.0%"]

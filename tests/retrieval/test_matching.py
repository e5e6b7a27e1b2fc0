from __future__ import annotations

import math
import uuid
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from fakes import MemoryGallery

from siamese_search.errors import UsageError
from siamese_search.model.calibration import Calibration
from siamese_search.render.marks import match_heading, percent, reranking_sentence, verdict_sentence
from siamese_search.retrieval import judging
from siamese_search.retrieval.judging import Judge, check_fmr, identities_in
from siamese_search.retrieval.judging import mark as mark_by
from siamese_search.retrieval.results import QueryResult, SearchResult

#: Half of the pairs of different identities score 0.2 or more, a tenth 0.4, a hundredth 0.6.
KNOWN = Calibration((0.5, 0.1, 0.01), (0.2, 0.4, 0.6), slope=10.0, offset=-5.0, genuine=50, impostor=100)


class Population(NamedTuple):
    """What a query is ranked against."""

    images: int
    identities: int


def mark(
    answers: list[QueryResult], known: Calibration | None, fmr: float | None, among: Population
) -> list[QueryResult]:
    """As in a gallery of that population."""
    judge = Judge(known, identities=among.identities, prior=0.5 / max(1, among.identities))
    return mark_by(answers, judge, fmr, among.images)


def answer(*scores: float, error: str | None = None) -> QueryResult:
    results = tuple(
        SearchResult(rank, score, "a", None, Path("a.jpg"), "a.jpg") for rank, score in enumerate(scores, start=1)
    )
    return QueryResult("q.jpg", results, error=error)


#: 100 images of 20 people.
CROWD = Population(100, 20)


@pytest.mark.parametrize(
    ("fmr", "threshold", "matches"),
    [
        (0.01, 0.6, [True, False, False]),
        (0.05, 0.6, [True, False, False]),  # between two rates the stricter threshold
        (0.1, 0.4, [True, True, False]),
        (0.9, 0.2, [True, True, True]),
    ],
)
def test_results_at_or_above_the_threshold_match(fmr: float, threshold: float, matches: list[bool]) -> None:
    (marked,) = mark([answer(0.6, 0.59, 0.2)], KNOWN, fmr, CROWD)
    assert [result.match for result in marked.results] == matches
    assert marked.verdict is not None
    assert (marked.verdict.threshold, marked.verdict.compared) == (threshold, 100)
    assert (marked.verdict.asked, marked.verdict.false_match_rate) == (fmr, fmr)
    assert marked.in_gallery is True


def by_bayes(score: float, identities: int) -> float:
    """P(same | score) from the two likelihoods, where the query is there as likely as not and may be anybody."""
    ratio = math.exp(KNOWN.slope * score + KNOWN.offset)  # of P(score | same) to P(score | different)
    prior = 0.5 * (1 / identities)
    return prior * ratio / (prior * ratio + (1 - prior) * 1.0)


@pytest.mark.parametrize("identities", [1, 2, 20, 100, 5_000, 10_000_000])
def test_the_probability_knows_how_many_people_there_are(identities: int) -> None:
    scores = (0.99, 0.9, 0.75, 0.5, 0.0, -1.0)
    (marked,) = mark([answer(*scores)], KNOWN, None, Population(max(100, identities), identities))
    assert marked.verdict is not None
    assert marked.verdict.identities == identities
    for result in marked.results:
        assert result.probability == pytest.approx(by_bayes(result.score, identities))
        # Never "no" beside 99 % or "yes" beside 1 %.
        assert result.match is (result.probability is not None and result.probability >= 0.5)
        assert result.match is (result.score >= marked.verdict.threshold)
    assert marked.in_gallery is any(result.match for result in marked.results)


def test_two_images_alone_are_as_likely_the_same_as_not() -> None:
    assert KNOWN.probability(0.5) == pytest.approx(0.5)
    assert KNOWN.even_score(0.5) == pytest.approx(0.5)
    for prior in (1e-6, 0.01, 0.3, 0.5, 0.9):
        assert KNOWN.probability(KNOWN.even_score(prior), prior) == pytest.approx(0.5)


def test_among_too_many_no_score_is_enough() -> None:
    (marked,) = mark([answer(1.0)], KNOWN, None, Population(10**6, 10**6))
    assert marked.verdict is not None
    assert not marked.verdict.reachable
    assert marked.in_gallery is False
    verdict = marked.to_json()["verdict"]
    assert (verdict["threshold"], verdict["any_false_match"], verdict["prior"]) == (None, 0.0, 5e-7)
    assert "--fmr" in verdict_sentence(marked)
    same = replace(marked, results=(replace(marked.results[0], itself=True),))
    (own,) = mark([same], KNOWN, None, Population(10**6, 10**6))
    assert (own.results[0].match, own.results[0].probability, own.in_gallery) == (True, 1.0, True)


#: As KNOWN, of a million pairs: one of them scores 0.8 or more.
WIDE = replace(KNOWN, rates=(0.5, 0.1, 0.01, 1e-6), thresholds=(0.2, 0.4, 0.6, 0.8), impostor=10**6)


def test_beyond_what_was_measured_the_strictest_threshold_decides() -> None:
    def threshold(images: int, identities: int) -> tuple[float, bool]:
        (marked,) = mark([answer(0.9, 0.79)], WIDE, None, Population(images, identities))
        assert marked.verdict is not None
        assert [result.match for result in marked.results] == [
            result.score >= marked.verdict.threshold for result in marked.results
        ]
        return marked.verdict.threshold, marked.verdict.strictest

    assert threshold(100, 5) == (WIDE.even_score(0.1), False)  # 0.72, likelier right than wrong
    assert threshold(1000, 100) == (0.8, True)  # even odds only at 1.03
    assert threshold(5 * 10**5, 10**5) == (0.8, True)  # a false match anywhere among them: 39 %
    assert threshold(10**6, 10**5) == (WIDE.even_score(0.5e-5), False)  # 63 %: it cannot vouch for that
    (marked,) = mark([answer(0.9)], WIDE, None, Population(1000, 100))
    assert "the strictest measured (prior 1 in 200);" in verdict_sentence(marked)
    assert verdict_sentence(marked).endswith("a query that is not here gets under 0.1 false matches")


def test_a_match_that_reranking_moved_out_of_sight_still_counts() -> None:
    (marked,) = mark([replace(answer(0.1), best_score=0.7)], KNOWN, 0.01, CROWD)
    assert [result.match for result in marked.results] == [False]
    assert marked.in_gallery is True


def test_the_column_of_a_threshold_of_ones_own_says_so() -> None:
    (usual,) = mark([answer(0.6)], KNOWN, None, CROWD)
    (own,) = mark([answer(0.6)], KNOWN, 0.01, CROWD)
    assert (match_heading(usual), match_heading(own)) == ("match", "at fmr 0.01")
    assert "likelier right than wrong (prior 1 in 40); the model's calibration: " in verdict_sentence(usual)
    assert "false match rate 0.01 (prior 1 in 40);" in verdict_sentence(own)
    assert verdict_sentence(own).endswith("a query that is not here gets about 1.0 false matches")
    assert [percent(p) for p in (None, 0.0, 1e-5, 0.5, 0.9999, 1.0)] == [
        "", "0.0%", "< 0.1%", "50.0%", "> 99.9%", "100.0%",
    ]  # fmt: skip


def filled(identities: list[str | None], cameras: int = 2, market: bool = False) -> MemoryGallery:
    gallery = MemoryGallery()
    vectors = np.tile(np.eye(48, dtype=np.float32)[0], (len(identities), 1))
    ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, str(n))) for n in range(len(identities))]
    key = "{}_c1_1.jpg" if market else "{}.jpg"
    payloads = [{"identity": x, "key": key.format(x), "camera": str(n % cameras)} for n, x in enumerate(identities)]
    gallery.upsert(ids, vectors, payloads)
    return gallery


def test_an_image_without_identity_counts_as_one() -> None:
    gallery = filled(["a", "b", "a", None, "0000", "0000", "-1", "a"], market=True)
    assert identities_in(gallery) == 6
    assert identities_in(filled(["a", "0000", "0000", "-1"])) == 3
    assert identities_in(filled(["a"] * 3)) == 1
    assert identities_in(filled([])) == 0
    assert identities_in(filled([None] * 4)) == 4


def test_many_identities_are_estimated_from_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    # A third of the images is of one person, a third of 40 people, a third of nobody known.
    gallery = filled(["crowd"] * 400 + [str(n % 40 + 1) for n in range(400)] + [None] * 400)
    assert identities_in(gallery) == 441
    monkeypatch.setattr(judging, "_COUNTED", 100)
    assert identities_in(gallery) == pytest.approx(441, rel=0.25)
    assert identities_in(filled([None] * 300)) == 300


def test_the_chance_of_a_false_match_is_that_of_the_threshold_in_force() -> None:
    (marked,) = mark([answer(0.9)], KNOWN, 0.05, CROWD)
    assert marked.verdict is not None
    assert marked.verdict.any_false_match == pytest.approx(1 - 0.99**100)  # 0.6 lets through 0.01, not 0.05


def test_nobody_there() -> None:
    low, none, unreadable = mark(
        [answer(0.5, 0.1), answer(), answer(error="empty file")], KNOWN, None, Population(10, 10)
    )
    assert (low.in_gallery, none.in_gallery) == (False, False)
    assert (unreadable.in_gallery, unreadable.verdict) == (None, None)
    assert low.to_json()["in_gallery"] is False
    assert "verdict" not in unreadable.to_json()


def test_a_match_that_is_not_shown_is_in_the_gallery() -> None:
    (hidden,) = mark([replace(answer(), best_score=0.95, candidates=200)], KNOWN, None, CROWD)
    assert hidden.in_gallery is True
    assert "not in the gallery" not in verdict_sentence(hidden)
    assert "put before it" not in reranking_sentence(hidden)  # --min-score has left it out, not re-ranking


def test_where_a_filter_leaves_no_image_nothing_is_said_of_matches() -> None:
    (nobody,) = mark([answer()], KNOWN, None, Population(0, 20))
    assert verdict_sentence(nobody) == ""


def test_without_a_calibration_nothing_is_said() -> None:
    plain = answer(0.9)
    assert mark([plain], None, None, CROWD) == [plain]
    assert plain.in_gallery is None
    check_fmr(Judge(None), None, "m")
    with pytest.raises(UsageError, match=r"model m has no calibration.*sss calibrate"):
        check_fmr(Judge(None), 0.01, "m")
    with pytest.raises(UsageError, match="below what"):
        check_fmr(Judge(KNOWN), 0.001, "m")


def test_where_no_calibration_holds_the_reason_is_said_and_nothing_else() -> None:
    check_fmr(Judge(None, why="not here"), 0.01, "m")
    good, unreadable = mark_by([answer(0.9), answer(error="empty file")], Judge(None, why="not here"), 0.01, 9)
    assert (good.verdict, good.in_gallery, good.results[0].match) == (None, None, None)
    assert verdict_sentence(good) == good.to_json()["no_verdict"] == "not here"
    assert "no_verdict" not in unreadable.to_json()


def test_a_pair_has_one_probability_whatever_the_filter() -> None:
    judge = Judge(KNOWN, identities=20, prior=1 / 40)
    (all_of_them,), (some,) = mark_by([answer(0.7)], judge, None, 100), mark_by([answer(0.7)], judge, None, 3)
    assert all_of_them.results[0].probability == some.results[0].probability
    assert all_of_them.results[0].probability == pytest.approx(KNOWN.probability(0.7, 1 / 40))
    assert all_of_them.verdict is not None
    assert all_of_them.verdict.expected_false_matches == pytest.approx(1.0)

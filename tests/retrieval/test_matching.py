from __future__ import annotations

from pathlib import Path

import pytest

from siamese_search.errors import UsageError
from siamese_search.model.calibration import Calibration
from siamese_search.retrieval.matching import check_fmr, mark
from siamese_search.retrieval.results import QueryResult, SearchResult

#: Half of the pairs of different identities score 0.2 or more, a tenth 0.4, a hundredth 0.6.
KNOWN = Calibration((0.5, 0.1, 0.01), (0.2, 0.4, 0.6), slope=10.0, offset=-5.0, genuine=50, impostor=100)


def answer(*scores: float, error: str | None = None) -> QueryResult:
    results = tuple(
        SearchResult(rank, score, "a", None, Path("a.jpg"), "a.jpg")
        for rank, score in enumerate(scores, start=1)
    )
    return QueryResult("q.jpg", results, error=error)


@pytest.mark.parametrize(
    ("fmr", "threshold", "matches"),
    [
        (None, 0.6, [True, False, False]),
        (0.01, 0.6, [True, False, False]),
        (0.05, 0.6, [True, False, False]),  # between two rates the stricter threshold
        (0.1, 0.4, [True, True, False]),
        (0.9, 0.2, [True, True, True]),
    ],
)
def test_results_at_or_above_the_threshold_match(
    fmr: float | None, threshold: float, matches: list[bool]
) -> None:
    (marked,) = mark([answer(0.6, 0.59, 0.2)], KNOWN, fmr, 100)
    assert [result.match for result in marked.results] == matches
    assert marked.verdict is not None
    assert (marked.verdict.threshold, marked.verdict.compared) == (threshold, 100)
    assert marked.in_gallery is True
    assert [result.probability for result in marked.results] == [
        pytest.approx(p, abs=1e-4) for p in (0.7311, 0.7109, 0.0474)
    ]


def test_the_chance_of_a_false_match_is_that_of_the_threshold_in_force() -> None:
    (marked,) = mark([answer(0.9)], KNOWN, 0.05, 100)
    assert marked.verdict is not None
    assert marked.verdict.any_false_match == pytest.approx(1 - 0.99**100)  # 0.6 lets through 0.01, not 0.05


def test_nobody_there() -> None:
    low, none, unreadable = mark([answer(0.5, 0.1), answer(), answer(error="empty file")], KNOWN, None, 10)
    assert (low.in_gallery, none.in_gallery) == (False, False)
    assert (unreadable.in_gallery, unreadable.verdict) == (None, None)
    assert low.to_json()["in_gallery"] is False
    assert "verdict" not in unreadable.to_json()


def test_without_a_calibration_nothing_is_said() -> None:
    plain = answer(0.9)
    assert mark([plain], None, None, 10) == [plain]
    assert plain.in_gallery is None
    check_fmr(None, None, "m")
    with pytest.raises(UsageError, match="sss evaluate DATA --model m --calibrate"):
        check_fmr(None, 0.01, "m")
    with pytest.raises(UsageError, match="below what"):
        check_fmr(KNOWN, 0.001, "m")

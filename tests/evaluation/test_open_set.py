from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamese_search.evaluation.protocol import Labels
from siamese_search.evaluation.retrieval import OpenSet, open_set


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 25),
    block=st.sampled_from([1, 30, 1 << 22]),
    cameras=st.booleans(),
)
def test_against_asking_each_query_in_turn(seed: int, count: int, block: int, cameras: bool) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(count, 6)))
    ids = [str(i) for i in rng.integers(0, 5, count)]
    seen = [None if c == 3 else str(c) for c in rng.integers(0, 4, count)] if cameras else None
    found = open_set(vectors, vectors, Labels.within(ids, seen), block=block)
    for q in range(count):
        matches, others = [], []
        for g in range(count):
            score = float(vectors[q] @ vectors[g])
            if ids[q] != ids[g]:
                others.append(score)
            elif q != g and not (seen and seen[q] is not None and seen[q] == seen[g]):
                matches.append(score)
        assert found.best_other[q] == pytest.approx(max(others, default=-np.inf), abs=1e-6)
        if matches:
            assert found.best_match[q] == pytest.approx(max(matches), abs=1e-6)
        else:
            assert np.isnan(found.best_match[q])


def test_rates_worked_out_by_hand() -> None:
    """Ten searches; strangers score 0.0 … 0.9, matches 0.55 five times, 0.95 five times; one query has no match."""
    other = np.append(np.arange(10) / 10, 5.0).astype(np.float32)
    match = np.array([0.55] * 5 + [0.95] * 5 + [np.nan], np.float32)
    found = OpenSet(match, other)
    assert found.searches == 10
    point = found.at(0.6)
    assert point is not None
    assert (point.fpir, point.fnir) == (pytest.approx(0.4), pytest.approx(0.5))
    tenth = found.at_fpir(0.1)
    assert tenth is not None
    assert 0.8 < tenth.threshold <= 0.9  # 0.9 alone may pass
    assert (tenth.fpir, tenth.fnir) == (pytest.approx(0.1), pytest.approx(0.5))
    assert found.at_fpir(0.01) is None  # ten searches cannot tell one in a hundred
    everything = found.at_fpir(1.0)
    assert everything is not None
    assert (everything.fpir, everything.fnir) == (1.0, 0.0)


def test_ties_never_let_more_through_than_asked_for() -> None:
    found = OpenSet(np.ones(10, np.float32), np.full(10, 0.5, np.float32))
    point = found.at_fpir(0.2)
    assert point is not None
    assert (point.fpir, point.fnir) == (0.0, 0.0)


def test_without_a_valid_query_there_is_nothing_to_say() -> None:
    found = OpenSet(np.array([np.nan], np.float32), np.array([0.5], np.float32))
    assert (found.at(0.5), found.at_fpir(1.0)) == (None, None)

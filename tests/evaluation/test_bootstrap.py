from __future__ import annotations

import numpy as np
import pytest

from siamese_search.errors import DataError
from siamese_search.evaluation.findings import paired_difference


def test_against_drawing_identities_one_by_one() -> None:
    rng = np.random.default_rng(0)
    identities = [f"p{i}" for i in rng.integers(0, 12, 80)]
    a, b = rng.uniform(size=80), rng.uniform(size=80) + 0.1
    found = paired_difference(a, b, identities)
    names = sorted(set(identities))
    rows = {name: [i for i, own in enumerate(identities) if own == name] for name in names}
    drawn = []
    for _ in range(4_000):
        picked = [i for name in rng.choice(names, len(names)) for i in rows[name]]
        drawn.append(float(np.mean(b[picked] - a[picked])))
    assert found.difference == pytest.approx(np.mean(b - a))
    assert (found.a, found.b) == (pytest.approx(a.mean()), pytest.approx(b.mean()))
    assert found.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.01)
    assert found.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.01)
    assert found.better == pytest.approx(np.mean(np.array(drawn) > 0), abs=0.02)


def test_queries_of_one_identity_are_no_independent_evidence() -> None:
    """Two identities, a hundred queries each, one better and one worse: nothing is known."""
    a = np.zeros(200)
    b = np.repeat([0.4, -0.3], 100)
    found = paired_difference(a, b, ["x"] * 100 + ["y"] * 100)
    assert (found.low, found.high) == (pytest.approx(-0.3), pytest.approx(0.4))
    assert not found.clear
    assert paired_difference(a, np.full(200, 0.1), ["x"] * 100 + ["y"] * 100).clear


def test_the_same_model_twice_is_a_tie() -> None:
    a = np.random.default_rng(0).uniform(size=20)
    found = paired_difference(a, a, [str(i % 5) for i in range(20)])
    assert (found.difference, found.low, found.high, found.better) == (0, 0, 0, 0.5)


def test_invalid_queries_take_no_part_and_must_agree() -> None:
    a = np.array([0.5, np.nan, 1.0])
    found = paired_difference(a, np.array([1.0, np.nan, 1.0]), ["x", "x", "y"])
    assert found.difference == pytest.approx(0.25)
    with pytest.raises(ValueError, match="same queries"):
        paired_difference(a, np.array([1.0, 0.5, 1.0]), ["x", "x", "y"])
    with pytest.raises(DataError, match="too few"):
        paired_difference(a, a, ["x", "x", "x"])


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        shift = np.repeat(rng.normal(0.05, 0.1, 40), 5)
        a = rng.uniform(size=200)
        b = a + shift + rng.normal(0, 0.05, 200)
        found = paired_difference(a, b, [str(i // 5) for i in range(200)], resamples=1_000, seed=seed)
        covered += found.low <= 0.05 <= found.high
    assert 52 <= covered <= 60

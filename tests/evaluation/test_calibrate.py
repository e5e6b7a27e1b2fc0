from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamese_search.errors import BundleError, DataError, UsageError
from siamese_search.evaluation.calibrate import calibrate, save_calibration
from siamese_search.evaluation.verification import BINS, SCALE, PairScores
from siamese_search.model.bundle import META_NAME, Bundle, load_bundle
from siamese_search.model.calibration import Calibration, any_false_match


def pairs_of(genuine: np.ndarray, impostor: np.ndarray) -> PairScores:
    """Histograms of these scores, each rounded down to the edge of its bin."""

    def counts(scores: np.ndarray) -> np.ndarray:
        bins = np.clip(np.floor(np.asarray(scores) * SCALE).astype(int) + SCALE, 0, BINS - 1)
        return np.bincount(bins, minlength=BINS).astype(np.int64)

    return PairScores(counts(genuine), counts(impostor))


def normal(seed: int, genuine: int = 2_000, impostor: int = 50_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0.6, 0.12, genuine).clip(-1, 1), rng.normal(0.2, 0.12, impostor).clip(-1, 1)


def test_thresholds_keep_their_false_match_rates_on_other_pairs_of_the_same_kind() -> None:
    found = calibrate(pairs_of(*normal(0)))
    _, other = normal(1, impostor=400_000)
    for rate in (0.1, 0.01, 0.001):
        assert (other >= found.threshold(rate)).mean() == pytest.approx(rate, rel=0.25)


@settings(max_examples=20, deadline=None)
@given(rate=st.floats(1e-3, 1.0), seed=st.integers(0, 5))
def test_a_threshold_never_lets_more_through_than_was_asked_for(rate: float, seed: int) -> None:
    genuine, impostor = normal(seed, 200, 3_000)
    found = calibrate(pairs_of(genuine, impostor))
    binned = np.floor(impostor * SCALE) / SCALE
    passed = (binned >= found.threshold(rate)).mean()
    assert passed <= rate * (1 + 1e-6)
    assert passed >= rate / 10 ** (1 / 10) / 1.5 - 2 / len(impostor)  # and not many fewer: ten rates per decade


def test_the_rate_of_a_score_is_never_below_the_truth() -> None:
    genuine, impostor = normal(3, 200, 3_000)
    found = calibrate(pairs_of(genuine, impostor))
    binned = np.floor(impostor * SCALE) / SCALE
    for score in np.linspace(-0.3, 0.9, 50):
        assert found.false_match_rate(score) >= (binned >= score).mean() - 1e-12


def test_rates_below_one_pair_are_refused() -> None:
    found = calibrate(pairs_of(*normal(0, 100, 1_000)))
    assert found.rates[-1] == pytest.approx(1e-3)
    with pytest.raises(UsageError, match="1,000 pairs"):
        found.threshold(1e-4)
    for rate in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(UsageError, match="false match rate"):
            found.threshold(rate)


def test_probabilities_are_those_of_two_equal_normals() -> None:
    """For N(m1, s²) against N(m0, s²) the logit is (m1 - m0) / s² · (x - (m0 + m1) / 2), exactly."""
    found = calibrate(pairs_of(*normal(0, 40_000, 400_000)))
    assert found.slope == pytest.approx((0.6 - 0.2) / 0.12**2, rel=0.05)
    assert -found.offset / found.slope == pytest.approx(0.4, abs=0.01)
    assert found.probability(0.4) == pytest.approx(0.5, abs=0.05)
    assert [found.probability(s) for s in (-1.0, 0.1, 0.4, 0.9)] == sorted(
        found.probability(s) for s in (-1.0, 0.1, 0.4, 0.9)
    )
    assert 0.0 < found.probability(-1.0) < 1e-6


def test_scores_that_never_overlap_have_a_finite_slope() -> None:
    rng = np.random.default_rng(0)
    found = calibrate(pairs_of(rng.uniform(0.8, 0.9, 50), rng.uniform(-0.1, 0.1, 50)))
    assert math.isfinite(found.slope)
    assert found.probability(0.85) > 0.9 > 0.1 > found.probability(0.0)


def test_too_few_pairs_and_a_model_that_knows_nothing_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="too few"):
        calibrate(pairs_of(rng.uniform(0.5, 1, 9), rng.uniform(0, 0.5, 100)))
    with pytest.raises(DataError, match="does not tell"):
        calibrate(pairs_of(rng.uniform(-0.5, 0, 100), rng.uniform(0, 0.5, 100)))


def test_any_false_match_grows_with_the_gallery() -> None:
    assert any_false_match(0.01, 0) == 0.0
    assert any_false_match(0.01, 1) == pytest.approx(0.01)
    assert any_false_match(0.01, 100) == pytest.approx(1 - 0.99**100)
    assert any_false_match(1e-9, 1_000_000) == pytest.approx(1e-3, rel=1e-3)
    assert any_false_match(1.0, 5) == 1.0


def test_a_bundle_keeps_its_calibration_and_its_fingerprint(tiny_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "model")
    bundle = load_bundle(tmp_path / "model")
    assert bundle.calibration is None
    found = calibrate(pairs_of(*normal(0)), "people")
    again = save_calibration(bundle, found)
    assert again.calibration == found
    assert again.fingerprint == bundle.fingerprint
    assert load_bundle(tmp_path / "model").calibration == found


@pytest.mark.parametrize(
    "change",
    [
        {"slope": -1.0}, {"slope": "steep"}, {"thresholds": []}, {"false_match_rates": [0.1, 0.2]},
        {"thresholds": [float("inf")], "false_match_rates": [0.1]}, {"genuine_pairs": None},
    ],
)  # fmt: skip
def test_a_damaged_calibration_is_named(tiny_bundle: Bundle, tmp_path: Path, change: dict[str, object]) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "model")
    meta = json.loads((tmp_path / "model" / META_NAME).read_text())
    meta["calibration"] = {**calibrate(pairs_of(*normal(0))).to_json(), **change}
    (tmp_path / "model" / META_NAME).write_text(json.dumps(meta))
    with pytest.raises(BundleError, match="calibration"):
        _ = load_bundle(tmp_path / "model").calibration


def test_json_and_back() -> None:
    found = calibrate(pairs_of(*normal(0)), "people")
    assert Calibration.from_json(json.loads(json.dumps(found.to_json()))) == found

"""Verification metrics against brute force over all pairs, scikit-learn and values worked out by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from siamese_search.evaluation.protocol import Labels
from siamese_search.evaluation.verification import BINS, SCALE, PairScores, cross_pair_scores, pair_scores


def sign_vectors(rng: np.random.Generator, count: int, dim: int = 16) -> np.ndarray:
    """Unit rows whose dot products are exact in float32, with many ties."""
    return (rng.choice([-1.0, 1.0], size=(count, dim)) / np.sqrt(dim)).astype(np.float32)


def all_pairs(vectors, ids, cameras):
    """(score, genuine) of every pair that counts, one at a time."""
    pairs = []
    for i in range(len(ids)):
        for j in range(i + 1, len(ids)):
            if "-1" in (ids[i], ids[j]) or ids[i] == ids[j] == "0000":
                continue
            if cameras is not None and cameras[i] is not None and cameras[i] == cameras[j]:
                continue
            pairs.append((sum(float(a) * float(b) for a, b in zip(vectors[i], vectors[j])), ids[i] == ids[j]))
    return pairs


def from_scores(genuine, impostor) -> PairScores:
    def counts(scores):
        bins = np.floor(np.asarray(scores, float) * SCALE).astype(int) + SCALE
        return np.bincount(bins, minlength=BINS)

    return PairScores(counts(genuine), counts(impostor))


def random_labels(rng, count):
    ids = [str(x) for x in rng.choice(["-1", "0000", "1", "2", "3"], size=count, p=[0.1, 0.15, 0.25, 0.25, 0.25])]
    cameras = None if rng.random() < 0.3 else [None if c == 0 else str(c) for c in rng.integers(0, 4, size=count)]
    return ids, cameras


@pytest.mark.parametrize("seed", range(40))
def test_brute_force_over_all_pairs_agrees(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(10, 45))
    vectors = sign_vectors(rng, count)
    ids, cameras = random_labels(rng, count)
    pairs = all_pairs(vectors, ids, cameras)
    genuine = np.array([score for score, same in pairs if same])
    impostor = np.array([score for score, same in pairs if not same])
    scores = pair_scores(vectors, Labels.within(ids, cameras), block=int(rng.integers(100, 1000)))

    assert (scores.genuine_pairs, scores.impostor_pairs) == (genuine.size, impostor.size)
    wins = (genuine[:, None] > impostor).sum() + (genuine[:, None] == impostor).sum() / 2
    assert scores.auc() == pytest.approx(wins / genuine.size / impostor.size, abs=1e-12)
    for rate in (0.5, 0.1, 0.07, 0.01):
        point = scores.at_false_accept_rate(rate)
        if rate * impostor.size < 1 - 1e-9:
            assert point is None
            continue
        assert point.false_accept_rate == (impostor >= point.threshold).mean() <= rate + 1e-12
        assert point.true_accept_rate == (genuine >= point.threshold).mean()
        assert point.false_accepts == (impostor >= point.threshold).sum()
        # No lower threshold keeps the rate: accepting the next impostor score down breaks it.
        lower = impostor[impostor < point.threshold]
        if lower.size:
            assert (impostor >= lower.max()).mean() > rate
        assert scores.at_threshold(point.threshold) == point


@pytest.mark.parametrize("seed", range(5))
def test_auc_and_roc_agree_with_scikit_learn(seed):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, 24))
    labels = rng.integers(0, 12, size=150)
    vectors = centres[labels] + rng.normal(0, 1.5, size=(150, 24))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    scores = pair_scores(vectors, Labels.within([str(label + 1) for label in labels]))

    upper = np.triu_indices(150, 1)
    similarity = (vectors @ vectors.T)[upper]
    same = labels[upper[0]] == labels[upper[1]]
    assert scores.auc() == pytest.approx(sklearn_metrics.roc_auc_score(same, similarity), abs=1e-5)
    far, tar, _ = sklearn_metrics.roc_curve(same, similarity)
    crossing = np.argmax(far >= 1 - tar)
    assert scores.eer() == pytest.approx(far[crossing], abs=2e-3)
    thinned = scores.roc(points=300)
    assert thinned.threshold.size < 400
    np.testing.assert_allclose(thinned.true_accept_rate, np.interp(thinned.false_accept_rate, far, tar), atol=0.02)


def test_eer_by_hand():
    assert from_scores([0.9, 0.8], [0.2, 0.1]).eer() == 0.0
    assert from_scores([0.1, 0.2], [0.8, 0.9]).eer() == 1.0
    # At a threshold of 0.6 one of four impostors passes and one of four genuine pairs fails.
    assert from_scores([0.9, 0.8, 0.6, 0.3], [0.7, 0.5, 0.2, 0.1]).eer() == 0.25
    # All tied: the diagonal.
    assert from_scores([0.5, 0.5], [0.5, 0.5, 0.5]).eer() == 0.5


def test_operating_point_by_hand():
    scores = from_scores([0.9, 0.5, 0.3], np.arange(10) / 20)  # impostors 0, 0.05, … 0.45
    point = scores.at_false_accept_rate(0.1)
    assert 0.40 < point.threshold <= 0.40 + 2 / SCALE  # just above the second impostor
    assert point.false_accept_rate == 0.1
    assert point.true_accept_rate == pytest.approx(2 / 3)


def test_tied_impostors_never_push_the_rate_above_what_was_asked():
    # Three impostors share the top score; one in ten is allowed: all three must be refused.
    point = from_scores([0.9, 0.6], [0.8] * 3 + [0.1] * 7).at_false_accept_rate(0.1)
    assert point.false_accept_rate == 0.0
    assert point.true_accept_rate == 0.5
    # Impostors that are identical images cannot be told apart: nothing is accepted.
    nothing = from_scores([1.0], [1.0] * 10).at_false_accept_rate(0.1)
    assert nothing.threshold > 1
    assert (nothing.false_accept_rate, nothing.true_accept_rate) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("impostors", "known"),
    [(9, []), (10, ["1e-1"]), (9_999, ["1e-1", "1e-2", "1e-3"]), (10_000, ["1e-1", "1e-2", "1e-3", "1e-4"])],
)
def test_a_rate_needs_enough_impostor_pairs(impostors, known):
    figures = from_scores([0.9], np.linspace(-0.5, 0.5, impostors)).metrics()
    assert [name for name, value in figures.tar_at_far.items() if value is not None] == known
    assert (figures.threshold is None) == (impostors < 100)


def test_without_genuine_or_impostor_pairs_nothing_is_claimed():
    for scores in (from_scores([], [0.1] * 1000), from_scores([0.9], [])):
        figures = scores.metrics()
        assert figures.auc is figures.eer is figures.threshold is figures.false_match_rate is None
        assert set(figures.tar_at_far.values()) == {None}
        assert scores.roc().threshold.size == 0


def test_roc_runs_from_nothing_to_everything():
    curve = from_scores([0.9, 0.5], [0.5, 0.1]).roc()
    np.testing.assert_array_equal(curve.false_accept_rate, [0, 0, 0.5, 1])
    np.testing.assert_array_equal(curve.true_accept_rate, [0, 0.5, 1, 1])
    assert (np.diff(curve.threshold) < 0).all()


def test_two_sets_pair_up_across_only():
    rng = np.random.default_rng(3)
    vectors = sign_vectors(rng, 40)
    ids, cameras = random_labels(rng, 40)
    cameras = cameras or ["1"] * 20 + ["2"] * 20
    left, right = slice(0, 15), slice(15, 40)
    crossing = cross_pair_scores(
        vectors[left], vectors[right], Labels.of(ids[left], ids[right], cameras[left], cameras[right]), block=70
    )
    whole = pair_scores(vectors, Labels.within(ids, cameras))
    within = pair_scores(vectors[left], Labels.within(ids[left], cameras[left])) + pair_scores(
        vectors[right], Labels.within(ids[right], cameras[right])
    )
    np.testing.assert_array_equal((crossing + within).genuine, whole.genuine)
    np.testing.assert_array_equal((crossing + within).impostor, whole.impostor)


def test_scores_at_the_ends_are_counted():
    vectors = np.array([[1, 0], [1, 0], [-1, 0]], np.float32)
    scores = pair_scores(vectors, Labels.within(["1", "1", "2"]))
    assert scores.genuine[-1] == 1  # a score of exactly 1
    assert scores.impostor[0] == 2  # scores of exactly -1
    edges, genuine, impostor = scores.binned(4)
    np.testing.assert_array_equal(edges, [-1, -0.5, 0, 0.5, 1])
    assert genuine.tolist() == [0, 0, 0, 1]
    assert impostor.tolist() == [2, 0, 0, 0]


def test_memory_does_not_grow_with_the_pairs():
    vectors = sign_vectors(np.random.default_rng(0), 3000)
    ids = [str(i % 100 + 1) for i in range(3000)]
    tracemalloc.start()
    scores = pair_scores(vectors, Labels.within(ids), block=100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert scores.genuine_pairs + scores.impostor_pairs == 3000 * 2999 // 2
    assert peak < 45e6  # histograms are 33 MB; the 9 million scores alone would be 36 MB more


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="row 1 has length 2"):
        pair_scores(np.array([[1, 0], [2, 0]], np.float32), Labels.within(["1", "2"]))
    with pytest.raises(ValueError, match="row 0 has length nan"):
        pair_scores(np.array([[np.nan, 0]], np.float32), Labels.within(["1"]))
    with pytest.raises(ValueError, match="as many identities"):
        pair_scores(np.eye(2, dtype=np.float32), Labels.within(["1"]))
    with pytest.raises(ValueError, match="lies in"):
        from_scores([0.9], [0.1]).at_false_accept_rate(0)
    with pytest.raises(ValueError, match="power of two"):
        from_scores([0.9], [0.1]).binned(100)

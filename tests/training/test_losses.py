from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from siamese_search.training.losses import (  # noqa: E402
    batch_hard_triplet,
    contrastive,
    cosine_regression,
    pairwise_distances,
    similarity_matching,
    triplet_margin,
)


def random_batch(seed: int, n: int = 12, d: int = 5, classes: int = 4):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(n, d, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (n,), generator=generator)
    return embeddings, labels


def batch_hard_oracle(embeddings, labels, margin: float, soft: bool) -> tuple[float, float]:
    """Loops over every anchor and every triplet."""
    points, ids = embeddings.numpy(), labels.tolist()
    losses, right, total = [], 0, 0
    for a in range(len(points)):
        near = [np.linalg.norm(points[a] - points[p]) for p in range(len(ids)) if p != a and ids[p] == ids[a]]
        far = [np.linalg.norm(points[a] - points[n]) for n in range(len(ids)) if ids[n] != ids[a]]
        right += sum(x < y for x in near for y in far)
        total += len(near) * len(far)
        if near and far:
            gap = max(near) - min(far)
            losses.append(np.log1p(np.exp(gap)) if soft else max(gap + margin, 0.0))
    return (float(np.mean(losses)) if losses else 0.0), right / max(total, 1)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("seed", range(15))
def test_batch_hard_equals_the_oracle(seed: int, soft: bool) -> None:
    embeddings, labels = random_batch(seed, classes=1 + seed % 6)
    loss, accuracy = batch_hard_triplet(embeddings, labels, 0.3, soft=soft)
    expected_loss, expected_accuracy = batch_hard_oracle(embeddings, labels, 0.3, soft)
    assert float(loss) == pytest.approx(expected_loss, abs=1e-5)
    assert float(accuracy) == pytest.approx(expected_accuracy, abs=1e-6)


def test_batch_hard_without_positives_or_negatives_is_zero_with_a_finite_gradient() -> None:
    for labels in (torch.arange(4), torch.zeros(4, dtype=torch.long), torch.tensor([0, 0, 1, 2])):
        embeddings = torch.randn(4, 3, requires_grad=True)
        loss = batch_hard_triplet(embeddings, labels, 0.3).loss
        loss.backward()
        assert torch.isfinite(embeddings.grad).all()
    assert float(batch_hard_triplet(torch.randn(4, 3), torch.arange(4), 0.3).loss) == 0.0


def test_identical_points_have_a_finite_gradient() -> None:
    embeddings = torch.ones(4, 3, requires_grad=True)
    batch_hard_triplet(embeddings, torch.tensor([0, 0, 1, 1]), 0.3).loss.backward()
    assert torch.isfinite(embeddings.grad).all()


def test_batch_hard_agrees_with_pytorch_metric_learning() -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    miners = pytest.importorskip("pytorch_metric_learning.miners")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    reducers = pytest.importorskip("pytorch_metric_learning.reducers")
    embeddings = torch.randn(12, 5, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(4).repeat_interleave(3)
    plain = distances.LpDistance(normalize_embeddings=False)
    triplets = miners.BatchHardMiner(distance=plain)(embeddings, labels)
    theirs = losses.TripletMarginLoss(0.3, distance=plain, reducer=reducers.MeanReducer())(embeddings, labels, triplets)
    assert float(batch_hard_triplet(embeddings, labels, 0.3).loss) == pytest.approx(float(theirs), abs=1e-5)


def test_triplet_margin_is_torchs_and_counts_right_triplets() -> None:
    a, p, n = torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(4)).unbind(0)
    ours = triplet_margin(a, p, n, 1.0)
    theirs = torch.nn.functional.triplet_margin_loss(a, p, n, margin=1.0)
    assert float(ours.loss) == pytest.approx(float(theirs), abs=1e-5)
    expected = np.mean([np.linalg.norm(a[i] - p[i]) < np.linalg.norm(a[i] - n[i]) for i in range(20)])
    assert float(ours.accuracy) == pytest.approx(float(expected))


def random_pairs(seed: int, n: int = 14):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, n, 4, generator=generator, dtype=torch.float64).unbind(0)
    return first, second, torch.rand(n, generator=generator) < 0.5


@pytest.mark.parametrize("seed", range(10))
def test_contrastive_equals_the_oracle(seed: int) -> None:
    first, second, different = random_pairs(seed)
    margin = 2.5
    distances = [float(np.linalg.norm(a - b)) for a, b in zip(first.numpy(), second.numpy(), strict=True)]
    losses, right, total = [], 0, 0
    for d, y in zip(distances, different.tolist(), strict=True):
        losses.append(0.5 * (1 - y) * d**2 + 0.5 * y * max(0.0, margin - d) ** 2)
    for near, y in zip(distances, different.tolist(), strict=True):
        for far, z in zip(distances, different.tolist(), strict=True):
            if not y and z:
                right += near < far
                total += 1
    loss, accuracy = contrastive(first, second, different, margin)
    assert float(loss) == pytest.approx(np.mean(losses), abs=1e-9)
    assert float(accuracy) == pytest.approx(right / total, abs=1e-6)


def test_contrastive_by_hand() -> None:
    first = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    second = torch.tensor([[3.0, 4.0], [0.6, 0.8], [3.0, 0.0]])  # distances 5, 1, 3
    loss, accuracy = contrastive(first, second, torch.tensor([False, True, True]), 2.0)
    assert float(loss) == pytest.approx((12.5 + 0.5 + 0.0) / 3)
    assert float(accuracy) == 0.0
    one_kind = contrastive(first, second, torch.tensor([True, True, True]), 2.0)
    assert float(one_kind.accuracy) == 0.0
    points = torch.zeros(2, 3, requires_grad=True)
    contrastive(points, points.detach(), torch.tensor([False, True]), 2.0).loss.backward()
    assert torch.isfinite(points.grad).all()


def test_contrastive_agrees_with_pytorch_metric_learning() -> None:
    """Its loss is neither squared nor halved and it averages the two kinds apart: taken per pair, they agree."""
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    reducers = pytest.importorskip("pytorch_metric_learning.reducers")
    first, second, different = random_pairs(3)
    n, margin = len(first), 2.5
    plain = distances.LpDistance(normalize_embeddings=False)
    theirs = losses.ContrastiveLoss(0.0, margin, distance=plain, reducer=reducers.DoNothingReducer())
    anchors, others = torch.arange(n), torch.arange(n, 2 * n)
    same, apart = ~different, different
    tuples = (anchors[same], others[same], anchors[apart], others[apart])
    parts = theirs(torch.cat([first, second]), indices_tuple=tuples)
    squares = torch.cat([parts[kind]["losses"].pow(2) for kind in ("pos_loss", "neg_loss")])
    assert len(squares) == n
    ours = contrastive(first, second, different, margin).loss
    assert float(ours) == pytest.approx(float(0.5 * squares.mean()), abs=1e-6)


def test_pairwise_distances() -> None:
    a, b = torch.randn(7, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    assert torch.allclose(pairwise_distances(a, b), torch.cdist(a, b), atol=1e-9)


def test_distillation_losses_are_zero_for_a_perfect_student() -> None:
    teacher = torch.randn(6, 4, generator=torch.Generator().manual_seed(5))
    assert float(cosine_regression(3.0 * teacher, teacher)) == pytest.approx(0.0, abs=1e-6)
    assert float(cosine_regression(-teacher, teacher)) == pytest.approx(2.0, abs=1e-6)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(6)))[0]
    assert float(similarity_matching(teacher @ rotation, teacher)) == pytest.approx(0.0, abs=1e-6)


def test_similarity_matching_by_hand() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # cosine 0
    teacher = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])  # cosine 1
    assert float(similarity_matching(student, teacher)) == pytest.approx(1.0)

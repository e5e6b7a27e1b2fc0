from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_metric_learning")

from siamese_search.errors import UsageError  # noqa: E402
from siamese_search.model.network import APNNetwork, NetworkSpec  # noqa: E402
from siamese_search.training.config import REID  # noqa: E402
from siamese_search.training.losses import known_losses, make_metric_losses, metric_loss  # noqa: E402
from siamese_search.training.trainer import Trainer  # noqa: E402

LABELS = torch.arange(6).repeat_interleave(4)


def test_the_losses_of_the_field_are_there() -> None:
    names = sorted(known_losses())
    assert {"ArcFaceLoss", "CosFaceLoss", "CircleLoss", "MultiSimilarityLoss", "SupConLoss"} <= set(names)
    assert "VICRegLoss" not in names


@pytest.mark.filterwarnings("ignore::UserWarning")  # some of the library's losses use deprecated indexing
def test_every_offered_loss_is_finite_and_teaches() -> None:
    for name in sorted(known_losses()):
        torch.manual_seed(0)
        losses = make_metric_losses(name, 6, 16)
        embeddings = torch.randn(24, 16, requires_grad=True)
        metric_loss(losses, embeddings, LABELS).backward()
        assert torch.isfinite(embeddings.grad).all(), name
        assert embeddings.grad.abs().sum() > 0, name


def test_several_losses_are_summed() -> None:
    embeddings = torch.randn(24, 16, generator=torch.Generator().manual_seed(1))
    both = make_metric_losses("TripletMarginLoss+CircleLoss", 6, 16)
    assert list(both) == ["TripletMarginLoss", "CircleLoss"]
    apart = [
        float(metric_loss(make_metric_losses(name, 6, 16), embeddings, LABELS))
        for name in ("TripletMarginLoss", "CircleLoss")
    ]
    assert float(metric_loss(both, embeddings, LABELS)) == pytest.approx(sum(apart), rel=1e-6)


def test_multi_similarity_is_the_papers_formula() -> None:
    """Wang et al., CVPR 2019, equation 15 with alpha 2, beta 50, lambda 0.5, over cosines."""
    x = torch.nn.functional.normalize(torch.randn(24, 16, generator=torch.Generator().manual_seed(2)), dim=1)
    s, ids = (x @ x.T).numpy().astype(np.float64), LABELS.numpy()
    total = 0.0
    for i in range(24):
        positives = [s[i, j] for j in range(24) if j != i and ids[j] == ids[i]]
        negatives = [s[i, j] for j in range(24) if ids[j] != ids[i]]
        total += np.log1p(sum(np.exp(-2 * (v - 0.5)) for v in positives)) / 2
        total += np.log1p(sum(np.exp(50 * (v - 0.5)) for v in negatives)) / 50
    found = metric_loss(make_metric_losses("MultiSimilarityLoss", 6, 16), x, LABELS)
    assert float(found) == pytest.approx(total / 24, rel=1e-4)


@pytest.mark.parametrize("name", ["ArcFaceLos", "nn", "VICRegLoss", "CircleLoss+", "__class__"])
def test_an_unknown_name_lists_what_there_is(name: str) -> None:
    with pytest.raises(UsageError, match=r"--metric-loss: no loss .*MultiSimilarityLoss"):
        make_metric_losses(name, 6, 16)


class Noise:
    def get(self, indices: np.ndarray) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (100, 32, 16, 3), np.uint8)[indices]


def test_a_loss_with_proxies_is_trained_and_saved_with_the_heads(tmp_path: Path) -> None:
    config = REID.with_options(
        backbone="simple_cnn", dim=8, height=32, width=16, batch_size=8, images_per_identity=2,
        metric_loss="ProxyAnchorLoss", warmup_epochs=0, epochs=1,
    )  # fmt: skip
    network = APNNetwork(NetworkSpec("simple_cnn", 8, 32, 16, neck="bn"))
    trainer = Trainer(network, config, Noise(), np.repeat(np.arange(6), 4))
    proxies = trainer.heads["metric"]["ProxyAnchorLoss"].proxies
    before = proxies.detach().clone()
    assert trainer.train_epoch()
    assert not torch.equal(before, proxies)
    assert any(name.endswith("proxies") for name in trainer.modules["heads"].state_dict())

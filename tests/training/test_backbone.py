"""Frozen stages stay as they are, to the last statistic, and everything after them learns."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import timm  # noqa: E402

from siamese_search.errors import UsageError  # noqa: E402
from siamese_search.model.network import APNNetwork, NetworkSpec, stages  # noqa: E402
from siamese_search.training.backbone import appearance, freeze, hold, in_stripes  # noqa: E402
from siamese_search.training.config import preset  # noqa: E402
from siamese_search.training.trainer import Trainer  # noqa: E402


class Noise:
    def get(self, indices: np.ndarray) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 255, (len(indices), 32, 32, 3), dtype=np.uint8)


def trained(frozen: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """State of the backbone before and after an epoch with this many parts frozen, styles mixed."""
    config = preset("reid-cpu").with_options(
        backbone="test_efficientnet", dim=8, height=32, width=32, epochs=2, sizes="32x32:1", batch_size=8,
        warmup_epochs=0.0, freeze=frozen, mixstyle=1.0,
    )  # fmt: skip
    network = APNNetwork(NetworkSpec("test_efficientnet", 8, 32, 32, neck="bn"))
    trainer = Trainer(network, config, Noise(), np.repeat(np.arange(6), 4))
    before = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    trainer.train_epoch()
    return before, network.backbone.state_dict()


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_what_is_frozen_does_not_move_and_the_rest_does() -> None:
    names = set(trained(0)[0])
    first = {name for name in names if name.startswith(("conv_stem.", "bn1.", "blocks.0."))}
    assert first
    assert moved(*trained(0)) == names
    assert moved(*trained(2)) == names - first
    assert moved(*trained(1)) == names - {name for name in first if not name.startswith("blocks")}


def test_a_residual_network_has_a_stem_and_four_stages() -> None:
    network = timm.create_model("resnet10t", num_classes=0)
    held = freeze(network, 2)
    still = {name.split(".")[0] for name, p in network.named_parameters() if not p.requires_grad}
    assert still == {"conv1", "bn1", "layer1"}
    network.train()
    hold(held)
    assert not network.bn1.training
    assert not network.layer1[0].bn1.training
    assert network.layer2[0].bn1.training
    assert network.layer1.training  # styles are mixed after it all the same


def test_too_many_and_backbones_without_stages_are_refused() -> None:
    network = timm.create_model("resnet10t", num_classes=0)
    with pytest.raises(UsageError, match=r"--freeze: 5 is too many.*a stem and 4 stages"):
        freeze(network, 5)
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1))
    assert stages(plain) == []
    with pytest.raises(UsageError, match="--freeze"):
        freeze(plain, 1)


@pytest.mark.parametrize(("height", "width"), [(16, 8), (12, 5), (3, 1)])
def test_a_stripe_is_the_mean_of_its_rows_with_the_middle_columns_first(height: int, width: int) -> None:
    maps = torch.rand(2, 3, height, width)
    weights = np.array([np.exp(-(((x + 0.5) / width - 0.5) ** 2) / (2 * 0.22**2)) for x in range(width)])
    wanted = np.empty((2, 3, 8))
    for stripe in range(8):  # its rows are those that reach into it
        rows = slice(stripe * height // 8, -(-(stripe + 1) * height // 8))
        means = maps[:, :, rows].numpy().mean(axis=2)
        wanted[:, :, stripe] = (means * weights).sum(axis=2) / weights.sum()
    flat = wanted.reshape(2, -1)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(in_stripes(maps).numpy(), flat, rtol=1e-5)


def test_appearance_is_the_first_stages_in_stripes_of_each_batch() -> None:
    network = APNNetwork(NetworkSpec("test_efficientnet", 8, 32, 32, neck="bn")).eval()
    batches = torch.rand(2, 3, 3, 32, 32)
    with torch.no_grad():
        with appearance(network.backbone) as looks:
            for batch in batches:
                network.embed(batch)
        assert [one.shape[0] for one in looks] == [3, 3]
        network.embed(batches[0])
        assert len(looks) == 2  # nobody looks any more
        x, parts = network.backbone.bn1(network.backbone.conv_stem(batches[1])), []
        for stage in stages(network.backbone)[:3]:
            x = stage(x)
            parts.append(in_stripes(x))
    wanted = torch.cat(parts, 1) / len(parts) ** 0.5
    torch.testing.assert_close(looks[1], wanted)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])  # without maps; without stages by the usual names
def test_appearance_of_such_a_backbone_is_nothing(name: str) -> None:
    backbone = timm.create_model(name)
    with torch.no_grad(), appearance(backbone) as looks:
        backbone.forward_features(torch.rand(2, 3, 160, 160))
    assert looks == []

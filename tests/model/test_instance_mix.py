"""Statistics of an image beside those of the training set: against slow sums, in training, exported, refused."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fingerprint import fingerprint_of  # noqa: E402
from torch import nn  # noqa: E402

from siamese_search.errors import UsageError  # noqa: E402
from siamese_search.model.network import APNNetwork, NetworkSpec, mix_statistics  # noqa: E402


class Parts(nn.Module):
    """A stem and two stages, of plain normalisations."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(3)
        self.layer1, self.layer2, self.layer3 = (nn.Sequential(nn.BatchNorm2d(3)) for _ in range(3))


class Block(nn.Module):
    """Two normalisations, as a block of a backbone has."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3)


def mixes(module: nn.Module) -> dict[str, float]:
    """The normalisations that look at the image's own statistics, with the share."""
    return {name: one.share for name, one in module.named_modules() if hasattr(one, "share")}


@pytest.mark.parametrize(("share", "later"), [(0.4, 0.3), (0.0, 0.3), (0.4, 0.0)])
def test_of_the_later_blocks_only_the_last_normalisation_mixes(share, later):
    backbone = Parts()
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3):
        stage[0] = Block()
        stage.append(Block())
    mix_statistics(backbone, share, later)
    first = ["bn1", *(f"layer1.{block}.{norm}" for block in range(2) for norm in ("bn1", "bn2"))]
    last = [f"layer{stage}.{block}.bn2" for stage in (2, 3) for block in range(2)]
    assert mixes(backbone) == {name: share for name in first if share} | {name: later for name in last if later}


def norm_of(share: float) -> nn.BatchNorm2d:
    backbone = Parts()
    with torch.no_grad():
        for name, values in (
            ("running_mean", (1.0, 2, 3)),
            ("running_var", (4.0, 1, 9)),
            ("weight", (2.0, 1, -1)),
            ("bias", (0.5, 0, 1)),
        ):
            getattr(backbone.bn1, name).copy_(torch.tensor(values))
    mix_statistics(backbone, share)
    return backbone.bn1


@pytest.mark.parametrize("height", [5, 31, 70])
def test_it_is_the_sum_that_its_words_say(height):
    norm, rng = norm_of(0.3).eval(), np.random.default_rng(height)
    x = rng.normal(3, 5, (2, 3, height, 7)).astype(np.float32)
    expected, step = np.empty_like(x), max(1, height // 32)
    for image in range(2):
        for channel in range(3):
            seen = [x[image, channel, row, column] for row in range(0, height, step) for column in range(0, 7, step)]
            mean = 0.7 * float(norm.running_mean[channel]) + 0.3 * np.mean(seen)
            var = 0.7 * float(norm.running_var[channel]) + 0.3 * np.var(seen)
            unit = (x[image, channel] - mean) / np.sqrt(var + norm.eps)
            expected[image, channel] = unit * norm.weight[channel].item() + norm.bias[channel].item()
    with torch.no_grad():
        np.testing.assert_allclose(norm(torch.from_numpy(x)).numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_without_a_share_it_is_batch_normalisation_in_training_too(momentum):
    mixed, plain = norm_of(0.0), nn.BatchNorm2d(3)
    plain.load_state_dict(mixed.state_dict())
    mixed.momentum = plain.momentum = momentum
    for _ in range(3):
        x = torch.randn(4, 3, 6, 5) * 3 + 1
        torch.testing.assert_close(mixed(x), plain(x), rtol=1e-4, atol=1e-4)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(mixed.state_dict()[name], value, rtol=1e-5, atol=1e-5)


def test_a_brighter_camera_changes_an_embedding_less():
    torch.manual_seed(0)
    plain = APNNetwork(NetworkSpec("test_efficientnet", 16, 64, 32)).eval()
    mixed = APNNetwork(NetworkSpec("test_efficientnet", 16, 64, 32, instance_mix=0.5)).eval()
    mixed.load_state_dict(plain.state_dict())
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 120, (8, 64, 32, 3)).astype(np.uint8))
    brighter = (images.float() * 1.6 + 40).to(torch.uint8)

    def same(network: APNNetwork) -> float:
        with torch.no_grad():
            one, other = (network.embed(network.normalise(x)) for x in (images, brighter))
        return float((one * other).sum(1).mean())

    assert same(mixed) > same(plain)


def test_an_embedding_depends_on_its_own_image_alone():
    network = APNNetwork(NetworkSpec("test_efficientnet", 16, 64, 32, instance_mix=0.4, instance_mix_later=0.3)).eval()
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 255, (5, 64, 32, 3)).astype(np.uint8))
    with torch.no_grad():
        together = network.embed(network.normalise(images))
        alone = torch.cat([network.embed(network.normalise(images[row : row + 1])) for row in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", ["instance_mix", "instance_mix_later"])
@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_resnet"])
def test_state_and_names_are_those_of_the_plain_network(backbone, option):
    plain = APNNetwork(NetworkSpec(backbone, 16, 64, 32))
    mixed = APNNetwork(NetworkSpec(backbone, 16, 64, 32, **{option: 0.4}))
    assert list(mixed.state_dict()) == list(plain.state_dict())
    mixed.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 64, 32)
    assert not torch.allclose(mixed.eval()(x)[0], plain.eval()(x)[0])
    # The same weights mean another network, which a gallery must not mix.
    assert fingerprint_of(mixed.state_dict(), mixed.spec) != fingerprint_of(plain.state_dict(), plain.spec)
    assert NetworkSpec.from_json(mixed.spec.to_json()) == mixed.spec
    assert option not in plain.spec.to_json()


@pytest.mark.parametrize("option", ["instance_mix", "instance_mix_later"])
def test_a_backbone_without_such_normalisations_is_refused(option):
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')}: "):
        APNNetwork(NetworkSpec("simple_cnn", 5, 20, 16, **{option: 0.4}))


def test_the_exported_graph_says_the_same(tmp_path):
    pytest.importorskip("onnx")
    from siamese_search.model.embedder import OnnxEmbedder
    from siamese_search.model.weights_file import save_bundle

    network = APNNetwork(NetworkSpec("test_efficientnet", 16, 96, 48, instance_mix=0.4, instance_mix_later=0.3)).eval()
    images = np.random.default_rng(2).integers(0, 255, (3, 96, 48, 3)).astype(np.uint8)
    found = OnnxEmbedder(save_bundle(network, tmp_path / "b", {})).embed(images)
    with torch.no_grad():
        expected = network.embed(network.normalise(torch.from_numpy(images))).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)  # large weights are stored in float16

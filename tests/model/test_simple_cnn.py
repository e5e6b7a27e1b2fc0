from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from siamese_search.errors import UsageError  # noqa: E402
from siamese_search.model.embedder import load_embedder  # noqa: E402
from siamese_search.model.network import APNNetwork, NetworkSpec, SimpleCNN, normalisation  # noqa: E402
from siamese_search.model.weights_file import load_network, save_bundle  # noqa: E402

MEAN, STD = normalisation("simple_cnn")
SPEC = NetworkSpec(backbone="simple_cnn", dim=5, height=20, width=16, mean=MEAN, std=STD)


def pictures(n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, SPEC.height, SPEC.width, 3), dtype=np.uint8)


def test_the_layers_are_the_classic_ones() -> None:
    network = APNNetwork(NetworkSpec(backbone="simple_cnn", height=100, width=100, dim=5))
    kinds = (nn.ReflectionPad2d, nn.Conv2d, nn.ReLU, nn.BatchNorm2d, nn.Linear)
    layers = [module for module in network.modules() if isinstance(module, kinds)]
    block = ["ReflectionPad2d", "Conv2d", "ReLU", "BatchNorm2d"]
    assert [type(m).__name__ for m in layers] == block * 3 + ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    convolutions = [m for m in layers if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size) for m in convolutions] == [
        (1, 4, (3, 3)), (4, 8, (3, 3)), (8, 8, (3, 3)),
    ]  # fmt: skip
    linear = [(m.in_features, m.out_features) for m in layers if isinstance(m, nn.Linear)]
    assert linear == [(8 * 100 * 100, 500), (500, 500), (500, 5)]


def test_it_sees_only_grey_as_pillow_makes_it() -> None:
    network = APNNetwork(SPEC).eval()
    colour = pictures(1)
    exact = colour @ np.array([0.299, 0.587, 0.114])
    seen: list[torch.Tensor] = []
    network.backbone.blocks.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        network.embed(network.normalise(torch.from_numpy(colour)))
    assert seen[0].shape == (1, 1, 20, 16)
    np.testing.assert_allclose(seen[0].numpy()[0, 0], exact[0] / 255, atol=1e-5)
    pillow = np.asarray(Image.fromarray(colour[0]).convert("L"))
    np.testing.assert_allclose(seen[0].numpy()[0, 0] * 255, pillow, atol=1.0)


def test_onnx_and_torch_agree_and_weights_survive(tmp_path) -> None:
    torch.manual_seed(3)
    network = APNNetwork(SPEC)
    with torch.no_grad():  # statistics that are not the initial ones
        for _ in range(3):
            network.train()(network.normalise(torch.from_numpy(pictures(8))))
    bundle = save_bundle(network.eval(), tmp_path / "b", {})
    assert (bundle.dim, bundle.input_size) == (5, (20, 16))
    by_onnx = load_embedder(bundle, threads=1).embed(pictures())
    again = load_network(bundle).eval()
    with torch.inference_mode():
        by_torch = again.embed(again.normalise(torch.from_numpy(pictures()))).numpy()
    assert by_onnx.shape == (3, 5)
    np.testing.assert_allclose(by_onnx, by_torch, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(by_onnx, axis=1), 1.0, atol=1e-5)
    assert "backbone.grey" not in again.state_dict()


def test_what_it_has_not_is_said() -> None:
    with pytest.raises(UsageError, match="--pool gem"):
        APNNetwork(NetworkSpec(backbone="simple_cnn", dim=5, height=20, width=16, pool="gem"))
    with pytest.raises(UsageError, match="--last-stride 1"):
        APNNetwork(NetworkSpec(backbone="simple_cnn", dim=5, height=20, width=16, last_stride=1))
    with pytest.raises(UsageError, match="600×400 would need 960 million weights"):
        SimpleCNN(600, 400)

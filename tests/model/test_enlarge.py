"""A network that enlarges its input: what it sees is what Pillow would have enlarged, in every engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from safetensors.torch import save  # noqa: E402

from siamese_search.model.bundle import weights_fingerprint  # noqa: E402
from siamese_search.model.embedder import load_embedder  # noqa: E402
from siamese_search.model.network import SIMPLE_CNN, APNNetwork, DeployNetwork, NetworkSpec  # noqa: E402
from siamese_search.model.weights_file import save_bundle  # noqa: E402
from siamese_search.training.config import adapt_config  # noqa: E402

SMALL = NetworkSpec(dim=16, height=32, width=16, enlarge=2)


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 16, 3), dtype=np.uint8)


def enlarged(images: np.ndarray, times: int) -> np.ndarray:
    """The slow way: Pillow's, one channel at a time, without rounding to whole grey levels."""
    n, height, width, _ = images.shape
    out = np.empty((n, height * times, width * times, 3), np.float32)
    for image in range(n):
        for channel in range(3):
            plane = Image.fromarray(images[image, :, :, channel].astype(np.float32), mode="F")
            size = (width * times, height * times)
            out[image, :, :, channel] = np.asarray(plane.resize(size, Image.Resampling.BILINEAR))
    return out


@pytest.mark.parametrize("times", [1, 2, 3])
def test_the_network_sees_what_pillow_enlarges(times):
    network = APNNetwork(replace(SMALL, enlarge=times))
    images = pictures(2, seed=1)
    seen = network.normalise(torch.from_numpy(images)).permute(0, 2, 3, 1).numpy()
    mean, std = (np.array(values, np.float32) * 255 for values in (SMALL.mean, SMALL.std))
    np.testing.assert_allclose(seen * std + mean, enlarged(images, times), atol=0.01)


def test_the_exported_graph_is_the_network(tmp_path: Path):
    network = APNNetwork(SMALL).eval()
    bundle = save_bundle(network, tmp_path / "model", {})
    images = pictures(5, seed=2)
    assert bundle.input_size == (32, 16)
    with torch.inference_mode():
        expected = DeployNetwork(network)(torch.from_numpy(images)).numpy()
    found = load_embedder(bundle, device="cpu", threads=1).embed(images)
    assert (found * expected).sum(axis=1).min() >= 0.9999


def test_it_is_part_of_the_fingerprint_and_plain_networks_keep_theirs():
    plain = replace(SMALL, enlarge=1)
    assert "enlarge" not in plain.to_json()
    assert NetworkSpec.from_json(SMALL.to_json()) == SMALL
    weights = save({"w": torch.zeros(3)})
    assert weights_fingerprint(weights, plain.to_json()) != weights_fingerprint(weights, SMALL.to_json())


def test_a_network_made_for_one_size_is_made_for_the_enlarged_one():
    network = APNNetwork(NetworkSpec(SIMPLE_CNN, 5, 20, 10, enlarge=2, mean=(0, 0, 0), std=(1, 1, 1)))
    assert network(network.normalise(torch.zeros((1, 20, 10, 3), dtype=torch.uint8)))[0].shape == (1, 5)


def test_an_adaptation_keeps_it_unless_a_size_is_asked_for(tmp_path: Path):
    plain = NetworkSpec(SIMPLE_CNN, 5, 32, 16, enlarge=2, mean=(0, 0, 0), std=(1, 1, 1))
    save_bundle(APNNetwork(plain), tmp_path / "model", {})
    kept, asked = adapt_config(str(tmp_path / "model")), adapt_config(str(tmp_path / "model"), height=64, width=32)
    assert (kept.height, kept.width, kept.enlarge) == (32, 16, 2)
    assert (asked.height, asked.width, asked.enlarge) == (64, 32, 1)

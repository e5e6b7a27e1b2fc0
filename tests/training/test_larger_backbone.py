"""A larger EfficientNet goes the whole way: one training step, export, the same embeddings from both engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from siamese_search.model.embedder import OnnxEmbedder  # noqa: E402
from siamese_search.model.network import APNNetwork, NetworkSpec  # noqa: E402
from siamese_search.model.torch_embedder import TorchEmbedder  # noqa: E402
from siamese_search.model.weights_file import save_bundle  # noqa: E402
from siamese_search.training.config import PRESETS  # noqa: E402
from siamese_search.training.trainer import Trainer  # noqa: E402


class Drawn:
    """Random images in coarse blocks: networks see structure, not noise."""

    def __init__(self, count: int) -> None:
        coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 4, 3), dtype=np.uint8)
        self.pixels = coarse.repeat(8, axis=1).repeat(8, axis=2)

    def get(self, indices: np.ndarray) -> np.ndarray:
        return self.pixels[indices]


def settle(network: APNNetwork) -> None:
    """Make an untrained network of this depth worth comparing after one step.

    Batch-norm takes the statistics of that step whole: a tenth of them would leave every embedding the same. And
    residual branches start small, as in a trained network: at full size such a random network is chaotic, and
    what float16 rounds off its weights grows with each of its eighty normalisations.
    """
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.momentum = 1.0
        if getattr(module, "has_skip", False):
            last = [part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)][-1]
            torch.nn.init.constant_(last.weight, 0.1)


def test_efficientnet_b2_trains_and_its_two_engines_agree(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = PRESETS["reid"].with_options(
        backbone="efficientnet_b2", dim=64, height=64, width=32, batch_size=8, images_per_identity=2
    )
    spec = NetworkSpec("efficientnet_b2", dim=64, height=64, width=32, neck="bn")
    images, labels = Drawn(8), np.repeat(np.arange(4), 2)
    trainer = Trainer(APNNetwork(spec), config, images, labels)
    settle(trainer.network)
    before = trainer.network.embedding.weight.detach().clone()
    assert trainer.train_epoch()
    assert trainer.progress.step == 1
    assert not torch.equal(trainer.network.embedding.weight, before)
    bundle = save_bundle(trainer.network.eval(), tmp_path / "b2", {})
    assert bundle.meta["backbone"] == "efficientnet_b2"
    onnx = OnnxEmbedder(bundle, threads=2).embed(images.pixels)
    plain = TorchEmbedder(bundle, device="cpu").embed(images.pixels)
    assert float((onnx * plain).sum(axis=1).min()) >= 0.999
    assert float((onnx @ onnx.T).min()) < 0.999  # it tells the images apart

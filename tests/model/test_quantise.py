"""An int8 bundle: another fingerprint, nearly the same vectors, and only ONNX Runtime runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("torch")

from siamese_search.errors import BundleError, UsageError
from siamese_search.model.bundle import Bundle, load_bundle
from siamese_search.model.embedder import OnnxEmbedder, load_embedder
from siamese_search.model.weights_file import load_network, quantise


def test_the_int8_bundle(tiny_bundle: Bundle, tmp_path: Path) -> None:
    coarse = np.random.default_rng(4).integers(0, 256, (24, 8, 4, 3), dtype=np.uint8)
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)
    small = quantise(tiny_bundle, images[:16], tmp_path / "small")
    assert small.fingerprint != tiny_bundle.fingerprint
    assert small.meta["precision"] == "int8"
    assert b"QuantizeLinear" in small.read_checked("model.onnx")
    exact = load_embedder(tiny_bundle, threads=1).embed(images[16:])
    near = load_embedder(small, threads=1).embed(images[16:])
    assert float((exact * near).sum(axis=1).min()) > 0.9
    assert not np.array_equal(exact, near)
    from siamese_search.model.torch_embedder import TorchEmbedder

    with pytest.raises(UsageError, match="int8 model"):
        TorchEmbedder(small, device="cpu")
    assert not (small.path / "model.safetensors").exists()
    with pytest.raises(BundleError, match="no weights to train"):
        load_network(small)
    assert isinstance(load_embedder(small, device="auto"), OnnxEmbedder)
    moved = load_bundle(small.path.rename(tmp_path / "moved"))  # its fingerprint is computed, not believed
    assert np.array_equal(load_embedder(moved, threads=1).embed(images[16:]), near)
    (moved.path / "model.json").write_text(
        (moved.path / "model.json").read_text().replace(small.fingerprint, tiny_bundle.fingerprint)
    )
    with pytest.raises(BundleError, match="forged"):
        load_embedder(load_bundle(moved.path))
    moved.path.rename(small.path)
    with pytest.raises(UsageError, match="there already"):
        quantise(tiny_bundle, images, small.path)
    with pytest.raises(UsageError, match="calibrate"):
        quantise(tiny_bundle, images[:0], tmp_path / "none")

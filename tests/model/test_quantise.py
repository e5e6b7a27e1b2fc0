"""An int8 bundle: another fingerprint, nearly the same vectors, and only ONNX Runtime runs it."""

from __future__ import annotations

import hashlib
import json
import shutil
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
    meta = json.loads((moved.path / "model.json").read_text())
    meta["files"]["model.safetensors"] = tiny_bundle.meta["files"]["model.safetensors"]
    (moved.path / "model.json").write_text(json.dumps(meta))
    with pytest.raises(BundleError, match="former release"):
        load_embedder(load_bundle(moved.path))
    moved.path.rename(small.path)
    with pytest.raises(UsageError, match="there already"):
        quantise(tiny_bundle, images, small.path)
    with pytest.raises(UsageError, match="calibrate"):
        quantise(tiny_bundle, images[:0], tmp_path / "none")


@pytest.mark.parametrize("name", ["fast", "bundled"])
def test_a_directory_may_be_called_as_a_model_of_the_package(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """A training that ended in an error after its last epoch would be worse than one that refuses the name."""
    monkeypatch.chdir(tmp_path)
    made = quantise(tiny_bundle, np.zeros((1, *tiny_bundle.input_size, 3), np.uint8), Path(name))
    assert made.path == tmp_path / name
    assert not caplog.records, "the quantiser keeps its advice to itself"


def test_a_strange_graph_is_refused_in_one_line(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """It runs, but not as the calibration feeds it."""
    import onnx

    graph = onnx.load_from_string(tiny_bundle.read_graph())
    for node in graph.graph.node:
        node.input[:] = ["pixels" if name == "images" else name for name in node.input]
    graph.graph.input[0].name = "pixels"
    copy = Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))
    data = graph.SerializeToString()
    (copy / "model.onnx").write_bytes(data)
    meta = json.loads((copy / "model.json").read_text())
    meta["files"]["model.onnx"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    meta.pop("graph", None)
    (copy / "model.json").write_text(json.dumps(meta))
    load_embedder(load_bundle(copy), threads=1)
    height, width = tiny_bundle.input_size
    with pytest.raises(BundleError, match="ONNX Runtime cannot quantise it") as caught:
        quantise(load_bundle(copy), np.zeros((4, height, width, 3), np.uint8), tmp_path / "small")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(("share", "later"), [(0.0, 0.0), (0.4, 0.3)])
def test_what_takes_its_own_statistics_stays_in_float(tmp_path: Path, share: float, later: float) -> None:
    """Measured, not named: the small convolutions before the normalisations of ``instance_mix``, and no others."""
    import onnx
    import torch

    from siamese_search.model.network import APNNetwork, NetworkSpec, _Mixed
    from siamese_search.model.weights_file import save_bundle

    torch.manual_seed(1)
    network = APNNetwork(
        NetworkSpec("tf_efficientnet_lite0", 16, 64, 32, neck="bn", instance_mix=share, instance_mix_later=later)
    ).eval()
    mixed = sum(isinstance(module, _Mixed) for module in network.modules())
    assert mixed == (3 if share else 0) + (15 if later else 0)
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 32, 3), dtype=np.uint8)
    small = quantise(save_bundle(network, tmp_path / "whole", {}), images, tmp_path / "small")
    graph = onnx.load_from_string(small.read_graph()).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    in_float = [node for node in convolutions if makers.get(node.input[1]) != "DequantizeLinear"]
    assert len(in_float) == (3 if share else 0)
    assert len(convolutions) > 40

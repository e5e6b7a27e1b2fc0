"""The graph of a network: without its large weights, which are in the bundle once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from siamese_search.errors import BundleError  # noqa: E402
from siamese_search.model.bundle import ONNX_NAME, WEIGHTS_NAME, load_bundle  # noqa: E402
from siamese_search.model.embedder import OnnxEmbedder  # noqa: E402
from siamese_search.model.graph import completed, kernel, read_weights  # noqa: E402
from siamese_search.model.network import APNNetwork, NetworkSpec  # noqa: E402
from siamese_search.model.weights_file import export_onnx, save_bundle, stored_state  # noqa: E402


def lively(spec: NetworkSpec) -> APNNetwork:
    """A network whose normalisations have something to fold."""
    torch.manual_seed(3)
    network = APNNetwork(spec)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    return network.eval()


SPECS = [
    NetworkSpec(dim=16, height=64, width=32, neck="bn", pool="gem", last_stride=1, instance_mix=0.4),
    NetworkSpec(backbone="tf_efficientnet_lite0", dim=16, height=64, width=32, neck="bn", enlarge=2),
    NetworkSpec(backbone="resnet18", dim=16, height=64, width=32),
    NetworkSpec(backbone="simple_cnn", dim=8, height=32, width=16),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.backbone} {spec.neck}")
def test_a_bundle_has_each_large_weight_once_and_computes_what_torch_does(spec: NetworkSpec, tmp_path: Path) -> None:
    network = lively(spec)
    bundle = save_bundle(network, tmp_path / "b", {})
    graph = onnx.load_from_string(bundle.read_checked(ONNX_NAME)).graph
    kept = sum(onnx.numpy_helper.to_array(one).nbytes for one in graph.initializer)
    assert kept < 0.1 * bundle.meta["files"][WEIGHTS_NAME]["bytes"]
    assert len(bundle.meta["graph"]) >= 2
    pixels = np.random.default_rng(0).integers(0, 256, (3, spec.height, spec.width, 3), dtype=np.uint8)
    network.load_state_dict({name: value.float() for name, value in stored_state(network).items()})
    with torch.no_grad():
        expected = network.embed(network.normalise(torch.from_numpy(pixels))).numpy()
    assert np.abs(OnnxEmbedder(bundle).embed(pixels) - expected).max() < 1e-4


def test_what_is_appended_is_what_the_onnx_package_would_add() -> None:
    rng = np.random.default_rng(0)
    state = {
        "conv.weight": rng.normal(size=(6, 3, 2, 2)).astype(np.float32),
        "norm.weight": rng.normal(size=6).astype(np.float32),
        "norm.running_var": rng.uniform(0.1, 300, 6).astype(np.float32),
        "größe": rng.normal(size=(300, 1)).astype(np.float32),
    }
    named = {"a": ["conv.weight", "norm", 1e-3], "ä": ["größe"], "b": ["conv.weight"]}
    helper = onnx.helper
    node = helper.make_node("Identity", ["b"], ["y"])
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [6, 3, 2, 2])
    inside = onnx.numpy_helper.from_array(np.zeros(2, np.float32), "own")
    model = helper.make_model(helper.make_graph([node], "g", [], [output], [inside]))
    found = onnx.load_from_string(completed(model.SerializeToString(), named, state)).graph
    assert [one.name for one in found.initializer] == ["own", "a", "b", "ä"]
    assert len(found.node) == 1
    values = {one.name: onnx.numpy_helper.to_array(one) for one in found.initializer}
    assert np.array_equal(values["b"], state["conv.weight"])
    assert np.array_equal(values["ä"], state["größe"])
    for channel in range(6):
        scale = state["norm.weight"][channel] / np.sqrt(state["norm.running_var"][channel] + 1e-3)
        assert np.allclose(values["a"][channel], state["conv.weight"][channel] * scale)
    assert np.array_equal(values["a"], kernel(state, "conv.weight", "norm", 1e-3))


def test_weights_are_read_as_safetensors_reads_them(tmp_path: Path) -> None:
    from safetensors.torch import load, save

    tensors = {"h": torch.randn(3, 4).half(), "f": torch.randn(5), "i": torch.arange(3), "e": torch.zeros(0, 2)}
    data = save(tensors)
    found = read_weights(data)
    assert set(found) == {"h", "f", "e"}
    for name, values in found.items():
        assert np.array_equal(values, load(data)[name].float().numpy())
    for cut in range(0, len(data), 7):
        try:
            read_weights(data[:cut])
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_bundles_of_the_first_format_can_be_read(tiny_bundle_meta: Path) -> None:
    """Their graphs hold their weights themselves."""
    bundle = load_bundle(tiny_bundle_meta)
    assert bundle.meta["format"] == 1
    pixels = np.zeros((1, *bundle.input_size, 3), np.uint8)
    assert OnnxEmbedder(bundle).embed(pixels).shape == (1, bundle.dim)


@pytest.fixture
def tiny_bundle_meta(tiny_bundle: object, tmp_path: Path) -> Path:
    """A copy in the first format."""
    import hashlib
    import json
    import shutil

    from siamese_search.model.bundle import Bundle

    assert isinstance(tiny_bundle, Bundle)
    graph = tiny_bundle.read_graph()
    target = tmp_path / "old"
    shutil.copytree(tiny_bundle.path, target)
    (target / ONNX_NAME).write_bytes(graph)
    meta = {**tiny_bundle.meta, "format": 1}
    del meta["graph"]
    said = {"bytes": len(graph), "sha256": hashlib.sha256(graph).hexdigest()}
    meta["files"] = {**meta["files"], ONNX_NAME: said}
    (target / "model.json").write_text(json.dumps(meta))
    return target


def test_a_format_to_come_is_refused(tiny_bundle_meta: Path) -> None:
    path = tiny_bundle_meta / "model.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 3'))
    with pytest.raises(BundleError, match="bundle format 3"):
        load_bundle(tiny_bundle_meta)


def test_the_same_network_gives_the_same_graph() -> None:
    """To the byte, and whatever the weights of the one exported before: runs are compared by their bundles."""
    spec = NetworkSpec(backbone="simple_cnn", dim=8, height=32, width=16)
    one, other = APNNetwork(spec), APNNetwork(spec)
    first = export_onnx(one)
    assert export_onnx(other) != first  # its biases are its own
    assert export_onnx(one) == first

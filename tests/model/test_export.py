from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from siamese_search.model.network import APNNetwork, NetworkSpec  # noqa: E402
from siamese_search.model.weights_file import _store_half, export_onnx  # noqa: E402


def stored(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """A graph that returns one initialiser: its value as ONNX Runtime computes it, and whether it is half size."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, values.shape)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])], "g", [], [output], [numpy_helper.from_array(values, "w")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    _store_half(model)
    onnx.checker.check_model(model)
    half = model.graph.initializer[0].data_type == TensorProto.FLOAT16
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})[0], half


def test_large_matrices_are_stored_in_half_with_little_loss() -> None:
    values = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    read, half = stored(values)
    assert half
    assert np.abs(read - values).max() <= 1e-3 * np.abs(values).max()


@pytest.mark.parametrize(
    ("row", "scale"), [(3, 1e-6), (0, 1e5)], ids=["a channel too small for float16", "one too large"]
)
def test_what_float16_cannot_hold_stays_as_it_is(row: int, scale: float) -> None:
    values = np.random.default_rng(0).normal(size=(64, 8, 2, 2)).astype(np.float32)
    values[row] *= scale
    read, half = stored(values)
    assert not half
    assert np.array_equal(read, values)


def test_the_same_network_gives_the_same_graph() -> None:
    """To the byte, and whatever the weights of the one exported before: runs are compared by their bundles."""
    spec = NetworkSpec(backbone="simple_cnn", dim=8, height=32, width=16)
    one, other = APNNetwork(spec), APNNetwork(spec)
    first = export_onnx(one)
    assert export_onnx(other) != first
    assert export_onnx(one) == first

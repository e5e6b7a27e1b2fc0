"""The teacher in torch against OpenVINO."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

MAPS = ("754", "941", "1126")


@pytest.fixture
def ir(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return importlib.import_module("benchmarks.ir")


def test_it_answers_as_openvino_does(ir, data_dir: Path) -> None:
    openvino = pytest.importorskip("openvino")
    (path,) = (data_dir / "teacher").glob("*.xml")
    model = openvino.Core().read_model(path)
    model.reshape([3, 3, 256, 128])
    named = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    model.add_outputs([named[name].output(0) for name in MAPS])
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 256, 128)).astype(np.float32)
    expected = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(images)
    with torch.no_grad():
        found = ir.IRNetwork(path, MAPS)(torch.from_numpy(images))
    assert len(found) == 4
    for own, theirs in zip(found, expected.values(), strict=True):
        theirs = theirs.reshape(own.shape)
        assert np.abs(own.numpy() - theirs).max() < 1e-3 * np.abs(theirs).max()


def test_an_operation_that_is_not_known_is_named(ir, tmp_path: Path) -> None:
    (tmp_path / "net.bin").write_bytes(b"")
    layers = '<layer id="0" name="in" type="Parameter"/><layer id="1" name="turn" type="Rotate"/>'
    edges = '<edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>'
    (tmp_path / "net.xml").write_text(f"<net><layers>{layers}</layers><edges>{edges}</edges></net>")
    with pytest.raises(ValueError, match="layer turn is a Rotate"):
        ir.IRNetwork(tmp_path / "net.xml")

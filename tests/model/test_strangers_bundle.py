"""A bundle that came from a stranger: it reads no other file, and is the model that it says."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fingerprint import fingerprint_of
from safetensors.torch import save

from siamese_search.errors import BundleError
from siamese_search.model.bundle import WEIGHTS_NAME, Bundle, as_named, load_bundle, weights_fingerprint
from siamese_search.model.embedder import OnnxEmbedder
from siamese_search.model.graph import completed, read_weights, wants_other_files
from siamese_search.model.network import APNNetwork, NetworkSpec
from siamese_search.model.weights_file import load_network, save_bundle, stored_state

onnx = pytest.importorskip("onnx")


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    shutil.copytree(tiny_bundle.path, target)
    return target


def edit(directory: Path, change: Any) -> None:
    path = directory / "model.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def put(directory: Path, name: str, data: bytes) -> None:
    """Another file under this name, with all that model.json says of it."""
    (directory / name).write_bytes(data)
    said = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(directory, lambda meta: meta["files"].update({name: said}))


def refused(directory: Path, match: str) -> None:
    with pytest.raises(BundleError, match=match) as caught:
        OnnxEmbedder(load_bundle(directory))
    assert "\n" not in str(caught.value)


def test_the_fingerprint_is_that_of_torch(tiny_bundle: Bundle) -> None:
    network = load_network(tiny_bundle)
    assert fingerprint_of(stored_state(network), network.spec) == tiny_bundle.fingerprint
    data = (tiny_bundle.path / WEIGHTS_NAME).read_bytes()
    assert weights_fingerprint(data, tiny_bundle.meta["network"]) == tiny_bundle.fingerprint
    bundled = load_bundle()
    assert (
        weights_fingerprint((bundled.path / WEIGHTS_NAME).read_bytes(), bundled.meta["network"]) == bundled.fingerprint
    )


def test_a_forged_fingerprint_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Else its vectors would be mixed with those of the model that it claims to be."""
    spec = load_network(tiny_bundle).spec
    torch.manual_seed(8)
    other = save_bundle(APNNetwork(spec), tmp_path / "other", {})
    assert other.fingerprint != tiny_bundle.fingerprint
    edit(other.path, lambda meta: meta.update(fingerprint=tiny_bundle.fingerprint))
    refused(other.path, "damaged or forged")
    with pytest.raises(BundleError, match="damaged or forged"):
        load_network(load_bundle(other.path))
    edit(other.path, lambda meta: meta.update(precision="int8"))
    refused(other.path, "former release")
    edit(other.path, lambda meta: meta["files"].pop(WEIGHTS_NAME))
    refused(other.path, "damaged or forged")


def external(model: bytes, where: str, location: str) -> bytes:
    """The model with one tensor in another file: an initialiser, an attribute, or inside a branch."""
    proto = onnx.load_from_string(model)
    tensor = onnx.TensorProto(name="stolen", data_type=onnx.TensorProto.FLOAT, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    if where == "initialiser":
        proto.graph.initializer.append(tensor)
    elif where == "attribute":
        proto.graph.node.append(onnx.helper.make_node("Constant", [], ["stolen"], value=tensor))
    elif where == "function":
        node = onnx.helper.make_node("Constant", [], ["stolen"], value=tensor)
        proto.functions.append(onnx.FunctionProto(name="f", domain="d", output=["stolen"], node=[node]))
    else:
        output = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])]
        branch = onnx.helper.make_graph([], "b", [], output, [tensor])
        condition = onnx.helper.make_node("If", ["c"], ["out"], then_branch=branch, else_branch=branch)
        proto.graph.node.append(condition)
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize("where", ["initialiser", "attribute", "function", "branch"])
@pytest.mark.parametrize("location", ["secret.bin", "/etc/passwd", "../secret.bin"])
def test_a_graph_with_weights_in_another_file_is_refused(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, location: str
) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    monkeypatch.chdir(tmp_path)
    graph = (copy / "model.onnx").read_bytes()
    assert not wants_other_files(graph)
    put(copy, "model.onnx", external(graph, where, location))
    refused(copy, "its weights lie in another file")


def test_whatever_the_damage_it_is_one_line(copy: Path) -> None:
    rng = random.Random(5)
    for name in ("model.onnx", "model.safetensors"):
        sound = (copy / name).read_bytes()
        for _ in range(60):
            data = bytearray(sound)
            for _ in range(rng.randrange(1, 20)):
                data[rng.randrange(min(len(data), 3000))] = rng.randrange(256)
            put(copy, name, bytes(data[: rng.choice([len(data), rng.randrange(len(data))])]))
            try:
                OnnxEmbedder(load_bundle(copy))
            except BundleError as error:
                assert "\n" not in str(error)  # noqa: PT017
        put(copy, name, sound)
    OnnxEmbedder(load_bundle(copy))


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: meta["files"]["model.onnx"].update(bytes=float("inf")),
        lambda meta: meta.update(embedding_dim=float("inf")),
        lambda meta: meta.update(embedding_dim=16),
        lambda meta: meta["input"].update(height=96),
        lambda meta: meta["input"].update(height=4096, width=4096),
        lambda meta: meta.update(heldout_identities=5),
        lambda meta: meta.update(metrics=[1]),
        lambda meta: meta.update(network=None),
        lambda meta: meta["files"].update({"model.onnx": {"bytes": 10**400, "sha256": "0" * 64}}),
    ],
)
def test_figures_that_cannot_be_are_one_line_before_memory_is_taken(copy: Path, change: Any) -> None:
    edit(copy, change)
    refused(copy, "damaged|truncated")


@pytest.mark.parametrize(
    "origin",
    [["nothing"], ["embedding.weight", "nothing", 1e-5], [], [1, 2, 3, 4], ["embedding.weight", "neck", "x"], [["a"]]],
)
def test_a_graph_that_names_other_weights_is_one_line(copy: Path, origin: list[Any]) -> None:
    edit(copy, lambda meta: meta.update(graph=dict.fromkeys(meta["graph"], origin)))
    refused(copy, "damaged")


@pytest.mark.parametrize("graph", [{}, [], 5, {"x": 5}, {"images": ["embedding.weight"]}, {"\ud800": []}])
def test_a_graph_without_its_weights_is_one_line(copy: Path, graph: Any) -> None:
    edit(copy, lambda meta: meta.update(graph=graph))
    refused(copy, "damaged|cannot load it")


def test_a_small_bundle_takes_little_memory() -> None:
    """Nor does it name a tensor again and again, or broadcast one, or let tensors lie over each other."""
    state = {
        "w": np.ones((64, 64), np.float32),
        "wide": np.ones((1, 4096), np.float32),
        "n.weight": np.ones(4096, np.float32),
        "n.running_var": np.ones(4096, np.float32),
    }
    with pytest.raises(ValueError, match="again and again"):
        completed(b"", {f"t{i}": ["w"] for i in range(100)}, state)
    with pytest.raises(ValueError, match="another number"):
        completed(b"", {"t": ["wide", "n", 1e-5]}, state)
    with pytest.raises(ValueError, match=r".") as caught:
        completed(b"", {"t": ["w", "x" * 10**6, 1e-5]}, state)
    assert len(str(caught.value)) < 200
    header = json.dumps({f"t{i}": {"dtype": "F16", "shape": [512], "data_offsets": [0, 1024]} for i in range(50)})
    data = struct.pack("<Q", len(header)) + header.encode() + bytes(1024)
    for read in (read_weights, lambda given: weights_fingerprint(given, {})):
        with pytest.raises(ValueError, match="overlap"):
            read(data)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800"])
def test_a_name_that_no_directory_can_have_is_no_bundle(name: str) -> None:
    with pytest.raises(BundleError, match="no such model bundle"):
        load_bundle(name)


def test_a_directory_called_as_a_model_of_the_package(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of the two is meant nobody can know."""
    monkeypatch.chdir(copy.parent)
    copy.rename(copy.parent / "fast")
    with pytest.raises(BundleError, match=r"\./fast is this one"):
        load_bundle("fast")
    assert load_bundle("./fast").path == load_bundle(Path("fast")).path == copy.parent / "fast"
    assert as_named(Path("fast")) == "./fast"
    assert [as_named(Path(name)) for name in ("slow", "a/fast", "/fast")] == ["slow", "a/fast", "/fast"]
    assert load_bundle().name == "bundled"


def test_the_weights_that_run_are_those_of_the_fingerprint(copy: Path) -> None:
    """A graph without weights of its own cannot compute with others."""
    before = OnnxEmbedder(load_bundle(copy))
    pixels = np.random.default_rng(0).integers(0, 256, (2, *before.input_size, 3), dtype=np.uint8)
    changed = stored_state(load_network(load_bundle(copy)))
    changed["embedding.weight"] = -changed["embedding.weight"]
    put(copy, WEIGHTS_NAME, save(changed))
    refused(copy, "damaged or forged")
    edit(copy, lambda meta: meta.update(fingerprint=fingerprint_of(changed, NetworkSpec.from_json(meta["network"]))))
    assert not np.allclose(OnnxEmbedder(load_bundle(copy)).embed(pixels), before.embed(pixels), atol=1e-2)


def test_a_calibration_of_infinities_is_damaged(copy: Path) -> None:
    rates = {"false_match_rates": [0.1, 0.01], "thresholds": [0.4, 0.5], "slope": 1, "offset": 0}
    numbers = {"genuine_pairs": float("inf"), "impostor_pairs": 3}
    edit(copy, lambda meta: meta.update(calibration={**rates, **numbers}))
    with pytest.raises(BundleError, match="calibration"):
        _ = load_bundle(copy).calibration


def test_a_sound_copy_works(copy: Path) -> None:
    embedder = OnnxEmbedder(load_bundle(copy))
    assert embedder.embed(np.zeros((1, *embedder.input_size, 3), np.uint8)).shape == (1, embedder.dim)
    assert os.listdir(copy)  # noqa: PTH208

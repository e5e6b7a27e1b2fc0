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
from siamese_search.model.bundle import (
    WEIGHTS_NAME,
    Bundle,
    as_named,
    load_bundle,
    quantised_fingerprint,
    weights_fingerprint,
)
from siamese_search.model.embedder import OnnxEmbedder
from siamese_search.model.graph import check_graph, completed, read_weights
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
    check_graph(graph)
    put(copy, "model.onnx", external(graph, where, location))
    refused(copy, "its weights lie in another file|it has loops, branches or functions")


def int8(directory: Path, nodes: list[Any], more: list[Any], **ends: Any) -> Path:
    """A bundle of nothing but a graph; ``f`` is the mean colour of an image and ``raw`` a vector made of it."""
    shape, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto
    made = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Cast", ["images"], ["cast"], to=kind.FLOAT),
            onnx.helper.make_node("ReduceMean", ["cast", "across"], ["f"], keepdims=0),
            onnx.helper.make_node("MatMul", ["f", "w"], ["raw"]),
            *nodes,
        ],
        "g",
        [shape(*one) for one in ends.get("inputs", [("images", kind.UINT8, ["n", 64, 32, 3])])],
        [shape(*one) for one in ends.get("outputs", [("out", kind.FLOAT, ["n", 32])])],
        [
            onnx.numpy_helper.from_array(np.array([1, 2]), "across"),
            onnx.numpy_helper.from_array(np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32), "w"),
            *more,
        ],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    data = bytes(onnx.helper.make_model(made, opset_imports=opset, ir_version=8).SerializeToString())
    edit(directory, lambda meta: (meta.update(precision="int8", files={}), meta.pop("graph")))
    put(directory, "model.onnx", data)
    digest = hashlib.sha256(data).hexdigest()
    edit(directory, lambda meta: meta.update(fingerprint=quantised_fingerprint(meta["network"], digest)))
    return directory


def unit(of: str = "raw") -> Any:
    return onnx.helper.make_node("LpNormalization", [of], ["out"], axis=1, p=2)


def constant(name: str, value: Any) -> Any:
    return onnx.numpy_helper.from_array(np.asarray(value), name)


def endless() -> list[Any]:
    """Nodes that add one to a number 2^62 times."""
    kind, info = onnx.TensorProto, onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["c"], ["d"]), onnx.helper.make_node("Add", ["v", "v"], ["w2"])],
        "body",
        [info("i", kind.INT64, []), info("c", kind.BOOL, []), info("v", kind.FLOAT, [])],
        [info("d", kind.BOOL, []), info("w2", kind.FLOAT, [])],
    )
    loop = onnx.helper.make_node("Loop", ["times", "yes", "nought"], ["v"], body=body)
    return [loop, onnx.helper.make_node("Add", ["raw", "v"], ["more"]), unit("more")]


def test_a_graph_that_never_ends_is_not_run(copy: Path) -> None:
    numbers = [constant("times", 2**62), constant("yes", True), constant("nought", np.float32(0))]
    refused(int8(copy, endless(), numbers), "it has loops, branches or functions")


def test_an_image_has_a_vector_of_its_own_or_the_graph_is_told_in_one_line(
    tiny_bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever a stranger's graph takes, gives or fails at; ONNX Runtime itself says nothing."""
    node, kind = onnx.helper.make_node, onnx.TensorProto
    given, images = [("out", kind.FLOAT, ["n", 32])], ["n", 64, 32, 3]
    mean = [node("ReduceMean", ["raw", "rows"], ["one"], keepdims=1), unit("one")]
    huge = [node("Tile", ["raw", "times"], ["wide"]), node("ReduceMax", ["wide", "rows"], ["one"]), unit("one")]
    graphs: list[tuple[list[Any], list[Any], dict[str, Any]]] = [
        ([unit()], [], {}),
        ([unit(), node("Identity", ["b"], ["c"])], [], {"inputs": [("images", 2, images), ("b", 1, [1])]}),
        ([unit(), node("Identity", ["f"], ["c"])], [], {"outputs": [*given, ("c", kind.FLOAT, ["n", 3])]}),
        ([unit()], [], {"outputs": []}),
        ([unit()], [], {"inputs": [("images", kind.FLOAT, images)]}),
        ([unit()], [], {"inputs": [("images", kind.UINT8, [2, 64, 32, 3])]}),
        (mean, [constant("rows", [0])], {}),
        (huge, [constant("rows", [0]), constant("times", [2**20, 2**20])], {}),
    ]
    pixels = np.random.default_rng(0).integers(0, 256, (6, 64, 32, 3), dtype=np.uint8)
    for number, (nodes, numbers, ends) in enumerate(graphs):
        shutil.copytree(tiny_bundle.path, tmp_path / str(number))
        bundle = load_bundle(int8(tmp_path / str(number), nodes, numbers, **ends))
        if number == 0:
            assert len(np.unique(OnnxEmbedder(bundle).embed(pixels), axis=0)) == 6
            continue
        with pytest.raises(BundleError) as caught:
            OnnxEmbedder(bundle).embed(pixels)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_no_other_format_of_the_engine_is_read(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one is not looked through before it runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(tiny_bundle.read_graph(), options, providers=["CPUExecutionProvider"])
    data = (tmp_path / "model.ort").read_bytes()
    monkeypatch.setattr(Bundle, "read_graph", lambda _: data)
    with pytest.raises(BundleError, match="cannot load it"):
        OnnxEmbedder(tiny_bundle)


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


@pytest.mark.parametrize(
    "numbers",
    [
        {"genuine_pairs": float("inf")},
        {"slope": 5e-324},
        {"slope": 1e300},
        {"offset": -1e308},
        {"false_match_rates": [-0.01, -0.1]},
        {"false_match_rates": [1300, 2]},
        {"false_match_rates": [0.1, 0]},
        {"thresholds": [-1e300, 0.5]},
    ],
)
def test_a_calibration_of_numbers_that_are_no_rates_or_without_end_is_damaged(copy: Path, numbers: dict) -> None:
    sound = {"false_match_rates": [0.1, 0.01], "thresholds": [0.4, 0.5], "slope": 1, "offset": 0}
    sound |= {"genuine_pairs": 3, "impostor_pairs": 3}
    edit(copy, lambda meta: meta.update(calibration=sound))
    assert load_bundle(copy).calibration is not None
    edit(copy, lambda meta: meta.update(calibration=sound | numbers))
    with pytest.raises(BundleError, match="calibration"):
        _ = load_bundle(copy).calibration


def test_a_sound_copy_works(copy: Path) -> None:
    embedder = OnnxEmbedder(load_bundle(copy))
    assert embedder.embed(np.zeros((1, *embedder.input_size, 3), np.uint8)).shape == (1, embedder.dim)
    assert os.listdir(copy)  # noqa: PTH208

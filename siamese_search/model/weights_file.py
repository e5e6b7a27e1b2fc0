"""A bundle written from a trained network: weights as safetensors, and the ONNX graph that gives unit embeddings.

Or from another bundle, in 8-bit integers: worth measuring before it is used, for on a processor without instructions
for them (AVX-512 VNNI, AVX-VNNI, Arm dot product) it is no faster than float32.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from siamese_search.errors import BundleError, UsageError, printable
from siamese_search.io.files import atomic_write_bytes, atomic_write_text
from siamese_search.model.bundle import (
    CENTRES_NAME,
    FORMAT_VERSION,
    META_NAME,
    ONNX_NAME,
    WEIGHTS_NAME,
    Bundle,
    centred_fingerprint,
    check_images,
    load_bundle,
    quantised_fingerprint,
    weights_fingerprint,
)
from siamese_search.model.centres import Centres
from siamese_search.model.network import APNNetwork, DeployNetwork, NetworkSpec

_HALF_LIMIT = 6.0e4  # beyond it float16 overflows


def stored_state(network: APNNetwork) -> dict[str, Tensor]:
    """The network's tensors as a bundle stores them: matrices and kernels in float16, the rest unchanged.

    Statistics and biases stay float32: they are small, and a variance can leave float16's range.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        value = tensor.detach().cpu().contiguous()
        if value.is_floating_point() and value.ndim >= 2 and float(value.abs().max()) < _HALF_LIMIT:
            value = value.half()
        state[name] = value
    return state


def _single(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same in float32."""
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def save_bundle(network: APNNetwork, directory: Path, extra: dict[str, Any], centres: Centres | None = None) -> Bundle:
    """Write a bundle. ``extra`` joins model.json (training summary, held-out identities, metrics).

    ``model.json`` is written last: a directory without it is not a bundle, so a crash leaves none half made.
    """
    spec = network.spec
    state = stored_state(network)
    # What is exported is what is stored: both embedders see the same rounded weights.
    rounded = APNNetwork(spec)
    rounded.load_state_dict(_single(state))
    rounded.eval()
    contents = {WEIGHTS_NAME: save_safetensors(state), ONNX_NAME: export_onnx(rounded)}
    fingerprint = weights_fingerprint(contents[WEIGHTS_NAME], spec.to_json())
    if centres is not None:
        contents[CENTRES_NAME] = centres.means.astype("<f4").tobytes()
        digest = hashlib.sha256(contents[CENTRES_NAME]).hexdigest()
        fingerprint = centred_fingerprint(fingerprint, centres.cameras, digest)
        extra = {**extra, "centres": list(centres.cameras)}
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        atomic_write_bytes(directory / name, data)
    meta = {
        "format": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "backbone": spec.backbone,
        "embedding_dim": spec.dim,
        "input": {
            "height": spec.height,
            "width": spec.width,
            "mean": list(spec.mean),
            "std": list(spec.std),
            "interpolation": "bilinear",
        },
        "network": spec.to_json(),
        "heldout_identities": [],
        "metrics": {},
        "calibration": None,
        **extra,
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()
        },
    }
    atomic_write_text(directory / META_NAME, json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
    return load_bundle(directory)


def load_network(bundle: Bundle) -> APNNetwork:
    """The bundle's network in float32, in training mode. Raises BundleError on any mismatch."""
    try:
        bundle.check_fingerprint()
        spec = NetworkSpec.from_json(bundle.meta["network"])
        network = APNNetwork(spec)
        network.load_state_dict(_single(load_safetensors(bundle.read_checked(WEIGHTS_NAME))))
    except BundleError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise BundleError(f"{printable(bundle.path)}: the weights do not fit the network: {reason}") from None
    return network


def transfer(network: APNNetwork, bundle: Bundle) -> list[str]:
    """Start ``network`` from a bundle's weights where names and shapes agree; returns what was not taken.

    Input size, dimension and neck may differ. Raises BundleError when the backbone does.
    """
    if bundle.meta.get("backbone") != network.spec.backbone:
        raise BundleError(
            f"{printable(bundle.path)}: its backbone is {bundle.meta.get('backbone')!r}, "
            f"training is set to {network.spec.backbone!r}: pass --backbone {bundle.meta.get('backbone')}"
        )
    source = load_network(bundle).state_dict()
    target = network.state_dict()
    taken = {name: value for name, value in source.items() if name in target and target[name].shape == value.shape}
    network.load_state_dict({**target, **taken})
    return sorted(set(target) - set(taken))


_OPSET = 18


def export_onnx(network: APNNetwork) -> bytes:
    """The network as ONNX bytes: ``images`` uint8 [N, H, W, 3] RGB → ``embeddings`` float32 [N, dim].

    Large initialisers are stored in float16 with a Cast to float32 behind each, which ONNX Runtime folds
    when it loads the graph: half the file, float32 arithmetic.
    """
    import onnx

    spec = network.spec
    module = DeployNetwork(network).eval()
    example = torch.zeros((2, spec.height, spec.width, 3), dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=65536)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            module,
            (example,),
            input_names=["images"],
            output_names=["embeddings"],
            opset_version=_OPSET,
            dynamic_shapes={"images": {0: batch}},
            dynamo=True,
            verbose=False,
        )
    proto = program.model_proto
    _store_half(proto)
    del proto.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]  # source paths of the exporting machine
        node.doc_string = ""
    onnx.checker.check_model(proto)
    buffer = io.BytesIO()
    onnx.save_model(proto, buffer)
    return buffer.getvalue()


def _store_half(proto: Any, smallest: int = 1024) -> None:
    """Replace float32 initialisers of at least ``smallest`` values by float16 ones and a Cast."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = proto.graph
    casts = []
    for initializer in graph.initializer:
        if initializer.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(initializer)
        if values.size < smallest or values.ndim < 2 or np.abs(values).max() > 6.0e4:
            continue
        rounded = values.astype(np.float16)
        # Kernels come with batch norm folded in, which can make an output channel too small for float16.
        rows = values.reshape(len(values), -1)
        error = np.abs(rows - rounded.reshape(rows.shape).astype(np.float32)).max(axis=1)
        if (error > 1e-3 * np.abs(rows).max(axis=1)).any():
            continue
        name = initializer.name
        initializer.CopyFrom(numpy_helper.from_array(rounded, name=f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    existing = list(graph.node)
    del graph.node[:]
    graph.node.extend(casts + existing)
    for info in list(graph.value_info):
        del info.metadata_props[:]


_BATCH = 8


def quantise(bundle: Bundle, images: NDArray[np.uint8], out: Path) -> Bundle:
    """Write bundle ``out`` (a new directory): weights and activations of convolutions and layers in int8.

    images: uint8 [N, H, W, 3] of the kind that will be embedded; they set the range of each activation. The fingerprint
    is another, and only ONNX Runtime runs it. Raises UsageError where ``out`` is there already or there are no images.
    """
    import onnxruntime
    from onnxruntime import quantization as q

    check_images(images, bundle.input_size)
    if not len(images):
        raise UsageError("quantising needs images to calibrate with; give some 128 of them")
    if out.exists():
        raise UsageError(f"{printable(out)} is there already; name a new directory")

    class Calibration(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(range(0, len(images), _BATCH))

        def get_next(self) -> dict[str, Any] | None:
            start = next(self._batches, None)
            return None if start is None else {"images": images[start : start + _BATCH]}

    with tempfile.TemporaryDirectory() as scratch:
        source, plain, small = (str(Path(scratch) / f"{name}.onnx") for name in ("source", "plain", "small"))
        Path(source).write_bytes(bundle.read_graph())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # The float16 weights behind their casts become the float32 ones that can be quantised.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = plain
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        q.quantize_static(
            plain,
            small,
            Calibration(),
            per_channel=True,
            reduce_range=True,  # 7 bits: two products of 8 overflow the 16-bit sums of AVX2
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
        )
        graph = Path(small).read_bytes()
    digest = hashlib.sha256(graph).hexdigest()
    meta = {
        **bundle.meta,
        "precision": "int8",
        "fingerprint": quantised_fingerprint(bundle.fingerprint, digest),
        "metrics": {},
        "calibration": None,
        "adapted_calibration": None,
        "files": {**bundle.meta["files"], ONNX_NAME: {"bytes": len(graph), "sha256": digest}},
    }
    out.mkdir(parents=True)
    for name in bundle.file_names:
        shutil.copyfile(bundle.path / name, out / name)
    atomic_write_bytes(out / ONNX_NAME, graph)
    atomic_write_text(out / META_NAME, json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
    return load_bundle(out)

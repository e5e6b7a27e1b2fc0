"""A bundle written from a trained network: weights as safetensors, and the ONNX graph that computes with them.

Or from another bundle, in 8-bit integers: worth measuring before it is used, for on a processor without instructions
for them (AVX-512 VNNI, AVX-VNNI, Arm dot product) it is no faster than float32.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import tempfile
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from siamese_search.errors import BundleError, UsageError, in_words, printable
from siamese_search.io.files import atomic_write_bytes, writing
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
    loading,
    quantised_fingerprint,
    weights_fingerprint,
)
from siamese_search.model.centres import Centres
from siamese_search.model.graph import kernel
from siamese_search.model.imagenet import take_fitting
from siamese_search.model.network import APNNetwork, DeployNetwork, NetworkSpec

_HALF_LIMIT = 6.0e4  # beyond it float16 overflows


def stored_state(network: APNNetwork) -> dict[str, Tensor]:
    """The network's tensors as a bundle stores them: matrices and kernels in float16, the rest unchanged.

    Statistics and biases stay float32: they are small, and a variance can leave float16's range.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    for name, value in state.items():
        if value.is_floating_point() and value.ndim >= 2 and float(value.abs().max()) < _HALF_LIMIT:
            state[name] = value.half()
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
    graph, named = export_onnx(rounded.eval())
    contents = {WEIGHTS_NAME: save_safetensors(state), ONNX_NAME: graph}
    fingerprint = weights_fingerprint(contents[WEIGHTS_NAME], spec.to_json())
    if centres is not None:
        contents[CENTRES_NAME] = centres.means.astype("<f4").tobytes()
        digest = hashlib.sha256(contents[CENTRES_NAME]).hexdigest()
        fingerprint = centred_fingerprint(fingerprint, centres.cameras, digest)
        extra = {**extra, "centres": list(centres.cameras)}
    meta = {
        "format": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "backbone": spec.backbone,
        "embedding_dim": spec.dim,
        "input": {
            **{name: getattr(spec, name) for name in ("height", "width", "mean", "std")},
            "interpolation": "bilinear",
        },
        "network": spec.to_json(),
        "graph": named,
        "heldout_identities": [],
        "metrics": {},
        "calibration": None,
        **extra,
    }
    return _written(directory, meta, contents)


def _written(directory: Path, meta: dict[str, Any], contents: dict[str, bytes]) -> Bundle:
    """The bundle of these files; ``model.json``, ``meta`` and what they are, is the last."""
    directory.mkdir(parents=True, exist_ok=True)
    files = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()}
    document = json.dumps({**meta, "files": files}, indent=1, ensure_ascii=False) + "\n"
    for name, data in {**contents, META_NAME: document.encode()}.items():
        with writing(directory / name, error=BundleError):
            atomic_write_bytes(directory / name, data)
    return load_bundle(directory)


def load_network(bundle: Bundle) -> APNNetwork:
    """The bundle's network in float32, in training mode. Raises BundleError on any mismatch."""
    if bundle.int8:
        raise BundleError(f"{printable(bundle.name)}: an int8 model holds no weights to train: name another")
    try:
        data = bundle.check_fingerprint()
        network = APNNetwork(NetworkSpec.from_json(bundle.meta["network"]))
        network.load_state_dict(_single(load_safetensors(data)))
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(f"{printable(bundle.path)}: the weights do not fit the network: {in_words(error)}") from None
    return network


def transfer(network: APNNetwork, bundle: Bundle) -> list[str]:
    """Start ``network`` from a bundle's weights where names and shapes agree; returns what was not taken.

    Input size, dimension and neck may differ. Raises BundleError when the backbone does.
    """
    source = load_network(bundle).state_dict()
    if bundle.meta.get("backbone") != network.spec.backbone:
        raise BundleError(
            f"{printable(bundle.path)}: its backbone is {bundle.meta.get('backbone')!r}, "
            f"training is set to {network.spec.backbone!r}: pass --backbone {bundle.meta.get('backbone')}"
        )
    return sorted(network.state_dict().keys() - take_fitting(network, source))


_OPSET = 18


def export_onnx(network: APNNetwork) -> tuple[bytes, dict[str, list[Any]]]:
    """The network as ONNX: ``images`` uint8 [N, H, W, 3] RGB → ``embeddings`` float32 [N, dim].

    Without its large weights: the second value says, by the names that they have in the graph, what
    :func:`~siamese_search.model.graph.kernel` makes each of.
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
    del proto.metadata_props[:]
    for part in (*proto.graph.node, *proto.graph.value_info):
        del part.metadata_props[:]  # source paths of the exporting machine
        part.doc_string = ""
    onnx.checker.check_model(proto)
    named = _take_weights(proto.graph, network)
    buffer = io.BytesIO()
    onnx.save_model(proto, buffer)
    return buffer.getvalue(), named


def _take_weights(graph: Any, network: APNNetwork, smallest: int = 1024) -> dict[str, list[Any]]:
    """Take the initialisers of at least ``smallest`` values out of a graph that the network's tensors make again.

    What an exporter folds, and how it names that, changes with its version: so their values are compared. An
    initialiser that is like none of them stays.
    """
    from onnx import numpy_helper

    state = {name: value.float().numpy() for name, value in network.state_dict().items() if value.is_floating_point()}
    norms = [(n, m.eps, m.num_features) for n, m in network.named_modules() if isinstance(m, _BatchNorm) and m.affine]
    named: dict[str, list[Any]] = {}
    kept = []
    for initialiser in graph.initializer:
        values = numpy_helper.to_array(initialiser)
        origin = None
        if values.dtype == np.float32 and values.size >= smallest and values.ndim > 1:
            plain = [[name] for name, value in state.items() if value.shape == values.shape]
            folded = [[*own, name, eps] for own in plain for name, eps, size in norms if size == len(values)]
            near = 1e-5 * float(np.abs(values).max())
            origin = next((one for one in plain + folded if np.abs(kernel(state, *one) - values).max() <= near), None)
        if origin is None:
            kept.append(initialiser)
        else:
            named[initialiser.name] = origin
    kept = [type(one).FromString(one.SerializeToString()) for one in kept]  # they live in what is emptied now
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return named


_BATCH = 8
#: A convolution of so few weights is no quicker in integers where its output's own mean is taken, too.
_SMALL = 1000


def _measured(graph: Any) -> list[str]:
    """The small convolutions whose output's own mean is taken (``instance_mix``): in float they are quicker."""
    means = {name for node in graph.node if node.op_type in ("ReduceMean", "Slice") for name in node.input}
    small = {one.name for one in graph.initializer if math.prod(one.dims) <= _SMALL}
    convolutions = [node for node in graph.node if node.op_type == "Conv" and node.input[1] in small]
    return [node.name for node in convolutions if means.intersection(node.output)]


def quantise(bundle: Bundle, images: NDArray[np.uint8], out: Path) -> Bundle:
    """Write bundle ``out`` (a new directory): weights and activations of convolutions and layers in int8.

    images: uint8 [N, H, W, 3] of the kind that will be embedded; they set the range of each activation. The fingerprint
    is another, only ONNX Runtime runs it, and it holds no weights to train. Raises UsageError where ``out`` is there
    already or there are no images.
    """
    import onnx
    import onnxruntime
    from onnxruntime import quantization as q

    check_images(images, bundle.input_size)
    if not len(images):
        raise UsageError("quantising needs images to calibrate with; give some 128 of them")
    if out.exists():
        raise UsageError(f"{printable(out)} is there already; name a new directory")

    class Calibration(q.CalibrationDataReader):  # type: ignore[misc]
        batches = ({"images": images[start : start + _BATCH]} for start in range(0, len(images), _BATCH))

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as scratch, loading(bundle, "ONNX Runtime", "quantise"), ExitStack() as after:
        logging.disable(logging.WARNING)  # it advises to do what is done here
        after.callback(logging.disable, logging.NOTSET)
        source, plain, small = (str(Path(scratch) / f"{name}.onnx") for name in ("source", "plain", "small"))
        Path(source).write_bytes(bundle.read_graph())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = plain
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        q.quantize_static(
            plain,
            small,
            Calibration(),
            per_channel=True,
            reduce_range=True,  # 7 bits: two products of 8 overflow the 16-bit sums of AVX2
            # Not sums: one range for both branches of a residual block costs a tenth of the accuracy.
            op_types_to_quantize=["Conv", "Gemm", "MatMul", "Clip"],
            nodes_to_exclude=_measured(onnx.load(plain).graph),
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
        )
        graph = Path(small).read_bytes()
    digest = hashlib.sha256(graph).hexdigest()
    meta = {
        **bundle.meta,
        "format": FORMAT_VERSION,
        "precision": "int8",
        "fingerprint": quantised_fingerprint(bundle.meta.get("network", {}), digest),
        "metrics": {},
        "calibration": None,
        "adapted_calibration": None,
    }
    meta.pop("graph", None)
    out.mkdir(parents=True)  # nobody else has made it meanwhile
    contents = {ONNX_NAME: graph}
    if "centres" in meta:
        contents[CENTRES_NAME] = bundle.read_checked(CENTRES_NAME)
        centres = bundle.meta["files"][CENTRES_NAME]["sha256"]
        meta["fingerprint"] = centred_fingerprint(meta["fingerprint"], meta["centres"], centres)
    return _written(out, meta, contents)

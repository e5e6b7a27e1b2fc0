"""ONNX export: one graph from uint8 pixels to unit embeddings, weights stored in float16."""

from __future__ import annotations

import io
import logging
import warnings
from typing import Any

import torch

from siamese_search.model.network import APNNetwork, DeployNetwork

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

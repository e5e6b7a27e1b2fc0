"""quantise(): a bundle whose ONNX graph computes in 8-bit integers, for processors with instructions for it.

Needs the [torch] extra (for ``onnx``). Worth measuring before it is used: on a processor without such instructions
(AVX-512 VNNI, AVX-VNNI, Arm dot product) it is no faster than float32.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.errors import UsageError, printable
from siamese_search.io.files import atomic_write_bytes, atomic_write_text
from siamese_search.model.bundle import (
    META_NAME,
    ONNX_NAME,
    Bundle,
    check_images,
    load_bundle,
    quantised_fingerprint,
)

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

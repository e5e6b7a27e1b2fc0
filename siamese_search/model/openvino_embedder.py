"""The OpenVINO embedder: the same ONNX graph on CPU, in bfloat16 where the processor computes in it.

Imported only where it is asked for. With AVX-512 BF16 or AMX it needs about two thirds of ONNX Runtime's processor
time (benchmarks/results/cpu_engines.json); on a processor without them it computes in float32 and gains nothing.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from siamese_search.errors import BundleError, UsageError, printable
from siamese_search.io.resources import available_cpus
from siamese_search.model.bundle import Bundle, check_images, check_shapes


class OpenVinoEmbedder:
    """Runs ``model.onnx``; agrees with the ONNX Runtime embedder to cosine ≥ 0.999. One thread may call it at a time.

    As there, each thread runs the whole network on a few images. The graph is compiled for exactly ``chunk`` of them,
    which one for any number is a tenth slower than; fewer are padded.
    """

    #: Images per run. Eight would be 3 % faster, and cost a search for one image twice as much.
    chunk = 4

    def __init__(self, bundle: Bundle, *, threads: int = 0, half: bool | None = None) -> None:
        """half: compute in bfloat16; by default where the processor has instructions for it."""
        if bundle.meta.get("precision", "float32") != "float32":
            raise UsageError(
                f"{printable(bundle.path)} is an int8 model, which ONNX Runtime runs; use --device cpu"
            )
        self._threads = threads or available_cpus()
        data = bundle.read_graph()
        try:
            core: Any = openvino.Core()
            if half is None:
                half = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            model = core.read_model(io.BytesIO(data))
            shapes = (one.get_partial_shape() for one in (model.input(0), model.output(0)))
            check_shapes(
                bundle, *([None if d.is_dynamic else d.get_length() for d in shape] for shape in shapes)
            )
            model.reshape([self.chunk, *bundle.input_size, 3])
            compiled = core.compile_model(model, "CPU", self._options("bf16" if half else "f32"))
        except BundleError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            raise BundleError(f"{printable(bundle.onnx_path)}: OpenVINO cannot load it: {reason}") from None
        self._requests: Any = openvino.AsyncInferQueue(compiled, self._threads)
        self._requests.set_callback(_keep)
        self.precision = "bfloat16" if half else "float32"
        self.bundle = bundle
        self.dim = bundle.dim
        self.input_size = bundle.input_size
        self.fingerprint = bundle.fingerprint
        self.centres = bundle.read_centres()

    def _options(self, precision: str) -> dict[str, Any]:
        return {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": str(self._threads),
            # Several processes would all be pinned to the first cores.
            "ENABLE_CPU_PINNING": False,
        }

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        check_images(images, self.input_size)
        out = np.empty((len(images), self.dim), np.float32)
        for start in range(0, len(images), self.chunk):
            block = images[start : start + self.chunk]
            rows = out[start : start + len(block)]
            if len(block) < self.chunk:
                block = np.concatenate(
                    [block, np.zeros((self.chunk - len(block), *block.shape[1:]), np.uint8)]
                )
            self._requests.start_async([np.ascontiguousarray(block)], rows)
        self._requests.wait_all()
        return out


def _keep(request: Any, rows: NDArray[np.float32]) -> None:
    """A run has ended: its vectors go where they belong."""
    rows[:] = request.get_output_tensor().data[: len(rows)]

"""Embedders: uint8 images in, unit-length embeddings out. ONNX Runtime or OpenVINO on CPU, torch on CUDA."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from siamese_search.errors import MissingExtraError, UsageError, printable
from siamese_search.io.resources import available_cpus
from siamese_search.model.bundle import Bundle, OfBundle, check_images, check_shapes, loading
from siamese_search.model.calibration import Figures, figures_of
from siamese_search.model.centres import Centres

Device = Literal["auto", "cpu", "openvino", "cuda"]


class Embedder(Protocol):
    """What turns images into vectors.

    ``embed`` takes uint8 RGB [N, H, W, 3] with (H, W) = ``input_size`` and returns float32 [N, dim] with
    rows of unit length. N may be 0. ``fingerprint`` names weights and preprocessing. ``centres``, of a model
    that was adapted to cameras, are still in the vectors: :func:`centred` takes them out.
    """

    @property
    def dim(self) -> int: ...

    @property
    def input_size(self) -> tuple[int, int]: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def centres(self) -> Centres | None: ...

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...


#: The vectors, float32 [N, dim], or what waits for them.
Started = NDArray[np.float32] | Callable[[], NDArray[np.float32]]


def begin(embedder: Embedder, images: NDArray[np.uint8]) -> Started:
    """Start to embed a batch; the vectors come later where another device computes them, else at once.

    ``images`` may be overwritten as soon as this returns.
    """
    start: Callable[[NDArray[np.uint8]], Started] = getattr(embedder, "begin", embedder.embed)
    return start(images)


def centred(
    embedder: Embedder, vectors: NDArray[np.float32], cameras: Sequence[str | None] | None = None
) -> NDArray[np.float32]:
    """An embedder's vectors as its model wants them compared: less their cameras', where it was adapted to some."""
    centres = embedder.centres
    return vectors if centres is None else centres.taken_from(vectors, cameras)


def load_embedder(bundle: Bundle, *, device: Device = "cpu", threads: int = 0) -> Embedder:
    """An embedder for this bundle.

    device: ``cpu`` runs ONNX Runtime, ``openvino`` OpenVINO, ``cuda`` torch; ``auto`` takes CUDA where torch sees a GPU
    and the model is none in int8, else ONNX Runtime: what is installed must not change figures. threads: 0 = all.
    """
    if device not in ("auto", "cpu", "openvino", "cuda"):
        raise UsageError(f"unknown device {device!r}: use auto, cpu, openvino or cuda")
    if device == "openvino":
        return OpenVinoEmbedder(bundle, threads=threads)
    if device == "cuda" or (device == "auto" and not bundle.int8 and _cuda_is_there()):
        try:
            from siamese_search.model.torch_embedder import TorchEmbedder
        except ModuleNotFoundError:
            raise MissingExtraError("--device cuda", "torch") from None
        return TorchEmbedder(bundle, device="cuda")
    return OnnxEmbedder(bundle, threads=threads)


class OnnxEmbedder(OfBundle):
    """Runs ``model.onnx`` on CPU. Several threads may call it; together they compute on at most ``threads``.

    Every thread runs the whole network on a few images of its own: none waits for another after every layer, none spins
    while others decode, and a vector has the same bits whatever the batch and the number of threads.
    """

    #: Images per run: few enough that the activations stay in a core's cache.
    chunk = 4

    def __init__(self, bundle: Bundle, *, threads: int = 0) -> None:
        import onnxruntime

        super().__init__(bundle)
        self._threads = threads or available_cpus()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what fails is said in one line
        options.add_session_config_entry("session.load_model_format", "ONNX")  # its own format is not looked through
        with loading(bundle, "ONNX Runtime"):
            self._session: Any = onnxruntime.InferenceSession(
                bundle.read_graph(), options, providers=["CPUExecutionProvider"]
            )
            ends = self._session.get_inputs(), self._session.get_outputs()
            check_shapes(bundle, *([one.shape for one in some] for some in ends))
        self._input: str = ends[0][0].name
        self._running = threading.Semaphore(self._threads)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="embed")

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        check_images(images, self.input_size)
        out = np.empty((len(images), self.dim), np.float32)
        step = min(self.chunk, max(1, -(-len(images) // self._threads)))

        def run(start: int) -> None:
            block = np.ascontiguousarray(images[start : start + step])
            with self._running, loading(self.bundle, "ONNX Runtime", "run"):
                found = self._session.run(None, {self._input: block})[0]
                out[start : start + len(block)] = np.reshape(found, (len(block), self.dim))  # one row is not all

        starts = range(0, len(images), step)
        several = self._threads > 1 and len(starts) > 1  # a search has one image
        list((self._pool.map if several else map)(run, starts))
        return out


def _cuda_is_there() -> bool:
    # Importing torch takes seconds; without NVIDIA's driver the answer is known.
    if sys.platform == "linux" and not any(Path(p).exists() for p in ("/dev/nvidiactl", "/dev/dxg")):
        return False
    try:
        import torch
    except ModuleNotFoundError:
        return False
    return bool(torch.cuda.is_available())


class FlipEmbedder:
    """An embedder around another: the mean of both mirror images' embeddings, brought back to unit length. It costs two
    forward passes, and its fingerprint is another: its vectors are not those of the model alone.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.dim = embedder.dim
        self.input_size = embedder.input_size
        self.fingerprint = f"{embedder.fingerprint}+flip"
        self.centres = embedder.centres

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        plain = self._embedder.embed(images)
        total = plain + self._embedder.embed(np.ascontiguousarray(images[:, :, ::-1]))
        lengths = np.linalg.norm(total, axis=1, keepdims=True)
        # Two opposite embeddings have no mean direction; then the image as it is decides.
        return np.where(lengths > 1e-6, total / np.maximum(lengths, 1e-6), plain).astype(np.float32)


class LookingEmbedder:
    """An embedder around another that also notes what the images look like: ``seen``, of each, in order."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.dim, self.input_size = embedder.dim, embedder.input_size
        self.fingerprint, self.centres = embedder.fingerprint, embedder.centres
        self.seen: list[Figures] = []

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        started = self.begin(images)
        return started() if callable(started) else started

    def begin(self, images: NDArray[np.uint8]) -> Started:
        """As :func:`begin`; another thread looks meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            looks = pool.submit(figures_of, images)
            started = begin(self._embedder, images)
        self.seen.extend(looks.result())
        return started


class OpenVinoEmbedder(OfBundle):
    """Runs ``model.onnx`` for one caller at a time; agrees with ONNX Runtime to cosine ≥ 0.999, in bfloat16 to 0.995.

    As there, each thread runs the whole network on a few images. The graph is compiled for exactly ``chunk`` of them,
    which one for any number is a tenth slower than; fewer are padded. Only with AVX-512 BF16 or AMX it is the quicker
    one (benchmarks/results/cpu_engines.json). Raises MissingExtraError without OpenVINO.
    """

    #: Images per run. Eight would be 3 % faster, and cost a search for one image twice as much.
    chunk = 4

    def __init__(self, bundle: Bundle, *, threads: int = 0, half: bool | None = None) -> None:
        """half: compute in bfloat16; by default where the processor has instructions for it."""
        if bundle.int8:
            raise UsageError(f"{printable(bundle.path)} is an int8 model, which ONNX Runtime runs; use --device cpu")
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it would tell of this import
        try:
            import openvino
        except ModuleNotFoundError:
            raise MissingExtraError("--device openvino", "openvino") from None
        super().__init__(bundle)
        self._threads = threads or available_cpus()
        with loading(bundle, "OpenVINO"):
            core: Any = openvino.Core()
            if half is None:
                half = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            model = core.read_model(io.BytesIO(bundle.read_graph()))
            shapes = [[one.get_partial_shape() for one in ends] for ends in (model.inputs, model.outputs)]
            sizes = [[[d.get_length() if d.is_static else None for d in s] for s in ends] for ends in shapes]
            check_shapes(bundle, *sizes)
            model.reshape([self.chunk, *bundle.input_size, 3])
            options = {
                "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
                "INFERENCE_NUM_THREADS": self._threads,
                "NUM_STREAMS": str(self._threads),
                "ENABLE_CPU_PINNING": False,  # several processes would all be pinned to the first cores
            }
            compiled = core.compile_model(model, "CPU", options)
        self._requests: Any = openvino.AsyncInferQueue(compiled, self._threads)
        self._requests.set_callback(_keep)
        self.precision = "bfloat16" if half else "float32"

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        check_images(images, self.input_size)
        out = np.empty((len(images), self.dim), np.float32)
        for start in range(0, len(images), self.chunk):
            block = images[start : start + self.chunk]
            rows = out[start : start + len(block)]
            if len(block) < self.chunk:
                block = np.concatenate([block, np.zeros((self.chunk - len(block), *block.shape[1:]), np.uint8)])
            self._requests.start_async([np.ascontiguousarray(block)], rows)
        with loading(self.bundle, "OpenVINO", "run"):
            self._requests.wait_all()
        return out


def _keep(request: Any, rows: NDArray[np.float32]) -> None:
    """A run has ended: its vectors go where they belong."""
    rows[:] = request.get_output_tensor().data.reshape(OpenVinoEmbedder.chunk, -1)[: len(rows)]

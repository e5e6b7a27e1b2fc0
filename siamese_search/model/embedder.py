"""Embedders: uint8 images in, unit-length embeddings out. ONNX Runtime or OpenVINO on CPU, torch on CUDA."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from siamese_search.errors import BundleError, MissingExtraError, UsageError, printable
from siamese_search.io.resources import available_cpus
from siamese_search.model.bundle import Bundle, check_images, check_shapes
from siamese_search.model.centres import Centres

Device = Literal["auto", "cpu", "openvino", "cuda"]


class Embedder(Protocol):
    """What turns images into vectors.

    ``embed`` takes uint8 RGB [N, H, W, 3] with (H, W) = ``input_size`` and returns float32 [N, dim] with
    rows of unit length. N may be 0. ``fingerprint`` names weights and preprocessing. ``centres``, of a model
    that was adapted to cameras, are still in the vectors: :func:`~siamese_search.model.centres.centred` takes them out.
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


def load_embedder(bundle: Bundle, *, device: Device = "cpu", threads: int = 0) -> Embedder:
    """An embedder for this bundle.

    device: ``cpu`` runs ONNX Runtime, ``openvino`` OpenVINO, ``cuda`` torch; ``auto`` takes CUDA where torch sees a
    GPU, else ONNX Runtime. threads: CPU threads, 0 = all. Vectors of all of them may stand in one gallery (cosine ≥
    0.999), but differ in their last digits: so ``auto`` never takes OpenVINO, for what is installed must not change
    anybody's figures.
    """
    if device not in ("auto", "cpu", "openvino", "cuda"):
        raise UsageError(f"unknown device {device!r}: use auto, cpu, openvino or cuda")
    if device == "openvino":
        try:
            from siamese_search.model.openvino_embedder import OpenVinoEmbedder
        except ModuleNotFoundError:
            raise MissingExtraError("--device openvino", "openvino") from None
        return OpenVinoEmbedder(bundle, threads=threads)
    if device == "cuda" or (device == "auto" and _cuda_is_there()):
        try:
            from siamese_search.model.torch_embedder import TorchEmbedder
        except ModuleNotFoundError:
            raise MissingExtraError("--device cuda", "torch") from None
        return TorchEmbedder(bundle, device="cuda")
    return OnnxEmbedder(bundle, threads=threads)


class OnnxEmbedder:
    """Runs ``model.onnx`` on CPU. Safe to call from one thread at a time.

    Every thread runs the whole network on a few images of its own: none waits for another after every layer, none spins
    while others decode, and a vector has the same bits whatever the batch and the number of threads.
    """

    #: Images per run: few enough that the activations stay in a core's cache.
    chunk = 4

    def __init__(self, bundle: Bundle, *, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(
                bundle.read_graph(), options, providers=["CPUExecutionProvider"]
            )
        except BundleError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            raise BundleError(
                f"{printable(bundle.onnx_path)}: ONNX Runtime cannot load it: {reason}"
            ) from None
        self._input: str = self._session.get_inputs()[0].name
        check_shapes(bundle, self._session.get_inputs()[0].shape, self._session.get_outputs()[0].shape)
        self._threads = threads or available_cpus()
        self._pool: ThreadPoolExecutor | None = None
        self.bundle = bundle
        self.dim = bundle.dim
        self.input_size = bundle.input_size
        self.fingerprint = bundle.fingerprint
        self.centres = bundle.read_centres()

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        check_images(images, self.input_size)
        out = np.empty((len(images), self.dim), np.float32)
        step = min(self.chunk, max(1, -(-len(images) // self._threads)))

        def run(start: int) -> None:
            block = np.ascontiguousarray(images[start : start + step])
            out[start : start + len(block)] = self._session.run(None, {self._input: block})[0]

        starts = range(0, len(images), step)
        if self._threads == 1 or len(starts) < 2:
            for start in starts:
                run(start)
        else:
            if self._pool is None:  # a search has one image and no use for it
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="embed")
            for task in [self._pool.submit(run, start) for start in starts]:
                task.result()
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

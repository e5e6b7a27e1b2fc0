"""The torch embedder, for CUDA: bf16, channels-last, copies beside the arithmetic, one recorded graph per batch size.

A batch goes through one of two slots: the pixels into pinned memory, from there to the device on a stream of its own
while the batch before is computed, and the vectors back. So :meth:`TorchEmbedder.begin` returns while the device works.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from siamese_search.errors import UsageError, printable
from siamese_search.model.bundle import Bundle, OfBundle, check_images
from siamese_search.model.weights_file import load_network

_SLOTS = 2


class TorchEmbedder(OfBundle):
    """Runs ``model.safetensors``; agrees with the ONNX embedder to cosine ≥ 0.999. One thread at a time may call it.

    All batches are computed at the size of the largest so far (a power of two), the smaller ones padded: CUDA replays
    one recorded graph. Where recording fails, kernels are launched one by one.
    """

    #: Images per run, at most.
    chunk = 256

    def __init__(self, bundle: Bundle, *, device: str = "cuda", half: bool | None = None) -> None:
        """half: compute in 16 bits; by default on CUDA only."""
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UsageError("--device cuda: torch sees no CUDA device here; use --device cpu")
        if bundle.int8:
            raise UsageError(f"{printable(bundle.path)} is an int8 model, which runs on the CPU; use --device cpu")
        super().__init__(bundle)
        self.device = torch.device(device)
        self._cuda = self.device.type == "cuda"
        self._half = self._cuda if half is None else half
        self._dtype = torch.bfloat16
        if self._cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
            self._dtype = torch.float16
        network = load_network(bundle).eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self._half:
            for module in network.modules():
                # Autocast would convert them at every run. Batch norm keeps float32: it costs nothing there.
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(self._dtype)
        self._network = network
        self._constants = network.constants(self.device)  # from the host, which a graph cannot record
        self._copies: Any = torch.cuda.Stream(self.device) if self._cuda else None  # type: ignore[no-untyped-call]
        self._size = self._turn = 0
        self._slots: list[_Slot] = []
        self._run: Callable[[Tensor], Tensor] = self._forward

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.begin(images)()

    def begin(self, images: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Start to embed uint8 [N, H, W, 3]; what is returned waits for the vectors, float32 [N, dim].

        ``images`` may be overwritten as soon as this returns.
        """
        check_images(images, self.input_size)
        blocks = [images[start : start + self.chunk] for start in range(0, len(images), self.chunk)]
        parts = [self._start(block) for block in blocks]
        if not parts:
            return lambda: np.empty((0, self.dim), np.float32)
        return lambda: np.concatenate([part.result() for part in parts])

    @torch.inference_mode()
    def _start(self, block: NDArray[np.uint8]) -> _Part:
        if len(block) > self._size:
            self._grow(len(block))
        slot = self._slots[self._turn]
        self._turn = (self._turn + 1) % len(self._slots)
        slot.settle()
        slot.host.numpy()[: len(block)] = block  # beyond it: the padding, whatever it is
        with torch.cuda.stream(self._copies) if self._copies is not None else nullcontext():
            slot.pixels.copy_(slot.host, non_blocking=True)
        if self._copies is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._copies)
        slot.vectors.copy_(self._run(slot.pixels), non_blocking=True)
        if slot.done is not None:
            slot.done.record()
        slot.part = _Part(slot, len(block))
        return slot.part

    def _grow(self, count: int) -> None:
        """Slots, and on CUDA a graph, for batches of ``count`` images."""
        for slot in self._slots:
            slot.settle()
        self._size = min(self.chunk, 1 << (count - 1).bit_length())
        self._slots, self._turn, self._run = [], 0, self._forward  # let go of the old ones first
        self._slots = [_Slot(self._size, self.input_size, self.dim, self.device) for _ in range(_SLOTS)]
        if self._cuda:
            self._run = self._recorded()

    def _forward(self, pixels: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] on the device → float32 [N, dim]."""
        images = self._network.normalise(pixels, self._constants)
        with torch.autocast(self.device.type, self._dtype, enabled=self._half):
            vectors: Tensor = self._network.embed(images)
        return vectors

    def _recorded(self) -> Callable[[Tensor], Tensor]:
        """The forward pass of a full batch as a CUDA graph; as it is where that cannot be recorded."""
        pixels = torch.zeros((self._size, *self.input_size, 3), dtype=torch.uint8, device=self.device)
        try:
            warm: Any = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            warm.wait_stream(torch.cuda.current_stream(self.device))
            # The search for the fastest kernels must be over before the recording begins.
            with torch.cuda.stream(warm), torch.backends.cudnn.flags(enabled=True, benchmark=True):
                for _ in range(3):
                    self._forward(pixels)
            torch.cuda.current_stream(self.device).wait_stream(warm)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph), torch.backends.cudnn.flags(enabled=True, benchmark=True):
                vectors = self._forward(pixels)
        except RuntimeError:
            torch.cuda.synchronize(self.device)
            return self._forward

        def replay(images: Tensor) -> Tensor:
            pixels.copy_(images)
            graph.replay()
            return vectors

        return replay


class _Slot:
    """The memory that one batch needs on both sides, and the part that is in it."""

    def __init__(self, size: int, shape: tuple[int, int], dim: int, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self.host = torch.zeros((size, *shape, 3), dtype=torch.uint8, pin_memory=cuda)
        self.pixels = torch.zeros((size, *shape, 3), dtype=torch.uint8, device=device)
        self.vectors = torch.zeros((size, dim), dtype=torch.float32, pin_memory=cuda)
        self.done: Any = torch.cuda.Event() if cuda else None  # type: ignore[no-untyped-call]
        self.part: _Part | None = None

    def settle(self) -> None:
        """Take the vectors out, so that the slot can be used again."""
        if self.part is not None:
            self.part.result()


class _Part:
    """Up to a batch of vectors that are being computed."""

    def __init__(self, slot: _Slot, count: int) -> None:
        self._slot: _Slot | None = slot
        self._count = count
        self._vectors: NDArray[np.float32] | None = None

    def result(self) -> NDArray[np.float32]:
        """float32 [count, dim]; waits for them the first time."""
        if self._vectors is None:
            assert self._slot is not None
            if self._slot.done is not None:
                self._slot.done.synchronize()
            self._vectors = self._slot.vectors[: self._count].numpy().copy()
            self._slot.part, self._slot = None, None
        return self._vectors

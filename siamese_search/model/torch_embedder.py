"""The torch embedder: channels-last, bf16 autocast on CUDA. Imported only where it is asked for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_search.errors import UsageError
from siamese_search.model.bundle import Bundle
from siamese_search.model.inputs import check_images
from siamese_search.model.weights_file import load_network


class TorchEmbedder:
    """Runs ``model.safetensors``; agrees with the ONNX embedder to cosine ≥ 0.999."""

    chunk = 256

    def __init__(self, bundle: Bundle, *, device: str = "cuda") -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UsageError("--device cuda: torch sees no CUDA device here; use --device cpu")
        self.device = torch.device(device)
        self._network = load_network(bundle).eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.bundle = bundle
        self.dim = bundle.dim
        self.input_size = bundle.input_size
        self.fingerprint = bundle.fingerprint

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        check_images(images, self.input_size)
        out = np.empty((len(images), self.dim), np.float32)
        half = self.device.type == "cuda"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            for start in range(0, len(images), self.chunk):
                block = torch.from_numpy(np.ascontiguousarray(images[start : start + self.chunk]))
                pixels = self._network.normalise(block.to(self.device))
                out[start : start + len(block)] = self._network.embed(pixels).cpu().numpy()
        return out

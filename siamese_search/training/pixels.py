"""Training images at network size: all resident as uint8 where they fit, else decoded again each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import Failure
from siamese_search.errors import DataError, ImageError
from siamese_search.io.images import read_image

if TYPE_CHECKING:  # a sweep is planned from the data alone, without torch
    import torch
    from torch import Tensor

#: Up to this many bytes the decoded images stay in memory (Market-1501 at 256×128: 1.3 GB).
RESIDENT_BYTES = 4 << 30

#: The share of a device's free memory that the images may take; the network needs the rest.
DEVICE_SHARE = 0.5

Progress = Callable[[int, int], None]


def free_bytes(device: torch.device) -> int:
    """Free memory of a CUDA device; 0 for the CPU, where the images are already."""
    if device.type != "cuda":
        return 0
    import torch

    return int(torch.cuda.mem_get_info(device)[0])


class PixelSource:
    """uint8 images [n, H, W, 3] by index.

    Unreadable images are found at the start; ``usable`` lists the indices that decode, ``failed`` the rest.
    When the images do not fit into memory, each call decodes (in threads: Pillow lets go of the GIL).
    """

    def __init__(
        self, paths: Sequence[Path], size: tuple[int, int], *, threads: int = 2, progress: Progress | None = None
    ) -> None:
        self.paths = list(paths)
        self.size = size
        self._pool = ThreadPoolExecutor(max_workers=max(1, threads), thread_name_prefix="decode")
        self.failed = self._read(progress)
        bad = {error.path for error in self.failed}
        self.usable = np.array([i for i, path in enumerate(self.paths) if path not in bad], np.int64)
        if not len(self.usable):
            reasons = "; ".join(f"{e.path.name}: {e.reason}" for e in self.failed[:3])
            raise DataError(f"none of {len(self.paths)} training images can be read ({reasons}): check the files")

    def resize(self, size: tuple[int, int], *, progress: Progress | None = None) -> None:
        """Read the images again at another size. Raises ImageError if one has become unreadable since the start."""
        if size == self.size:
            return
        self.size = size
        known = {error.path for error in self.failed}
        for error in self._read(progress):
            if error.path not in known:
                raise error

    def _read(self, progress: Progress | None) -> list[ImageError]:
        """Decode every image at ``self.size``; those that cannot be."""
        fits = len(self.paths) * self.size[0] * self.size[1] * 3 <= RESIDENT_BYTES
        self._on_device: Tensor | None = None
        self._asked: torch.device | None = None
        self._resident: NDArray[np.uint8] | None = None  # the former pixels go before the new ones come
        self._resident = np.zeros((len(self.paths), *self.size, 3), np.uint8) if fits else None
        failed: list[ImageError] = []
        for done, error in enumerate(self._pool.map(self._load, range(len(self.paths))), start=1):
            if error is not None:
                failed.append(error)
            if progress and (done % 64 == 0 or done == len(self.paths)):
                progress(done, len(self.paths))
        return failed

    def _load(self, index: int) -> ImageError | None:
        try:
            pixels = read_image(self.paths[index], self.size)
        except ImageError as error:
            return error
        if self._resident is not None:
            self._resident[index] = pixels
        return None

    def get(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 [len(indices), H, W, 3]. Raises ImageError if a file has become unreadable since the start."""
        if self._resident is not None:
            return self._resident[indices]
        images = self._pool.map(lambda i: read_image(self.paths[i], self.size), indices)
        return np.stack(list(images))

    def get_tensor(self, indices: NDArray[np.int64], device: torch.device) -> Tensor:
        """The same on ``device``: from all images there, where they fit, so that only the indices have to travel."""
        import torch

        if self._asked != device:  # once, and again after a change of size
            self._asked = device
            pixels = self._resident
            fits = pixels is not None and pixels.nbytes <= DEVICE_SHARE * free_bytes(device)
            self._on_device = torch.from_numpy(pixels).to(device, copy=True) if fits else None
        if self._on_device is None:
            return moved(torch.from_numpy(self.get(indices)), device)
        return self._on_device[moved(torch.from_numpy(indices), device)]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def unreadable(sources: Sequence[PixelSource], say: Callable[[str], None]) -> list[Failure]:
    """The images that cannot be read; ``say`` is told of them, if there are any."""
    failed = [Failure.of(error.path, error.reason) for source in sources for error in source.failed]
    if failed:
        say(f"{len(failed)} images cannot be read and are left out, the first: {failed[0].path}: {failed[0].reason}")
    return failed


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``. CUDA is not waited for: only pinned memory is copied while the CPU goes on."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)

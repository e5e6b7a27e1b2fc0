"""The plain way to do what ``sss ingest`` does, for benchmarks/ingest.py: timm, DataLoader, QdrantClient(path=).

The same network and the same images, as a careful person writes it down first: eager mode, float32, Pillow and a worker
process per CPU, one upsert per batch.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from qdrant_client import QdrantClient, models
from torch.utils.data import DataLoader, Dataset

from siamese_search.model.bundle import Bundle
from siamese_search.model.weights_file import load_network


class Files(Dataset[tuple[torch.Tensor, str]]):
    def __init__(self, paths: list[Path], bundle: Bundle) -> None:
        self._paths, self._size = paths, bundle.input_size
        self._mean = torch.tensor(bundle.meta["input"]["mean"])[:, None, None]
        self._std = torch.tensor(bundle.meta["input"]["std"])[:, None, None]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        path = self._paths[index]
        image = Image.open(path).convert("RGB").resize(self._size[::-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        return (pixels - self._mean) / self._std, str(path)


def plain_ingest(paths: list[Path], store: Path, bundle: Bundle, batch_size: int) -> tuple[float, NDArray[np.float32]]:
    """Seconds (the model is loaded before they begin), and the vectors of the first batch, float32 [n, d]."""
    network = load_network(bundle).eval()
    client = QdrantClient(path=str(store))
    client.create_collection(
        "default", vectors_config=models.VectorParams(size=bundle.dim, distance=models.Distance.COSINE)
    )
    loader = DataLoader(Files(paths, bundle), batch_size, num_workers=os.cpu_count() or 1)
    first: NDArray[np.float32] = np.empty((0, bundle.dim), np.float32)
    started = time.perf_counter()
    with torch.no_grad():
        for pixels, names in loader:
            vectors = network.embed(pixels).numpy()
            first = first if len(first) else vectors
            points = [
                models.PointStruct(
                    id=str(uuid.uuid5(uuid.NAMESPACE_URL, name)), vector=row.tolist(), payload={"path": name}
                )
                for name, row in zip(names, vectors, strict=True)
            ]
            client.upsert("default", points)
    seconds = time.perf_counter() - started
    assert client.count("default").count == len(paths)
    client.close()
    return seconds, first

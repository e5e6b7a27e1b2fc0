"""An embedder that sees colours, a gallery in memory that can lie, and images with planted identities."""

# ruff: noqa: ARG002 - the contract has arguments that a stand-in does not need

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_search.datasets.records import RESERVED_IDENTITIES, ImageRecord
from siamese_search.gallery.contract import Gallery, GalleryInfo, Hit, ModelRef, StoredPoint


class ColourEmbedder:
    """Mean colours of 4 x 2 blocks, centred, projected at random to unit vectors: enough to tell stripes apart."""

    dim = 32
    input_size = (32, 16)
    fingerprint = "colour-blocks"
    centres = None

    def __init__(self) -> None:
        self._projection = np.random.default_rng(7).normal(size=(24, self.dim))

    def embed(self, images):
        blocks = images.reshape(len(images), 4, 8, 2, 8, 3).mean(axis=(2, 4)).reshape(len(images), 24)
        vectors = (blocks / 127.5 - 1) @ self._projection
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class MemoryGallery(Gallery):
    """Exact search over a dict. ``forget``: ids that queries never return, as a lossy index would."""

    def __init__(self, model: ModelRef, forget: Sequence[str] = ()) -> None:
        self.name, self.store, self.model = "memory", "nowhere", model
        self.points: dict[str, tuple[np.ndarray, dict]] = {}
        self.forget = set(forget)
        self.asked: list[tuple[int, int]] = []  # (queries, k) of each call

    def upsert(self, ids, vectors, payloads):
        for point, vector, payload in zip(ids, vectors, payloads):
            self.points[point] = (vector, {k: v for k, v in payload.items() if v is not None})

    def set_payload(self, ids, payloads):
        raise NotImplementedError

    def delete(self, ids):
        for point in ids:
            self.points.pop(point, None)

    def query_batch(self, vectors, k, where=(), *, with_vectors=False, with_payload=True, exact=False):
        assert not where
        self.asked.append((len(vectors), k))
        ids = sorted(set(self.points) - self.forget)
        stored = np.stack([self.points[point][0] for point in ids])
        answers = []
        for row in vectors @ stored.T:
            order = np.lexsort((np.arange(len(ids)), -row))[:k]
            answers.append([Hit(ids[i], float(row[i]), {}) for i in order])
        return answers

    def retrieve(self, ids, *, with_vectors=False):
        raise NotImplementedError

    def scroll(self, where=(), *, with_vectors=False, fields=None, batch=1000) -> Iterator[StoredPoint]:
        for point in sorted(self.points):
            vector, payload = self.points[point]
            yield StoredPoint(point, dict(payload), vector if with_vectors else None)

    def count(self, where=()):
        return len(self.points)

    def facet(self, field, where=(), limit=100):
        raise NotImplementedError

    def fields(self):
        return {}

    def flush(self):
        pass

    def optimise(self):
        return False

    def info(self) -> GalleryInfo:
        raise NotImplementedError

    def close(self):
        pass


@pytest.fixture
def embedder() -> ColourEmbedder:
    return ColourEmbedder()


@pytest.fixture
def memory_gallery() -> Callable[..., MemoryGallery]:
    return lambda **how: MemoryGallery(ModelRef(ColourEmbedder.fingerprint, ColourEmbedder.dim), **how)


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., list[ImageRecord]]:
    """``make_images(identities, cameras, each)``: stripes of an identity's colours, noise, a tint per camera."""

    def make(
        identities: Sequence[str | None] = ("1", "2", "3"),
        cameras: Sequence[str | None] = ("1", "2"),
        each: int = 2,
        noise: float = 10,
        folder: str = "images",
        seed: int = 0,
    ) -> list[ImageRecord]:
        rng = np.random.default_rng(seed)
        directory = tmp_path / folder
        directory.mkdir()
        records = []
        for number, identity in enumerate(identities):
            stripes = np.random.default_rng([99, number]).uniform(0, 255, size=(4, 1, 3))
            for camera in cameras:
                tint = rng.normal(0, 6, size=3)
                for shot in range(each):
                    pixels = np.repeat(stripes, 8, axis=0) + tint + rng.normal(0, noise, size=(32, 16, 3))
                    who = f"{identity}_{number}_c{camera}_{shot}"
                    if identity in RESERVED_IDENTITIES:  # which are Market-1501's names' alone
                        who = f"{identity}_c{camera}_{shot}_{number}"
                    path = directory / f"{who}.png"
                    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
                    records.append(ImageRecord(path.name, path, identity, camera))
        return records

    return make

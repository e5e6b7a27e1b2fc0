"""A model and a store small enough to be obviously right, for tests of what stands between them."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from siamese_search.gallery.contract import Gallery, GalleryInfo, Hit, ModelRef, StoredPoint

MODEL = ModelRef("f" * 64, 48, "colours")


class ColourEmbedder:
    """A 4 x 4 thumbnail, centred and of unit length: equal pixels give equal vectors, different ones do not."""

    dim = 48
    input_size = (16, 8)
    fingerprint = MODEL.fingerprint
    centres = None

    def __init__(self):
        self.batches = []

    def embed(self, images):
        assert images.dtype == np.uint8
        assert images.shape[1:] == (16, 8, 3)
        self.batches.append(len(images))
        blocks = images.reshape(len(images), 4, 4, 4, 2, 3).mean(axis=(2, 4)).reshape(len(images), -1)
        vectors = (blocks - 127.3).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def meets(payload, condition):
    """The filter contract, literally."""
    value = payload.get(condition.field)
    match condition.operator:
        case "present":
            return value is not None
        case "absent":
            return value is None
        case "!=":
            return value not in condition.values
        case "=":
            return value in condition.values
    if value is None:
        return False
    bound = condition.values[0]
    match condition.operator:
        case "<":
            return value < bound
        case "<=":
            return value <= bound
        case ">":
            return value > bound
        case ">=":
            return value >= bound
    raise AssertionError(condition)


class MemoryGallery(Gallery):
    """The gallery contract over a dict, by brute force. ``asked`` records the k of every query."""

    def __init__(self, name="default", model=MODEL):
        self.name, self.store, self.model = name, "memory", model
        self.points = {}
        self.kept = {}
        self.asked = []
        self.upserts = []

    def upsert(self, ids, vectors, payloads):
        vectors = np.asarray(vectors, np.float32)
        assert vectors.shape == (len(ids), self.dim)
        assert len(payloads) == len(ids) == len(set(ids))
        norms = np.linalg.norm(vectors, axis=1)
        if not (np.abs(norms - 1) < 1e-3).all():
            raise ValueError("not of unit length")
        self.upserts.append(len(ids))
        for identifier, vector, payload in zip(ids, vectors, payloads, strict=True):
            kept = {k: v for k, v in payload.items() if v is not None}
            self.points[identifier] = (vector.copy(), {**kept, "crc": zlib.crc32(vector.tobytes())})

    def set_payload(self, ids, payloads):
        for identifier, changes in zip(ids, payloads, strict=True):
            assert "crc" not in changes
            if identifier in self.points:
                vector, payload = self.points[identifier]
                changed = {**payload, **changes}
                self.points[identifier] = (vector, {k: v for k, v in changed.items() if v is not None})

    def delete(self, ids):
        for identifier in ids:
            self.points.pop(identifier, None)

    def _matching(self, where):
        return sorted(i for i, (_, payload) in self.points.items() if all(meets(payload, c) for c in where))

    def query_batch(self, vectors, k, where=(), *, with_vectors=False, with_payload=True, exact=False):  # noqa: ARG002
        assert k >= 1
        ids = self._matching(where)
        answer = []
        for vector in vectors:
            self.asked.append(k)
            scores = {i: float(np.dot(self.points[i][0], vector)) for i in ids}
            ranked = sorted(ids, key=lambda i: (-scores[i], i))[:k]
            stored = [self._stored(i, with_vectors) for i in ranked]
            answer.append([Hit(point.id, scores[point.id], point.payload, point.vector) for point in stored])
        return answer

    def retrieve(self, ids, *, with_vectors=False):
        return [self._stored(i, with_vectors) if i in self.points else None for i in ids]

    def _stored(self, identifier, with_vectors):
        vector, payload = self.points[identifier]
        return StoredPoint(identifier, dict(payload), vector.copy() if with_vectors else None)

    def scroll(self, where=(), *, with_vectors=False, fields=None, batch=1000):  # noqa: ARG002
        for identifier in self._matching(where):
            point = self._stored(identifier, with_vectors)
            payload = {k: v for k, v in point.payload.items() if fields is None or k in fields}
            yield StoredPoint(identifier, payload, point.vector)

    def count(self, where=()):
        return len(self._matching(where))

    def facet(self, field, where=(), limit=100):
        values = Counter(self.points[i][1].get(field) for i in self._matching(where))
        values.pop(None, None)
        return dict(values.most_common(limit))

    def fields(self):
        return {k: type(v).__name__ for _, payload in self.points.values() for k, v in payload.items()}

    def notes(self):
        return dict(self.kept)

    def annotate(self, notes):
        self.kept = dict(notes)

    def flush(self):
        pass

    def optimise(self, *, index=None, progress=None):  # noqa: ARG002
        return False

    def info(self):
        return GalleryInfo(self.name, self.store, "memory", len(self.points), 0, self.model, 0, self.fields())

    def close(self):
        pass


def write_image(path: Path, seed=None, size=(24, 12), **options) -> Path:
    """An image of coarse coloured noise: the seed (default: the path's name) decides every pixel."""
    seed = path.name if seed is None else seed
    digest = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:8], "big")
    pixels = np.random.default_rng(digest).integers(0, 256, (6, 3, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.NEAREST)
    image.save(path, **({"quality": 95} if path.suffix == ".jpg" else {}), **options)
    return path


def write_market(root: Path, identities=3, cameras=2, per_camera=2) -> list[Path]:
    """Files with Market-1501 names."""
    return [
        write_image(root / f"{identity:04d}_c{camera}s1_{shot:06d}_01.jpg")
        for identity in range(1, identities + 1)
        for camera in range(1, cameras + 1)
        for shot in range(per_camera)
    ]

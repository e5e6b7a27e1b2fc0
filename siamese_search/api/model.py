"""``sss.load_model()``: a model for those who want vectors and no gallery; and an int8 copy of one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.embedding import BATCH, batches_of, embed_images
from siamese_search.errors import DataError, ImageError, MissingExtraError, UsageError, amount, printable
from siamese_search.io.decoding import BatchDecoder
from siamese_search.model.bundle import Bundle
from siamese_search.model.embedder import Device, Embedder
from siamese_search.workspace import Query, StrPath, bundle_in_use, load, query_images, threads_in_use


class Model:
    """A bundle with its network loaded. Made by :func:`load_model`."""

    def __init__(self, bundle: Bundle, embedder: Embedder) -> None:
        self.bundle, self._embedder = bundle, embedder

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self._embedder.dim

    @property
    def fingerprint(self) -> str:
        """Names weights and preprocessing: vectors of two fingerprints do not compare."""
        return self._embedder.fingerprint

    def encode(
        self, images: Query | Iterable[Query], *, cameras: Sequence[str | None] | None = None, batch_size: int = BATCH
    ) -> NDArray[np.float32]:
        """The vectors of images, float32 [n, dim], in order; each has length 1, so ``a @ b.T`` are the similarities.

        images: one or several of: a path (a directory stands for the images in it), an array, RGB uint8 [H, W, 3], a
        ``PIL.Image``, or the bytes of an image's file. Raises ImageError for the first that cannot be read.
        cameras: of each image, where they are known; only a model that `sss adapt` made looks at them.
        """
        one = isinstance(images, (str, os.PathLike, bytes, np.ndarray)) or not isinstance(images, Iterable)
        asked: list[Any] = [images] if one else list(images)  # type: ignore[arg-type]
        sources = [image for each in asked for image in query_images(each)]
        vectors = [np.empty((0, self.dim), np.float32)]
        if cameras is not None and len(cameras) != len(sources):
            raise UsageError(f"{len(cameras)} cameras for {len(sources)} images: give one for each, None if unknown")
        for found in embed_images(
            batches_of(range(len(sources)), batch_size),
            self._embedder,
            sources.__getitem__,
            camera_of=None if cameras is None else cameras.__getitem__,
        ):
            if found.failures:
                row, error = found.failures[0]
                raise (error if len(sources) == 1 else ImageError(f"image {row + 1}: {error.path}", error.reason))
            vectors.append(found.vectors)
        return np.concatenate(vectors)

    def __repr__(self) -> str:
        return f"<model {self.bundle.name!r}, {self.dim}-D, {self.fingerprint[:12]}>"


def load_model(model: StrPath | None = None, *, device: Device = "auto", threads: int | None = None) -> Model:
    """Load a model: a bundle's directory, or ``"bundled"`` or ``"fast"``, which come along (default: the settings').

    device, threads: as for :func:`siamese_search.ingest`. Raises BundleError, MissingExtraError.
    """
    bundle = bundle_in_use(model)
    return Model(bundle, load(bundle, device, threads_in_use(threads)))


#: Images that set the ranges of the activations, and as many others that the result is measured on.
IMAGES = 128


@dataclass(frozen=True)
class QuantisedModel:
    """An int8 bundle. cosine: mean and least, between its embeddings and those of the original, on ``measured`` images
    (not those it was calibrated with, where there were others). speed: images per second over those of the original.
    """

    bundle: Bundle
    calibrated: int
    measured: int
    mean_cosine: float
    least_cosine: float
    speed: float

    def to_json(self) -> dict[str, Any]:
        return {
            "bundle": str(self.bundle.path),
            "fingerprint": self.bundle.fingerprint,
            "calibrated_on": self.calibrated,
            "measured_on": self.measured,
            "mean_cosine": round(self.mean_cosine, 6),
            "least_cosine": round(self.least_cosine, 6),
            "speed": round(self.speed, 3),
        }


def quantise_model(
    images: StrPath, out: StrPath, *, model: StrPath | None = None, count: int = IMAGES, threads: int | None = None
) -> QuantisedModel:
    """Write an int8 copy of a model into the new directory ``out``, and compare the two.

    images: a directory of the kind of images that will be embedded. count: images to calibrate with. Raises UsageError,
    DataError (no image can be read), BundleError, MissingExtraError.
    """
    if count < 1:
        raise UsageError(f"quantising needs at least 1 image, not {count}")
    try:
        import onnx  # noqa: F401 - the quantiser needs it

        from siamese_search.model.weights_file import quantise
    except ModuleNotFoundError:
        raise MissingExtraError("quantising", "torch") from None
    bundle = bundle_in_use(model)
    if bundle.int8:
        raise UsageError(f"{printable(bundle.name)} is an int8 model already: name the one that it was made from")
    pixels = _read(images, bundle.input_size, 2 * count)
    inside, others = pixels[::2], pixels[1::2]
    others = others if len(others) else inside
    small = quantise(bundle, inside, Path(out))
    threads = threads_in_use(threads)
    before, seconds_before = _embedded(load(bundle, "cpu", threads), others)
    after, seconds_after = _embedded(load(small, "cpu", threads), others)
    cosines = (before * after).sum(axis=1)
    return QuantisedModel(
        small, len(inside), len(others), float(cosines.mean()), float(cosines.min()), seconds_before / seconds_after
    )


def _read(images: StrPath, size: tuple[int, int], count: int) -> NDArray[np.uint8]:
    """At most ``count`` images, evenly spread, uint8 [n, H, W, 3]; what cannot be read is passed over."""
    paths = [path for path in query_images(images) if isinstance(path, Path)]
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int))]
    with BatchDecoder(size, 2) as decoder, decoder.submit(chosen).result() as decoded:
        if not decoded.rows:
            raise DataError(f"{printable(str(images))}: none of {amount(len(chosen), 'image')} can be read: check it")
        return decoded.pixels.copy()


def _embedded(embedder: Embedder, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """Embeddings float32 [n, d], and the seconds that they took, the first batch aside."""
    embedder.embed(pixels[:8])
    started = time.perf_counter()
    vectors = embedder.embed(pixels)
    return vectors, max(time.perf_counter() - started, 1e-9)

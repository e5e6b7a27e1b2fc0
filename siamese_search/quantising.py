"""quantise_model(): an int8 copy of a model, and what it costs: how far its embeddings are from the float ones."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.errors import DataError, MissingExtraError, UsageError, printable
from siamese_search.workspace import StrPath, load, query_images

if TYPE_CHECKING:
    from siamese_search.model.bundle import Bundle
    from siamese_search.model.embedder import Embedder

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
    images: StrPath,
    out: StrPath,
    *,
    model: StrPath | None = None,
    count: int = IMAGES,
    threads: int | None = None,
) -> QuantisedModel:
    """Write an int8 copy of a model into the new directory ``out``, and compare the two.

    images: a directory of the kind of images that will be embedded. count: images to calibrate with, spread over
    the directory. Needs the [torch] extra. Raises UsageError, DataError (no image can be read), BundleError.
    """
    from siamese_search.model.bundle import load_bundle
    from siamese_search.settings import load_settings

    if count < 1:
        raise UsageError(f"quantising needs at least 1 image, not {count}")
    try:
        import onnx  # noqa: F401 - the quantiser needs it
    except ModuleNotFoundError:
        raise MissingExtraError("quantising", "torch") from None
    from siamese_search.model.quantise import quantise

    settings = load_settings()
    bundle = load_bundle((settings.model if model is None else os.fspath(model)) or None)
    if bundle.meta.get("precision") == "int8":
        raise UsageError(
            f"{printable(bundle.name)} is an int8 model already: name the one that it was made from"
        )
    pixels = _read(images, bundle.input_size, 2 * count)
    inside, others = pixels[::2], pixels[1::2]
    others = others if len(others) else inside
    small = quantise(bundle, inside, Path(out))
    threads = settings.threads if threads is None else threads
    before, seconds_before = _embedded(load(bundle, "cpu", threads), others)
    after, seconds_after = _embedded(load(small, "cpu", threads), others)
    cosines = (before * after).sum(axis=1)
    return QuantisedModel(
        small,
        len(inside),
        len(others),
        float(cosines.mean()),
        float(cosines.min()),
        seconds_before / seconds_after,
    )


def _read(images: StrPath, size: tuple[int, int], count: int) -> NDArray[np.uint8]:
    """At most ``count`` images, evenly spread, uint8 [n, H, W, 3]; what cannot be read is passed over."""
    from siamese_search.io.decoding import BatchDecoder

    paths = [path for path in query_images(images) if isinstance(path, Path)]
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int))]
    with BatchDecoder(size, 2) as decoder, decoder.submit(chosen).result() as decoded:
        if not decoded.rows:
            raise DataError(
                f"{printable(str(images))}: none of {len(chosen)} images can be read; check the path"
            )
        return decoded.pixels.copy()


def _embedded(embedder: Embedder, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """Embeddings float32 [n, d], and the seconds that they took, the first batch aside."""
    embedder.embed(pixels[:8])
    started = time.perf_counter()
    vectors = embedder.embed(pixels)
    return vectors, max(time.perf_counter() - started, 1e-9)

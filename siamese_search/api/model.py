"""``sss.load_model()``: a model for those who want vectors and no gallery."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.embedding import BATCH, batches_of, embed_images
from siamese_search.errors import ImageError, UsageError
from siamese_search.workspace import StrPath, bundle_in_use, load, query_images, threads_in_use

if TYPE_CHECKING:
    from siamese_search.model.bundle import Bundle
    from siamese_search.model.embedder import Device, Embedder
    from siamese_search.workspace import Query


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
        self,
        images: Query | Iterable[Query],
        *,
        cameras: Sequence[str | None] | None = None,
        batch_size: int = BATCH,
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
            raise UsageError(
                f"{len(cameras)} cameras for {len(sources)} images: give one for each, None if unknown"
            )
        for found in embed_images(
            batches_of(range(len(sources)), batch_size),
            self._embedder,
            sources.__getitem__,
            camera_of=None if cameras is None else cameras.__getitem__,
        ):
            if found.failures:
                row, error = found.failures[0]
                raise (
                    error if len(sources) == 1 else ImageError(f"image {row + 1}: {error.path}", error.reason)
                )
            vectors.append(found.vectors)
        return np.concatenate(vectors)

    def __repr__(self) -> str:
        return f"<model {self.bundle.name!r}, {self.dim}-D, {self.fingerprint[:12]}>"


def load_model(model: StrPath | None = None, *, device: Device = "auto", threads: int | None = None) -> Model:
    """Load a model: a bundle's directory, or ``"bundled"`` for the one that comes along (default: the settings').

    device, threads: as for :func:`siamese_search.ingest`. Raises BundleError, MissingExtraError.
    """
    bundle = bundle_in_use(model)
    return Model(bundle, load(bundle, device, threads_in_use(threads)))

"""Teachers for distillation: precomputed embeddings (``.npz``), or a network that OpenVINO runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import ImageRecord
from siamese_search.errors import DataError, MissingExtraError, UsageError, printable
from siamese_search.io.files import atomic_path
from siamese_search.io.images import read_image

Progress = Callable[[int, int], None]


def teacher_vectors(
    path: Path, records: Sequence[ImageRecord], *, progress: Progress | None = None
) -> NDArray[np.float32]:
    """The teacher's embedding of every record, float32 [n, t], unit rows, in the order of ``records``.

    path: ``.npz`` with arrays ``keys`` (text; ``SOURCE/KEY`` where a run has several data sets) and ``vectors``
    [m, t]; or an OpenVINO IR ``.xml`` (its ``.bin`` beside it) or ``.onnx`` whose input is BGR 0–255, float
    [N, 3, H, W].
    Raises DataError for a missing key or a vector that is not finite, UsageError for another kind of file.
    """
    if not path.is_file():
        raise DataError(f"{printable(path)}: no such teacher file")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        vectors = _read_npz(path, records)
    elif suffix in (".xml", ".onnx"):
        vectors = _run_network(path, records, progress)
    else:
        raise UsageError(f"--teacher {printable(path)}: give an .npz, an OpenVINO .xml or an .onnx file")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms == 0).any():
        bad = records[int(np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))[0])]
        raise DataError(f"{printable(path)}: the teacher's vector of {bad.key} is zero or not finite")
    return np.asarray(vectors / norms, np.float32)


def save_vectors(path: Path, records: Sequence[ImageRecord], vectors: NDArray[np.float32]) -> None:
    """Write ``keys`` and ``vectors`` so that :func:`teacher_vectors` can read them again."""
    with atomic_path(path) as aside, aside.open("wb") as handle:
        np.savez(handle, keys=np.array([record.key for record in records]), vectors=vectors)


def _read_npz(path: Path, records: Sequence[ImageRecord]) -> NDArray[np.float32]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = [str(key) for key in archive["keys"]]
            vectors = np.asarray(archive["vectors"], np.float32)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{printable(path)}: not a teacher archive with keys and vectors: {error}") from None
    if vectors.ndim != 2 or len(vectors) != len(keys):
        raise DataError(f"{printable(path)}: {len(keys)} keys but vectors of shape {vectors.shape}")
    rows = {key: row for row, key in enumerate(keys)}
    missing = [record.key for record in records if record.key not in rows]
    if missing:
        raise DataError(
            f"{printable(path)}: no teacher vector for {len(missing)} images, the first is {missing[0]}"
        )
    return vectors[[rows[record.key] for record in records]]


def _run_network(
    path: Path, records: Sequence[ImageRecord], progress: Progress | None, batch: int = 32
) -> NDArray[np.float32]:
    try:
        import openvino
    except ModuleNotFoundError:
        raise MissingExtraError("a teacher network (.xml or .onnx)", "openvino") from None
    try:
        core: Any = openvino.Core()
        model = core.read_model(str(path))
        height, width = (int(model.inputs[0].partial_shape[axis].get_length()) for axis in (2, 3))
        model.reshape([-1, 3, height, width])
        run = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{printable(path)}: OpenVINO cannot load it as [N, 3, H, W]: {reason}") from None
    blocks = []
    for start in range(0, len(records), batch):
        images = np.stack([read_image(r.path, (height, width)) for r in records[start : start + batch]])
        pixels = np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2), dtype=np.float32)
        blocks.append(run(pixels)[0].reshape(len(images), -1).copy())
        if progress:
            progress(min(start + batch, len(records)), len(records))
    return np.concatenate(blocks).astype(np.float32)

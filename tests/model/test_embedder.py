from __future__ import annotations

import numpy as np
import pytest

from siamese_search.errors import UsageError
from siamese_search.model.bundle import Bundle, load_bundle
from siamese_search.model.embedder import OnnxEmbedder, load_embedder


def pictures(n: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth random images: networks see structure, not noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 8, 4, 3), dtype=np.uint8)
    return coarse.repeat(size[0] // 8, axis=1).repeat(size[1] // 4, axis=2)


@pytest.mark.parametrize("n", [0, 1, 33])
def test_shapes_and_unit_rows(tiny_bundle: Bundle, n: int) -> None:
    embedder = load_embedder(tiny_bundle, device="cpu", threads=1)
    out = embedder.embed(pictures(n, embedder.input_size))
    assert out.shape == (n, 32)
    assert out.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1.0, atol=1e-5)


def test_a_batch_gives_what_single_images_give(tiny_bundle: Bundle) -> None:
    """To the bit, however many threads: a run that goes on after a crash has other batches."""
    embedder = OnnxEmbedder(tiny_bundle, threads=1)
    images = pictures(41, embedder.input_size)
    alone = np.concatenate([embedder.embed(images[i : i + 1]) for i in range(41)])
    for threads in (1, 2, 3, 64):
        together = OnnxEmbedder(tiny_bundle, threads=threads).embed(images)
        assert together.tobytes() == alone.tobytes(), threads


def test_different_images_differ(tiny_bundle: Bundle) -> None:
    out = OnnxEmbedder(tiny_bundle, threads=1).embed(pictures(2, tiny_bundle.input_size))
    assert float(out[0] @ out[1]) < 0.99999


@pytest.mark.parametrize("which", ["tiny", "bundled"])
def test_onnx_and_torch_agree(which: str, tiny_bundle: Bundle) -> None:
    pytest.importorskip("torch")
    from siamese_search.model.torch_embedder import TorchEmbedder

    bundle = tiny_bundle if which == "tiny" else load_bundle()
    images = pictures(6, bundle.input_size, seed=3)
    a = OnnxEmbedder(bundle, threads=2).embed(images)
    b = TorchEmbedder(bundle, device="cpu").embed(images)
    assert float((a * b).sum(axis=1).min()) >= 0.999


def test_wrong_input_is_refused(tiny_bundle: Bundle) -> None:
    embedder = OnnxEmbedder(tiny_bundle, threads=1)
    with pytest.raises(ValueError, match="expected uint8"):
        embedder.embed(np.zeros((1, 32, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="expected uint8"):
        embedder.embed(np.zeros((1, 64, 32, 3), np.float32))  # type: ignore[arg-type]


def test_unknown_device_and_absent_cuda(tiny_bundle: Bundle) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(UsageError, match="unknown device"):
        load_embedder(tiny_bundle, device="tpu")  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA device"):
            load_embedder(tiny_bundle, device="cuda")
        assert isinstance(load_embedder(tiny_bundle, device="auto"), OnnxEmbedder)

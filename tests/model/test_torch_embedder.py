"""The torch embedder's slots and padding, on the CPU; on CUDA too where there is one."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from siamese_search.model.bundle import Bundle  # noqa: E402
from siamese_search.model.embedder import OnnxEmbedder  # noqa: E402
from siamese_search.model.torch_embedder import TorchEmbedder  # noqa: E402

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pictures(n: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 8, 4, 3), dtype=np.uint8)
    return coarse.repeat(size[0] // 8, axis=1).repeat(size[1] // 4, axis=2)


def least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum(axis=1).min())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("half", [False, True])
def test_batches_of_any_size_agree_with_onnx_runtime(tiny_bundle: Bundle, device: str, half: bool) -> None:
    embedder = TorchEmbedder(tiny_bundle, device=device, half=half)
    embedder.chunk = 4
    images = pictures(10, embedder.input_size)
    expected = OnnxEmbedder(tiny_bundle, threads=1).embed(images)
    for count in (1, 3, 4, 2, 5, 10, 0, 3):  # grown, padded, split, empty
        out = embedder.embed(images[:count])
        assert out.shape == (count, 32)
        assert out.dtype == np.float32
        if count:
            assert least_cosine(out, expected[:count]) >= 0.999


@pytest.mark.parametrize("device", DEVICES)
def test_more_batches_than_slots_may_be_under_way_and_their_pixels_overwritten(
    tiny_bundle: Bundle, device: str
) -> None:
    embedder = TorchEmbedder(tiny_bundle, device=device)
    images = pictures(40, embedder.input_size, seed=1)
    expected = OnnxEmbedder(tiny_bundle, threads=1).embed(images)
    buffer = np.empty_like(images[:8])
    under_way = []
    for start in range(0, 40, 8):
        buffer[:] = images[start : start + 8]
        under_way.append(embedder.begin(buffer))
        buffer[:] = 0
    order = [4, 0, 3, 1, 2]
    found = {index: under_way[index]() for index in order}
    for index in order:
        assert least_cosine(found[index], expected[8 * index : 8 * index + 8]) >= 0.999
        assert under_way[index]() is not None  # asked twice: the same again


def test_padding_is_not_seen(tiny_bundle: Bundle) -> None:
    """What was in the slot before a smaller batch does not change its vectors."""
    embedder = TorchEmbedder(tiny_bundle, device="cpu")
    images = pictures(8, embedder.input_size, seed=2)
    first = embedder.embed(images[:8])
    again = embedder.embed(images[:3])
    assert least_cosine(first[:3], again) > 0.99999


@pytest.mark.skipif("cuda" not in DEVICES, reason="no CUDA device")
def test_where_no_graph_can_be_recorded_kernels_are_launched_one_by_one(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("not permitted when stream is capturing")

    images = pictures(8, tiny_bundle.input_size, seed=3)
    expected = TorchEmbedder(tiny_bundle).embed(images)
    monkeypatch.setattr(torch.cuda, "graph", refuse)
    plain = TorchEmbedder(tiny_bundle)
    assert least_cosine(plain.embed(images), expected) > 0.9999
    assert plain._run == plain._forward

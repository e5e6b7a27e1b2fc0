from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from siamese_search.errors import MissingExtraError, UsageError
from siamese_search.model.bundle import Bundle, load_bundle
from siamese_search.model.embedder import Embedder, OnnxEmbedder, OpenVinoEmbedder, load_embedder

Engine = Literal["cpu", "openvino"]


@pytest.fixture(params=["cpu", "openvino"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine on CPU; what follows holds for all of them."""
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return request.param


def pictures(n: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth random images: networks see structure, not noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 8, 4, 3), dtype=np.uint8)
    return coarse.repeat(size[0] // 8, axis=1).repeat(size[1] // 4, axis=2)


@pytest.mark.parametrize("n", [0, 1, 33])
def test_shapes_and_unit_rows(tiny_bundle: Bundle, engine: Engine, n: int) -> None:
    embedder = load_embedder(tiny_bundle, device=engine, threads=1)
    out = embedder.embed(pictures(n, embedder.input_size))
    assert out.shape == (n, 32)
    assert out.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1.0, atol=1e-5)
    assert (embedder.fingerprint, embedder.dim) == (tiny_bundle.fingerprint, tiny_bundle.dim)


def test_a_batch_gives_what_single_images_give(tiny_bundle: Bundle, engine: Engine) -> None:
    """To the bit, however many threads: a run that goes on after a crash has other batches."""
    embedder = load_embedder(tiny_bundle, device=engine, threads=1)
    images = pictures(41, embedder.input_size)
    alone = np.concatenate([embedder.embed(images[i : i + 1]) for i in range(41)])
    for threads in (1, 2, 3, 64):
        together = load_embedder(tiny_bundle, device=engine, threads=threads).embed(images)
        assert together.tobytes() == alone.tobytes(), threads


def test_different_images_differ(tiny_bundle: Bundle, engine: Engine) -> None:
    out = load_embedder(tiny_bundle, device=engine, threads=1).embed(pictures(2, tiny_bundle.input_size))
    assert float(out[0] @ out[1]) < 0.99999


def test_the_pixels_may_be_overwritten_afterwards(tiny_bundle: Bundle, engine: Engine) -> None:
    """A decoder uses its buffer again at once; the rows of a part of an array need not lie together."""
    embedder = load_embedder(tiny_bundle, device=engine, threads=2)
    images = pictures(20, embedder.input_size, seed=5)
    expected = [embedder.embed(images[start : start + 5]) for start in range(0, 20, 5)]
    buffer = np.empty_like(images[:5])
    found = []
    for start in range(0, 20, 5):
        buffer[:] = images[start : start + 5]
        found.append(embedder.embed(buffer))
        buffer[:] = 0
    assert np.concatenate(found).tobytes() == np.concatenate(expected).tobytes()
    mirrored = embedder.embed(images[:, :, ::-1])
    assert mirrored.tobytes() == embedder.embed(np.ascontiguousarray(images[:, :, ::-1])).tobytes()


@pytest.mark.parametrize("which", ["tiny", "bundled"])
def test_onnx_and_torch_agree(which: str, tiny_bundle: Bundle) -> None:
    pytest.importorskip("torch")
    from siamese_search.model.torch_embedder import TorchEmbedder

    bundle = tiny_bundle if which == "tiny" else load_bundle()
    images = pictures(6, bundle.input_size, seed=3)
    a = OnnxEmbedder(bundle, threads=2).embed(images)
    b = TorchEmbedder(bundle, device="cpu").embed(images)
    assert float((a * b).sum(axis=1).min()) >= 0.999


@pytest.mark.parametrize(("half", "least"), [(False, 0.999), (True, 0.995)], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("which", ["tiny", "bundled"])
def test_openvino_agrees_with_onnx_runtime(which: str, half: bool, least: float, tiny_bundle: Bundle) -> None:
    """Their vectors may stand in one gallery. A processor without bfloat16 computes it in software."""
    pytest.importorskip("openvino")
    bundle = tiny_bundle if which == "tiny" else load_bundle()
    images = pictures(10, bundle.input_size, seed=3)
    a = OnnxEmbedder(bundle, threads=2).embed(images)
    b = OpenVinoEmbedder(bundle, threads=2, half=half).embed(images)
    assert float((a * b).sum(axis=1).min()) >= least


def test_openvino_does_not_run_int8_models(tiny_bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    small = Bundle(tiny_bundle.path, {**tiny_bundle.meta, "precision": "int8"})
    with pytest.raises(UsageError, match="use --device cpu"):
        load_embedder(small, device="openvino")


def test_openvino_that_is_not_installed_is_named(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"--device openvino needs the \[openvino\] extra"):
        load_embedder(tiny_bundle, device="openvino")
    assert isinstance(load_embedder(tiny_bundle, device="cpu"), OnnxEmbedder)


def test_wrong_input_is_refused(tiny_bundle: Bundle, engine: Engine) -> None:
    embedder: Embedder = load_embedder(tiny_bundle, device=engine, threads=1)
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


@pytest.mark.parametrize("home", ["home", "no directory"])
def test_an_engine_tells_nobody_of_its_runs(tiny_bundle: Bundle, engine: Engine, home: str, tmp_path: Path) -> None:
    """Both keep a number for the user and what they will send in HOME, and complain where they cannot."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "no directory").touch()
    told = ("CI", "TF_BUILD", "JENKINS_URL", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")
    code = f"""
import numpy as np
from siamese_search.model import bundle, embedder
one = embedder.load_embedder(bundle.load_bundle({str(tiny_bundle.path)!r}), device={engine!r}, threads=1)
one.embed(np.zeros((1, *one.input_size, 3), np.uint8))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "work",
        env={**{k: v for k, v in os.environ.items() if k not in told}, "HOME": str(tmp_path / home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not [*(tmp_path / "home").iterdir(), *(tmp_path / "work").iterdir()]

"""benchmarks/gpu.py from beginning to end, at a size for the CPU."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from siamese_search.model.bundle import load_bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Seven identities of a colour each, before two cameras; three of them held out."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    root.mkdir()
    for identity in range(1, 8):
        colour = rng.integers(30, 226, 3)
        for shot in range(4):
            name = f"{identity:04d}_c{1 + shot % 2}s1_{shot:06d}_00.jpg"
            pixels = (colour + rng.normal(0, 9, (32, 16, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name)
    (tmp_path / "heldout.txt").write_text("0002\n0005\n0007\n")
    return root


def run(data: Path, *options: str, expected: int = 0) -> tuple[dict, str]:
    place = data.parent
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", "--data", str(data), "--out", str(place / "out")]
    command += ["--heldout", str(place / "heldout.txt")]
    command += ["--work", str(place / "work"), "--measure", str(data), *options]
    # Without openvino, which nothing there needs.
    blocked = place / "blocked"
    blocked.mkdir(exist_ok=True)
    (blocked / "sitecustomize.py").write_text("import sys\nsys.modules['openvino'] = None\n")
    environment = {**os.environ, "PYTHONPATH": f"{blocked}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == expected, done.stdout + done.stderr
    return json.loads((place / "out" / "gpu.json").read_text()), done.stdout


@pytest.mark.slow
def test_one_command_measures_trains_and_goes_on(data: Path) -> None:
    out = data.parent / "out"
    # No minute for the training: it stops after its first step and still leaves a bundle.
    first, printed = run(data, "--parts", "train", "--minutes", "train=0")
    told = first["parts"]["train"]
    assert not told["finished"]
    assert told["epochs"] == 0
    assert "only 0 of the 3 epochs wanted" in printed
    assert load_bundle(out / "train").meta["training"]["unfinished"] is True

    second, _ = run(data, "--parts", "ingest,training,train", "--minutes", "train=5")
    assert {"device", "torch", "seconds"} <= second.keys()
    parts = second["parts"]
    assert parts["ingest"]["ratio"] > 0
    assert parts["ingest"]["images"] == 28
    assert parts["training"]["ratio"] > 0
    told = parts["train"]
    assert told["finished"]
    assert told["resumed"]
    bundle = load_bundle(out / "train")
    assert bundle.fingerprint == told["fingerprint"]
    assert bundle.heldout_identities == ["0002", "0005", "0007"]
    assert told["figures"]["heldout"]["identities"] == 3
    assert {"rank1", "mAP"} <= told["figures"][f"{data.parent.name}/images"].keys()
    files = [path for path in out.rglob("*") if path.is_file()]
    assert all(path.stat().st_size < 16_000_000 for path in files)
    assert all(len(path.relative_to(out).parts) <= 2 for path in files)
    assert len(files) <= 8

    third, printed = run(data, "--parts", "train")
    assert third["parts"]["train"]["fingerprint"] == told["fingerprint"]
    assert "only measured again" in printed


@pytest.mark.slow
def test_the_bundled_model_goes_on_imitating_a_teacher(data: Path, data_dir: Path) -> None:
    (teacher,) = (data_dir / "teacher").glob("*.xml")
    how = ("--teacher", str(teacher), "--parts", "imitate", "--epochs", "1")
    told = run(data, *how)[0]["parts"]["imitate"]
    assert (told["epochs"], told["images"]) == (1, 16)
    bundle = load_bundle(data.parent / "out" / "imitate")
    assert bundle.fingerprint == told["fingerprint"] != load_bundle().fingerprint
    assert bundle.heldout_identities == ["0002", "0005", "0007"]
    assert {"rank1", "mAP"} <= told["figures"]["heldout"].keys()
    again = run(data, *how)[0]["parts"]["imitate"]
    assert again["epochs"] == 1  # finished, only made anew


@pytest.mark.slow
def test_a_part_that_fails_stops_no_other(data: Path) -> None:
    (data.parent / "heldout.txt").write_text("9999\n")
    found, _ = run(data, "--parts", "training,train", expected=1)
    assert found["parts"]["training"]["ratio"] > 0
    assert "9999" in found["parts"]["train"]["error"]


@pytest.fixture(autouse=True)
def root_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def clock(end: float, epochs: int, seconds: list[float], **options: float):
    """A clock that has seen epochs of these lengths since now."""
    train = importlib.import_module("benchmarks.gpu_train")
    found = train.Clock(time.monotonic() + end, 120, lambda _: None, epochs=epochs, **options)
    began = time.monotonic() - sum(seconds)
    found._marks = [began + sum(seconds[:i]) for i in range(len(seconds))]
    found.epoch({"epoch": len(seconds), "loss": 1.0, "images_per_second": 1.0})
    return found


@pytest.mark.parametrize(
    ("end", "epochs", "seconds", "fit"),
    [
        (58.0, 60, [1.0, 1.0], 0),  # as planned
        (29.0, 60, [1.0, 1.0], 30),  # twice as slow as measured
        (290.0, 60, [1.0, 1.0], 120),  # much faster: as many as there may be
        (290.0, 60, [1.0, 1.0, 1.0], 0),  # a schedule is stretched only at its beginning
        (0.0, 60, [1.0, 1.0], 3),  # one more at least
    ],
)
def test_the_number_of_epochs_follows_the_rate(end, epochs, seconds, fit) -> None:
    found = clock(end, epochs, seconds)
    assert found.fit == pytest.approx(fit, abs=1)
    assert found.stop.is_set() == bool(fit)


def test_a_step_after_the_end_stops_the_run() -> None:
    found = clock(-5.0, 3, [1.0], grace=10.0, may_replan=False)
    found.step(None)
    assert not found.stop.is_set()
    found = clock(-15.0, 3, [1.0], grace=10.0, may_replan=False)
    found.step(None)
    assert found.out_of_time
    assert found.stop.is_set()

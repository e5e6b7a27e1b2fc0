"""What only a GPU can tell, in one command of at most eight minutes on one H100 or H200.

    python benchmarks/gpu.py --data IMAGES --heldout IDS.txt --teacher NETWORK.xml --out OUT
        [--measure DIR ...] [--parts tests,ingest,training,imitate,train] [--minutes imitate=5] [--work DIR] [--tiny]

tests      the tests that run on CUDA where there is one
ingest     ingest end to end ÷ the torch bf16 forward pass alone, of the bundled model
training   a step from labels ÷ forward and backward of a batch that lies on the device
imitate    what ships: the bundled model goes on learning its teacher from the inside (benchmarks/bundled.py --whole),
           for as many epochs as fit; the bundle is measured on the held-out identities and every --measure directory
train      only if asked for: from ImageNet's weights and labels, without a teacher, measured as the other

OUT gets gpu.json, tests.txt, history.jsonl, curves.png, imitate/ and train/, each file under 16 MB. Checkpoints stay in
--work (by default .gpu/work): the same command goes on from there, or measures again what is finished. A part that
fails is an "error" in gpu.json and stops no other part.

A machine without a network. Once, where there is one:

    python benchmarks/gpu.py --prepare .gpu --data IMAGES --init imagenet        # .gpu/init.safetensors, for train
    python -m pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \\
        -d .gpu/wheels qdrant-client qdrant-edge-py pytorch-metric-learning click
    cp -r IMAGES .gpu/images; cp IDS.txt NETWORK.* .gpu/; cp -r MEASURE .gpu/measure      # .gpu is ignored by git

Then there, and with ``--parts train --init .gpu/init.safetensors --minutes train=5`` in a second call:

    python -m pip install -q --no-index --no-deps --target /tmp/site .gpu/wheels/*.whl
    PYTHONPATH=/tmp/site:. PYTHONUNBUFFERED=1 python benchmarks/gpu.py --data .gpu/images --heldout .gpu/IDS.txt \\
        --teacher .gpu/NETWORK.xml --measure .gpu/measure --out $OUT
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Python puts this script's own directory first, where "ingest" would be benchmarks/ingest.py.
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks import gpu_train, ingest, training  # noqa: E402
from siamese_search.io.files import atomic_write_text  # noqa: E402
from siamese_search.model.bundle import Bundle, load_bundle  # noqa: E402
from siamese_search.model.embedder import load_embedder  # noqa: E402
from siamese_search.model.weights_file import load_network, save_bundle  # noqa: E402
from siamese_search.training import backbone  # noqa: E402
from siamese_search.training.config import TrainConfig, preset  # noqa: E402
from siamese_search.training.initial import initial_network  # noqa: E402

PARTS = ("tests", "ingest", "training", "imitate", "train")
MINUTES = {"tests": 1.0, "ingest": 0.8, "training": 0.7, "imitate": 5.0, "train": 5.0}
MOST_BYTES = 16_000_000
CUDA_TESTS = ("tests/model/test_torch_embedder.py", "tests/training/test_on_device.py")
RECIPE = preset("reid").with_options(
    height=256, width=128, erase=0.5, jitter=0.4, tint=0.2, zoom=0.25, grey=0.2, blur=0.1, detail=2.2, instance_mix=0.4,
    ema=0.999,
)  # fmt: skip
#: The same at a size that a CPU trains in seconds: it proves the script, and its figures mean nothing.
TINY = RECIPE.with_options(
    backbone="test_efficientnet", dim=16, height=32, width=16, batch_size=8, images_per_identity=2
)


def main() -> None:
    options = _options()
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {text}", flush=True)

    if options.prepare:
        gpu_train.prepare(_order(options), options.prepare, say)
        return
    backbone.RECORD = not options.eager
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {**gpu_train.device_facts(options.device), "tiny": options.tiny, "parts": {}}
    say(f"{result['device']}, torch {result['torch']}")
    total = 60 * sum(options.minutes[part] for part in options.parts)
    run: dict[str, Callable[[float], dict[str, Any]]] = {
        "tests": lambda seconds: run_tests(options, seconds),
        "ingest": lambda seconds: run_ingest(options, seconds),
        "training": lambda seconds: run_training(options, seconds),
        "imitate": lambda seconds: run_imitate(options, seconds - options.reserve, say),
        # What the others left is that of the last.
        "train": lambda _: run_train(options, total - (time.monotonic() - started), result, say),
    }
    for part in options.parts:
        began = time.monotonic()
        say(f"{part} …")
        try:
            told = run[part](60 * options.minutes[part])
        except Exception as error:
            traceback.print_exc()
            told = {"error": f"{type(error).__name__}: {error}"}
        told["seconds"] = round(time.monotonic() - began, 1)
        result["parts"][part] = told
        result["seconds"] = round(time.monotonic() - started, 1)
        atomic_write_text(options.out / "gpu.json", json.dumps(result, indent=1) + "\n")
        say(f"{part}: {_short(told)}")
    if any("error" in told for told in result["parts"].values()):
        raise SystemExit(1)


def run_tests(options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """The tests that need CUDA; their output goes to tests.txt."""
    command = [sys.executable, "-u", "-m", "pytest", "-p", "no:cacheprovider", *CUDA_TESTS]
    command += ["-k", "padding"] if options.tiny else []
    log = options.out / "tests.txt"
    with log.open("w") as handle:
        try:
            code = subprocess.run(
                command, cwd=ROOT, stdout=handle, stderr=subprocess.STDOUT, timeout=seconds, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {seconds:.0f} s, see tests.txt"}
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    told: dict[str, Any] = {"summary": lines[-1] if lines else "", "exit": code}
    return told if code == 0 else {**told, "error": "tests failed, see tests.txt"}


def run_ingest(options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Ingest end to end beside the forward pass, from memory and on the device, until the time is up."""
    until = time.monotonic() + 0.8 * seconds
    with tempfile.TemporaryDirectory() as scratch:
        bundle = _small_bundle(Path(scratch)) if options.tiny else load_bundle()
        root, count = ingest._linked(options.data, Path(scratch) / "images", 64 if options.tiny else 0)
        embedder = load_embedder(bundle, device=options.device)
        pixels = ingest._decoded(root, bundle.input_size, min(count, 2048))
        batch = 64 if options.tiny else 256
        on_device = _resident_forward(bundle, pixels[:batch], options.device)
        embedder.embed(pixels[:batch])
        rows: list[dict[str, float]] = []
        while not rows or (time.monotonic() < until and len(rows) < (1 if options.tiny else 5)):
            forward = ingest._forward(embedder, pixels, batch)
            summary = ingest._ingest(root, Path(scratch) / f"store{len(rows)}", bundle, embedder, 0, batch)
            rows.append({"forward": forward, "forward on the device": on_device(), "ingest": count / summary.seconds})
    medians = {name: round(statistics.median(row[name] for row in rows), 1) for name in rows[0]}
    return {
        "images": count,
        "images_per_second": medians,
        "ratio": statistics.median(row["ingest"] / row["forward"] for row in rows),
        "ratio_on_device": statistics.median(row["ingest"] / row["forward on the device"] for row in rows),
        "target": ingest.TARGET,
        "rounds": len(rows),
        "busy": {stage: round(summary.busy(stage), 3) for stage in summary.stages},
        "bottleneck": summary.bottleneck,
    }


def _resident_forward(bundle: Any, pixels: np.ndarray, device: str) -> Callable[[], float]:
    """Images/s of torch's own bf16 forward pass (float32 on CPU) of a batch that lies on the device."""
    network = load_network(bundle).eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = network.normalise(torch.from_numpy(pixels).to(device))
    cuda = torch.device(device).type == "cuda"
    steps = 30 if cuda else 1

    @torch.inference_mode()
    def run() -> float:
        for repeat in range(2):  # the first warms up
            began = time.perf_counter()
            for _ in range(steps):
                with torch.autocast("cuda" if cuda else "cpu", torch.bfloat16, enabled=cuda):
                    network.embed(images)
            if cuda:
                torch.cuda.synchronize()
            if repeat:
                return steps * len(pixels) / (time.perf_counter() - began)
        raise AssertionError

    return run


def _small_bundle(scratch: Path) -> Any:
    return save_bundle(initial_network(TINY, "none", print, weights=True), scratch / "bundle", {})


def run_training(options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """The trainer beside bare forward and backward; fewer rounds where the first tells that time is short."""
    config = _config(options)
    began = time.monotonic()
    steps, rounds = (1, 1) if options.tiny else (20, 2)
    told = training.measure(options.device, config, steps, rounds)
    once = time.monotonic() - began
    if not options.tiny and once < 0.4 * seconds:
        told = training.measure(options.device, config, steps, min(7, int(seconds / once)))
    return told


def run_imitate(options: argparse.Namespace, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Let the bundled model imitate its teacher on the device; what came of it."""
    run = options.work / "imitation"
    if options.teacher is None:
        raise ValueError("--teacher is missing")
    rounds = ["--epochs", str(options.epochs or (1 if options.tiny else 120)), "--seconds", str(seconds)]
    sizes = ["--batch", "4"] if options.tiny else ["--batch", "128", "--rate", "2"]
    held = ["--holdout-ids", str(options.heldout)] if options.heldout else []
    course = ["--whole", "--living", "--device", options.device, "--teacher", str(options.teacher), *rounds, *sizes]
    sys.path.insert(1, str(ROOT / "benchmarks"))
    from benchmarks import bundled

    bundled.main([str(options.data), *held, *course, "--out", str(run)])
    bundle = load_bundle(run)
    return _shipped(bundle, dict(bundle.meta["training"]), options.out / "imitate", options, say)


def run_train(
    options: argparse.Namespace, seconds: float, result: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """Train from labels, copy what came of it, measure it."""

    def rate() -> float:
        measured = result["parts"].get("training", {}).get("images_per_second", {}).get("trainer")
        if measured is None:
            measured = training.measure(options.device, _config(options), 1 if options.tiny else 10, 1)[
                "images_per_second"
            ]["trainer"]
        return float(measured)

    bundle, told = gpu_train.recipe_run(_order(options), seconds / 60, options.work, rate, say)
    for name in ("history.jsonl", "curves.png"):
        if (options.work / "run" / name).exists():
            shutil.copyfile(options.work / "run" / name, options.out / name)
    return _shipped(bundle, told, options.out / "train", options, say)


def _shipped(
    bundle: Bundle, told: dict[str, Any], out: Path, options: argparse.Namespace, say: Callable[[str], None]
) -> dict[str, Any]:
    """Copy a bundle to ``out`` and measure it."""
    out.mkdir(exist_ok=True)
    for path in bundle.path.glob("model.*"):
        shutil.copyfile(path, out / path.name)
    sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    told |= {"bundle": out.name, "fingerprint": bundle.fingerprint, "bytes": sizes, "figures": {}}
    atomic_write_text(options.out / "unmeasured.json", json.dumps(told, indent=1) + "\n")  # before anything can fail
    sets: dict[str, tuple[Path, list[str]]] = {}
    if bundle.heldout_identities:
        sets["heldout"] = (options.data, bundle.heldout_identities)
    sets |= {"/".join(path.resolve().parts[-2:]): (path, []) for path in options.measure}
    for name, (data, identities) in sets.items():
        try:
            told["figures"][name] = gpu_train.figures(bundle, data, identities)
        except Exception as error:
            told["figures"][name] = {"error": f"{type(error).__name__}: {error}"}
        say(f"{name}: {_short(told['figures'][name])}")
    (options.out / "unmeasured.json").unlink()  # gpu.json says it all
    large = [name for name, size in sizes.items() if size >= MOST_BYTES]
    return {**told, "error": f"over {MOST_BYTES} bytes: {', '.join(large)}"} if large else told


def _short(told: dict[str, Any]) -> str:
    shown = (
        "error",
        "summary",
        "ratio",
        "ratio_on_device",
        "ratio_recorded",
        "epochs",
        "finished",
        "rank1",
        "mAP",
        "seconds",
    )
    return ", ".join(
        f"{key} {told[key]:.3f}" if isinstance(told[key], float) else f"{key} {told[key]}"
        for key in shown
        if told.get(key) is not None
    )


def _config(options: argparse.Namespace) -> TrainConfig:
    return TINY if options.tiny else RECIPE


def _order(options: argparse.Namespace) -> gpu_train.Order:
    most = options.epochs or (3 if options.tiny else 120)
    return gpu_train.Order(
        options.data, options.heldout, options.init, _config(options), options.device, most, options.reserve,
        threads=1 if options.tiny else 0,
    )  # fmt: skip


def _minutes(text: str) -> dict[str, float]:
    found = dict(MINUTES)
    for entry in filter(None, text.split(",")):
        name, _, value = entry.partition("=")
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"{name!r} is no part: {', '.join(PARTS)}")
        found[name] = float(value)
    return found


def _parts(text: str) -> list[str]:
    asked = text.split(",")
    if wrong := [name for name in asked if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is no part: {', '.join(PARTS)}")
    return [part for part in PARTS if part in asked]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="labelled images")
    parser.add_argument("--heldout", type=Path, help="file of identities that training never sees")
    parser.add_argument("--teacher", type=Path, help="an .xml of OpenVINO's, its .bin beside it")
    parser.add_argument("--init", default="imagenet", help="of train: imagenet, none, or a file of weights")
    parser.add_argument("--out", type=Path, default=ROOT / ".gpu" / "out")
    parser.add_argument("--work", type=Path, default=ROOT / ".gpu" / "work", help="checkpoints, to go on from")
    parser.add_argument("--measure", type=Path, nargs="*", default=[], help="more sets to measure the bundle on")
    parser.add_argument("--parts", type=_parts, default=list(PARTS[:-1]))
    parser.add_argument("--minutes", type=_minutes, default=dict(MINUTES), metavar="PART=N,…")
    parser.add_argument("--epochs", type=int, default=0, help="at most (default: 120)")
    parser.add_argument("--reserve", type=float, default=45.0, help="seconds for the export and the figures")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--eager", action="store_true", help="record no CUDA graphs of the training step")
    parser.add_argument("--tiny", action="store_true", help="a very small network on the CPU: proves the script")
    parser.add_argument("--prepare", type=Path, metavar="DIR", help="only write what another machine needs")
    options = parser.parse_args()
    if options.tiny:
        options.device, options.reserve = "cpu", 0.0
        options.init = "none" if options.init == "imagenet" else options.init
    elif options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    return options


if __name__ == "__main__":
    main()

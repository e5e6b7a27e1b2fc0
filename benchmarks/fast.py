"""The model ``fast``: EfficientNet-Lite0 that does what the bundled EfficientNet-B0 does, in 8-bit integers.

    python benchmarks/fast.py train DATA --holdout-ids IDS.txt --out runs/fast   # resumes where it was stopped
    python benchmarks/fast.py int8 runs/fast DATA --holdout-ids IDS.txt --out runs/int8
    python benchmarks/fast.py measure runs/int8 --set DATA [--set DATA=IDS.txt]

Lite0 is B0 without squeeze-and-excite gates, with ReLU6 in place of SiLU. So it begins as B0: each gate becomes the
constant that it is on average, and channels that would go beyond 6 are made smaller and the weights behind them larger.
SiLU fades into ReLU6 over two epochs. It then learns to give the outputs of B0's stages and its embeddings, on
augmented views of which 40 % have the upper part of one person and the lower part of another; no label is looked at.
Normalisations keep B0's statistics. The first epochs see the images small, which costs a quarter.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from imitate import Imitation, Plan, Teacher, Views, calibrated, checkpoint, learn, lessons, load
from torch import Tensor, nn
from torch.nn import functional as F

import siamese_search as sss
from siamese_search.io.files import atomic_write_text
from siamese_search.model.bundle import Bundle, load_bundle
from siamese_search.model.embedder import OnnxEmbedder
from siamese_search.model.network import APNNetwork, stages
from siamese_search.model.weights_file import load_network, quantise
from siamese_search.training.backbone import trim

RESULTS = Path(__file__).resolve().parent / "results" / "fast.json"
BACKBONE = "tf_efficientnet_lite0"
PEAK, LATER, RAMP = 1e-3, 0.7, 2.0
#: Weights of the losses: outputs of the stages, embeddings, similarities within the batch.
WEIGHTS = (1.0, 10.0, 40.0)
#: What 99.9 % of a channel's activations stay below; they are cut off at 6.
REACH = 4.0


class Fading(nn.Module):
    """k · SiLU(x / k) that becomes ReLU6. k: float32 [c], by which the channels were made smaller."""

    done = 0.0
    k: Tensor

    def __init__(self, k: Tensor) -> None:
        super().__init__()
        self.register_buffer("k", k[None, :, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        limited = F.relu6(x)
        if Fading.done >= 1.0:
            return limited
        return Fading.done * limited + (1.0 - Fading.done) * self.k * F.silu(x / self.k)


def hooked(modules: dict[str, nn.Module], seen: dict[str, list[Tensor]], statistic: Any) -> list[Any]:
    """Hooks that keep a statistic of what each module gives."""

    def keep(name: str) -> Any:
        return lambda _module, _inputs, output: seen.setdefault(name, []).append(statistic(output.float()))

    return [module.register_forward_hook(keep(name)) for name, module in modules.items()]


def average(teacher: APNNetwork, views: Views, names: list[str], statistic: Any, batches: int) -> dict[str, Tensor]:
    """The mean over some batches of a statistic of these modules' outputs."""
    modules, seen = dict(teacher.named_modules()), dict[str, list[Tensor]]()
    hooks = hooked({name: modules[name] for name in names}, seen, statistic)
    with torch.no_grad():
        for _ in range(batches):
            teacher.embed(teacher.normalise(views.some()))
    for hook in hooks:
        hook.remove()
    return {name: torch.stack(values).mean(0) for name, values in seen.items()}


def begun(student: APNNetwork, teacher: APNNetwork, views: Views) -> dict[str, Tensor]:
    """Give the student the teacher's weights; by how much each normalisation's channels were made smaller."""
    state = {name: value.clone() for name, value in teacher.state_dict().items() if name in student.state_dict()}
    gates = [name for name, _ in teacher.named_modules() if name.endswith(".se.gate")]
    for name, mean in average(teacher, views, gates, lambda x: x.mean((0, 2, 3)), 16).items():
        block = name.removesuffix(".se.gate")
        behind = f"{block}.conv_pwl.weight"
        state[behind if behind in state else f"{block}.conv_pw.weight"] *= mean[None, :, None, None]
    student.load_state_dict(state)
    pairs = {"backbone.bn1": "backbone.blocks.0.0.conv_dw", "backbone.blocks.0.0.bn1": "backbone.blocks.0.0.conv_pw"}
    for name, _ in student.named_modules():
        if name.endswith(".conv_pwl"):
            block = name.removesuffix(".conv_pwl")
            pairs |= {f"{block}.bn1": f"{block}.conv_dw", f"{block}.bn2": f"{block}.conv_pwl"}
    pairs["backbone.bn2"] = "embedding"

    def reach(x: Tensor) -> Tensor:
        return torch.quantile(x.transpose(0, 1).flatten(1)[:, ::7], 0.999, dim=1)

    modules: dict[str, Any] = dict(student.named_modules())
    scales: dict[str, Tensor] = {}
    for name, top in average(teacher, views, list(pairs), reach, 8).items():
        scales[name] = k = (REACH / top.clamp(min=1e-3)).clamp(max=1.0)
        weight = modules[pairs[name]].weight
        with torch.no_grad():
            modules[name].weight.mul_(k)
            modules[name].bias.mul_(k)
            shape = (-1, *(1,) * (weight.ndim - 1)) if weight.ndim == 4 and weight.shape[1] == 1 else (1, -1)
            weight.div_(k.view(*shape, *(1,) * (weight.ndim - len(shape))))
    return scales


def fade(student: APNNetwork, scales: dict[str, Tensor]) -> None:
    """Let the student's activations be :class:`Fading`."""
    for name, module in student.named_modules():
        if isinstance(getattr(module, "act", None), nn.ReLU6):
            module.act = Fading(scales.get(name, torch.ones(int(module.num_features))))  # type: ignore[arg-type]


def rate(at: float, small: int, epochs: int) -> float:
    """The learning rate at a fractional epoch: constant while images are small, then half a cosine to zero."""
    first = 0 if at < small else small
    warm = min(1.0, (at - first) / 0.15 + 0.02)
    if at < small:
        return PEAK * warm
    return PEAK * LATER * warm * 0.5 * (1.0 + math.cos(math.pi * (at - small) / (epochs - small)))


def bundled() -> APNNetwork:
    """The bundled network, to ask."""
    network: APNNetwork = load_network(load_bundle("bundled"))
    return network.eval().requires_grad_(False)


def teacher(small: int) -> Teacher:
    """The bundled network and the outputs of its stages; in the first ``small`` epochs it sees the images small."""
    network = bundled()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trim(network)
    outputs: list[Tensor] = []
    for stage in stages(network.backbone):
        stage.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))

    def answer(views: Tensor, epoch: int) -> tuple[Tensor, list[Tensor]]:
        outputs.clear()
        inputs = network.normalise(views)
        embeddings = network(F.avg_pool2d(inputs, 2) if epoch < small else inputs)[1]
        return embeddings, list(outputs)

    return answer


def train(data: Path, ids: Path | None, out: Path, small: int, epochs: int) -> None:
    """A run into ``out``, to its end."""
    images, split = load(data, ids)
    model = bundled()
    torch.manual_seed(0)
    student = APNNetwork(replace(model.spec, backbone=BACKBONE))
    saved = checkpoint(out)
    scales = saved["scales"] if saved else begun(student, model, Views(images, (1,)))
    fade(student, scales)
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trim(student)

    def further(at: float) -> None:
        Fading.done = min(1.0, at / RAMP)

    watched = stages(student.backbone)
    adapters = nn.ModuleList(nn.Identity() for _ in watched)
    speed = partial(rate, small=small, epochs=epochs)
    imitation = Imitation(student, watched, adapters, nn.Identity(), WEIGHTS, speed, prepare=further)
    course = partial(lessons, teacher, (small,), (data, ids))
    about = {"init": "bundled", "teacher": "bundled"}
    learn(imitation, course, split, out, Plan(epochs, small=small), about=about, kept={"scales": scales})


def measure(bundle: Bundle, sets: list[str]) -> dict[str, Any]:
    """Its accuracy beside that of the bundled model, and its speed as a ratio, in one run on one thread."""
    models = {"bundled": load_bundle("bundled"), "fast": bundle}
    found: dict[str, Any] = {"fingerprint": bundle.fingerprint, "sets": {}}
    for given in sets:
        place, _, ids = given.partition("=")
        key = "/".join(Path(place).resolve().parts[-2:]) + (f" {Path(ids).stem}" if ids else "")
        row = found["sets"][key] = {}
        for name, one in models.items():
            figures = sss.evaluate(place, model=one.path, identities=ids or None, device="cpu").to_json()
            row[name] = {"rank1": figures["rank1"], "mAP": figures["mAP"]}
            print(f"{key:<36} {name:<8} {figures['rank1']:6.1%} / {figures['mAP']:6.1%}", flush=True)
    pixels = np.random.default_rng(0).integers(0, 256, (64, *bundle.input_size, 3), dtype=np.uint8)
    runs = {name: OnnxEmbedder(one, threads=1) for name, one in models.items()}
    best = dict.fromkeys(runs, math.inf)
    for _ in range(8):
        for name, run in runs.items():
            started = time.process_time()
            run.embed(pixels)
            best[name] = min(best[name], (time.process_time() - started) / len(pixels) * 1e3)
    found["milliseconds"], found["speed"] = best, best["bundled"] / best["fast"]
    print(
        f"{best['bundled']:.2f} ms and {best['fast']:.2f} ms an image on one core: {found['speed']:.2f} times as fast"
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    learn, small, look = (parts.add_parser(name) for name in ("train", "int8", "measure"))
    learn.add_argument("data", type=Path)
    learn.add_argument("--small", type=int, default=4, help="epochs of small images before the others")
    learn.add_argument("--epochs", type=int, default=11, help="of both")
    small.add_argument("bundle")
    small.add_argument("data", type=Path, help="its first 256 images by chance set the ranges of activations")
    for one in (learn, small):
        one.add_argument("--holdout-ids", type=Path, metavar="IDS")
        one.add_argument("--out", type=Path, required=True)
    look.add_argument("bundle")
    look.add_argument("--set", action="append", required=True, dest="sets", metavar="DATA[=IDS]")
    look.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.part == "train":
        train(given.data, given.holdout_ids, given.out, given.small, given.epochs)
    elif given.part == "int8":
        images, split = load(given.data, given.holdout_ids)
        chosen = np.random.default_rng(0).permutation(len(images.records))[:256]
        made = quantise(load_bundle(given.bundle), images.get(chosen), given.out)
        if split.held:
            calibrated(made, split.held, given.data)
    else:
        found = measure(load_bundle(given.bundle), given.sets)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(given.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

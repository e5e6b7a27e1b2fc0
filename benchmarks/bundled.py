"""The bundled model: EfficientNet-B0 learns to do what its teacher does, from the inside.

    python benchmarks/bundled.py DATA --teacher person-reidentification-retail-0277.xml --init runs/before
        --holdout-ids IDS.txt --out runs/bundled      # resumes where it was stopped

An embedding is one answer of 256 numbers about an image; the maps behind it are thousands, place by place. So a layer
of each of three depths learns to give, through a linear map, what the teacher has there (Romero et al., "FitNets",
ICLR 2015), beside the teacher's embeddings and similarities. The linear maps begin as the best ones for the student as
it is. Stem and first two stages stay as they are; with ``--whole``, for a GPU, they learn too, and the teacher answers
in torch on the same device. At the end the normalisations get the statistics of the images, the function staying the
same, and it is calibrated on the held-out people.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from imitate import (
    BATCH,
    Imitation,
    Lesson,
    Plan,
    Teacher,
    Views,
    calibrated,
    checkpoint,
    learn,
    lessons,
    lessons_there,
    load,
)
from ir import IRNetwork
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_search.model.bundle import load_bundle
from siamese_search.model.network import APNNetwork
from siamese_search.model.weights_file import load_network
from siamese_search.training.backbone import trim
from siamese_search.training.data import LabelledImages

#: The teacher's maps [256, 32, 16], [384, 16, 8] and [512, 16, 8], the last one made as small as the student's.
MAPS = ("754", "941", "1126")
PEAK, WARM = 4e-4, 0.18
#: Weights of the losses: maps, embeddings, similarities within the batch.
WEIGHTS = (2.0, 10.0, 80.0)


def teacher(path: str, precision: str = "bf16") -> Teacher:
    """The teacher by OpenVINO, on one core."""
    import openvino

    core: Any = openvino.Core()
    model = core.read_model(path)
    model.reshape([BATCH, 3, 256, 128])
    named = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    model.add_outputs([named[name].output(0) for name in MAPS])
    options = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
    request = core.compile_model(model, "CPU", options).create_infer_request()

    def answer(views: Tensor, _epoch: int) -> tuple[Tensor, list[Tensor]]:
        request.infer([np.ascontiguousarray(_asked(views).numpy())])
        return _answered([torch.from_numpy(np.array(request.get_output_tensor(i).data, np.float32)) for i in range(4)])

    return answer


def teacher_there(path: str, device: str) -> Teacher:
    """The teacher in torch, on a device."""
    network = IRNetwork(path, MAPS).to(device)
    return lambda views, _epoch: _answered(network(_asked(views)))


def _asked(views: Tensor) -> Tensor:
    """What the teacher takes, float32 [n, 3, 256, 128] in blue, green, red."""
    return F.interpolate(views.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear").flip(1)


def _answered(outputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    return outputs[0].flatten(1), [*outputs[1:-1], F.avg_pool2d(outputs[-1], 2)]


def ridge(x: Tensor, y: Tensor, amount: float) -> tuple[Tensor, Tensor, float]:
    """The linear map from x [m, c] to y [m, t]: its matrix [t, c], offset [t], and the share that it leaves."""
    mean, offset = x.mean(0), y.mean(0)
    x, y = x - mean, y - offset
    penalty = amount * len(x) * x.var(0).mean() * torch.eye(x.shape[1], device=x.device)
    matrix = torch.linalg.solve(x.T @ x + penalty, x.T @ y)
    left = float(((x @ matrix - y) ** 2).mean() / y.var(0).mean())
    return matrix.T, offset - mean @ matrix, left


@torch.no_grad()
def fit(imitation: Imitation, asked: Teacher, views: Views, batches: int = 24) -> None:
    """Give adapters and projection the best linear maps for the student as it is."""
    rng = np.random.default_rng(0)
    pairs: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(len(imitation.adapters) + 1)]
    for _ in range(batches):
        pixels = views.some()
        lesson = Lesson(pixels, *asked(pixels, 0))
        maps, embeddings = imitation.look(lesson, 0, 0)
        for kept, own, wanted in zip(pairs, maps, lesson.maps, strict=False):
            places = [one.permute(0, 2, 3, 1).flatten(0, 2) for one in (own, wanted)]
            chosen = torch.from_numpy(rng.permutation(len(places[0]))[:1000]).to(own.device)
            kept.append((places[0][chosen], places[1][chosen]))
        pairs[-1].append((embeddings, F.normalize(lesson.embeddings, dim=1)))
    heads: list[Any] = [*imitation.adapters, imitation.projection]
    for head, kept in zip(heads, pairs, strict=True):
        x, y = (torch.cat(side) for side in zip(*kept, strict=True))
        matrix, offset, left = ridge(x, y, 0.03 if head is imitation.projection else 0.01)
        head.weight.copy_(matrix.view(head.weight.shape))
        head.bias.copy_(offset)
        print(f"{x.shape[1]} to {y.shape[1]} channels: {left:.2f} of the variance is left", flush=True)


@torch.no_grad()
def own_statistics(network: APNNetwork, images: LabelledImages, batches: int = 62) -> None:
    """Let a network's normalisations hold the statistics that these images really have, and centre its embeddings.

    They stood still while it learned. ``sss adapt`` and any training renew them, and would begin with another function.
    Those that look at each image's own statistics stay.
    """
    plain = {name: one for name, one in network.named_modules() if isinstance(one, (nn.BatchNorm1d, nn.BatchNorm2d))}
    norms: list[Any] = [one for one in plain.values() if type(one).__module__.startswith(("torch.", "timm."))]
    sums = [torch.zeros(3, one.num_features, dtype=torch.float64) for one in norms]

    def hook(total: Tensor) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def add(_module: nn.Module, inputs: tuple[Tensor]) -> None:
            x = inputs[0].double().transpose(0, 1).flatten(1)
            total.add_(torch.stack((torch.full((len(x),), float(x.shape[1])), x.sum(1), (x * x).sum(1))))

        return add

    hooks = [one.register_forward_pre_hook(hook(total)) for one, total in zip(norms, sums, strict=True)]
    chosen = np.random.default_rng(0).permutation(len(images.records))[: batches * BATCH]
    for start in range(0, len(chosen), BATCH):
        network(network.normalise(torch.from_numpy(images.get(chosen[start : start + BATCH])).float()))
    for one in hooks:
        one.remove()
    for one, (count, first, second) in zip(norms, sums, strict=True):
        mean = first / count
        variance = (second / count - mean * mean).clamp(min=1e-12)
        before = (one.running_var.double() + one.eps).sqrt()
        weight = one.weight.double()
        one.bias.copy_(one.bias.double() + weight * (mean - one.running_mean.double()) / before)
        one.weight.copy_(weight * (variance + one.eps).sqrt() / before)
        one.running_mean.copy_(mean)
        one.running_var.copy_(variance)
    neck: Any = network.neck
    neck.bias.zero_()  # embeddings have no mean, as a training's have none


def rate(at: float, epochs: int, peak: float) -> float:
    """The learning rate at a fractional epoch: half a cosine."""
    return peak * min(1.0, at / WARM + 0.02) * 0.5 * (1.0 + math.cos(math.pi * at / epochs))


def train(given: argparse.Namespace, ask: Callable[..., Teacher] = teacher) -> None:
    """A run into ``given.out``, to its end; calibrated where people were held out.

    ask: makes the teacher of a process of its own.
    """
    images, split = load(given.data, given.holdout_ids)
    before: APNNetwork = load_network(load_bundle(given.init))
    student = APNNetwork(replace(before.spec, instance_mix_later=given.mix_later or before.spec.instance_mix_later))
    student.load_state_dict(before.state_dict())
    backbone: Any = student.backbone
    student.to(given.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trim(student)
    for module in () if given.whole else (backbone.conv_stem, backbone.bn1, backbone.blocks[0], backbone.blocks[1]):
        module.requires_grad_(False)
    adapters = nn.ModuleList(nn.Conv2d(*shape, 1) for shape in ((40, 256), (112, 384), (1280, 512)))
    watched = [backbone.blocks[2], backbone.blocks[4], backbone.bn2]
    speed = partial(rate, epochs=given.epochs, peak=PEAK * given.rate)
    later = ((backbone,) if given.whole else (backbone.blocks[2:], backbone.bn2)) if given.living else ()
    living = [one for stage in later for one in stage.modules() if isinstance(one, nn.BatchNorm2d)]
    projection = nn.Linear(student.spec.dim, 256)
    adapters.to(given.device)
    imitation = Imitation(student, watched, adapters, projection.to(given.device), WEIGHTS, speed, 3.0, living=living)
    if given.whole:
        own = teacher_there(str(given.teacher), given.device)
        course = partial(lessons_there, own, images, given.device, given.batch)
    else:
        own = ask(str(given.teacher))
        course = partial(lessons, ask, (str(given.teacher),), (given.data, given.holdout_ids))
    if not checkpoint(given.out):
        fit(imitation, own, Views(images, (1,), given.device, given.batch))
    about = {"init": str(given.init), "teacher": given.teacher.name}
    plan = Plan(given.epochs, given.seconds, batch=given.batch)
    learn(imitation, course, split, given.out, plan, about=about, finish=partial(own_statistics, images=images))
    if split.held:
        calibrated(load_bundle(given.out), split.held, given.data)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--init", default="bundled", help="the bundle to begin with")
    parser.add_argument("--holdout-ids", type=Path, metavar="IDS")
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--rate", type=float, default=1.0, help="times the usual learning rate")
    parser.add_argument("--living", action="store_true", help="normalisations go by the batch, as in a later training")
    parser.add_argument("--mix-later", type=float, default=0.0, help="as --instance-mix-later of sss train")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--whole", action="store_true", help="all of it learns, beside the teacher in torch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: only with --whole")
    parser.add_argument("--batch", type=int, default=BATCH, help="with --whole")
    parser.add_argument("--seconds", type=float, default=math.inf, help="at most; the schedule ends with them")
    train(parser.parse_args(arguments))


if __name__ == "__main__":
    main()

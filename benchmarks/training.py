"""Training throughput: the whole trainer beside the bare forward and backward pass of the same network.

    python benchmarks/training.py [--device cpu|cuda|all] [--batch 64] [--size 256x128] [--threads 2]

``trainer`` is a step of the ``reid`` recipe as ``sss train`` runs it: P×K batches from pixels in memory,
augmentation, losses, gradient clipping, optimiser. ``bare`` is forward and backward, in the same precision and
memory format, of a batch that already lies normalised on the device. ``with step`` adds clipping and optimiser to it,
so that the rest (pixels, augmentation, losses) can be told from it. ``bare recorded``, on a GPU, is ``bare`` as CUDA
graphs, as the trainer runs the network there. Images are random: their content costs nothing.
The three take turns, several times, in one process; the table shows medians. Prints it, and writes
benchmarks/results/training.json. Targets, as a ratio trainer ÷ bare: 0.90 on CPU, 0.85 on GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siamese_search.io.files import atomic_write_text
from siamese_search.model.network import APNNetwork, NetworkSpec
from siamese_search.training.backbone import Passes
from siamese_search.training.config import TrainConfig, preset
from siamese_search.training.data import moved
from siamese_search.training.trainer import Trainer

RESULTS = Path(__file__).resolve().parent / "results" / "training.json"
TARGETS = {"cpu": 0.90, "cuda": 0.85}
IDENTITIES, IMAGES_EACH = 256, 8


class Resident:
    """Decoded images in memory, as :class:`~siamese_search.training.data.PixelSource` holds them."""

    def __init__(self, count: int, height: int, width: int) -> None:
        self._pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        self._on_device: torch.Tensor | None = None

    def get(self, indices: np.ndarray) -> np.ndarray:
        chosen: np.ndarray = self._pixels[indices]
        return chosen

    def get_tensor(self, indices: np.ndarray, device: torch.device) -> torch.Tensor:
        if device.type == "cpu":
            return torch.from_numpy(self.get(indices))
        if self._on_device is None:
            self._on_device = torch.from_numpy(self._pixels).to(device)
        return self._on_device[moved(torch.from_numpy(indices), device)]


def make_trainer(config: TrainConfig, device: str) -> Trainer:
    """A trainer of the recipe on random images: the network is the recipe's own, with random weights."""
    torch.manual_seed(0)
    network = APNNetwork(
        NetworkSpec(
            config.backbone, config.dim, config.height, config.width, config.pool, config.neck, config.last_stride
        )
    )
    labels = np.repeat(np.arange(IDENTITIES), IMAGES_EACH)
    images = Resident(len(labels), config.height, config.width)
    return Trainer(network, config, images, labels, device=device)


def trainer_steps(trainer: Trainer) -> Callable[[int], int]:
    """What takes a number of the trainer's own steps and returns how many images they saw."""

    def run(steps: int) -> int:
        seen, left = 0, steps

        def enough() -> bool:
            nonlocal left
            left -= 1
            return left == 0

        while left > 0:
            before = trainer.progress.images
            if trainer.train_epoch(should_stop=enough):
                seen += trainer.progress.images - before
                trainer.finish_epoch()
            else:
                seen += trainer.progress.images - before
        return seen

    return run


def bare_steps(trainer: Trainer, *, with_step: bool, record: bool = False) -> Callable[[int], int]:
    """What runs forward and backward of a resident batch a number of times, with the optimiser or without.

    The network is a copy: its batch is always the same, and would spoil the statistics of the trained one.
    record: as CUDA graphs, as the trainer has them.
    """
    config, device = trainer.config, trainer.device
    network = APNNetwork(trainer.network.spec).train()
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)
    raw = trainer.images.get(np.arange(config.batch_size))
    inputs = network.normalise(torch.from_numpy(raw).to(device))
    passes = Passes(network, device, record=record)

    def run(steps: int) -> int:
        for _ in range(steps):
            features, necked = passes(inputs)
            optimizer.zero_grad(set_to_none=True)
            (features.float().mean() + necked.float().square().mean()).backward()
            if with_step:
                torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip)
                optimizer.step()
        return steps * config.batch_size

    return run


def rates(
    ways: dict[str, Callable[[int], int]], steps: int, rounds: int, synchronise: Callable[[], None]
) -> dict[str, list[float]]:
    """Images/s of each way in each round. The order turns round: whoever comes first finds a colder machine."""
    for way in ways.values():  # kernels are chosen and memory is taken before the clock starts
        way(2)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for names in orders(list(ways), rounds):
        for name in names:
            synchronise()
            began = time.perf_counter()
            images = ways[name](steps)
            synchronise()
            found[name].append(images / (time.perf_counter() - began))
    return found


def orders(names: list[str], rounds: int) -> Iterator[list[str]]:
    for number in range(rounds):
        turn = number % len(names)
        yield names[turn:] + names[:turn]


def measure(device: str, config: TrainConfig, steps: int, rounds: int) -> dict[str, Any]:
    trainer = make_trainer(config, device)
    ways = {
        "trainer": trainer_steps(trainer),
        "bare": bare_steps(trainer, with_step=False),
        "with step": bare_steps(trainer, with_step=True),
    }
    if device == "cuda":
        ways["bare recorded"] = bare_steps(trainer, with_step=False, record=True)
    found = rates(ways, steps, rounds, torch.cuda.synchronize if device == "cuda" else lambda: None)
    per_round = {
        other: [a / b for a, b in zip(found["trainer"], found[other], strict=True)]
        for other in ways
        if other != "trainer"
    }
    return {
        "device": device_name(device),
        "kind": device,
        "precision": "bf16" if device == "cuda" else "float32",
        "threads": torch.get_num_threads(),
        "batch": config.batch_size,
        "input": [config.height, config.width],
        "backbone": config.backbone,
        "steps": steps,
        "rounds": rounds,
        "images_per_second": {name: statistics.median(values) for name, values in found.items()},
        # Neighbours in time, so that a machine that is busy now and then does not tilt the scales.
        "ratio": statistics.median(per_round["bare"]),
        "ratio_with_step": statistics.median(per_round["with step"]),
        "ratio_recorded": statistics.median(per_round["bare recorded"]) if device == "cuda" else None,
        "ratios": per_round["bare"],
        "target": TARGETS[device],
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
    }


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = "CPU"
    return f"{model}, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda", "all"), default="all", help="all that is there")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", default="256x128", metavar="HxW")
    parser.add_argument("--backbone", default="efficientnet_b0")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch its own number")
    parser.add_argument("--steps", type=int, default=0, help="per turn; by default 2 on CPU, 20 on GPU")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    height, width = (int(side) for side in asked.size.split("x"))
    config = preset("reid").with_options(backbone=asked.backbone, height=height, width=width, batch_size=asked.batch)
    there = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    devices = there if asked.device == "all" else [asked.device]
    rows = [measure(device, config, asked.steps or (20 if device == "cuda" else 2), asked.rounds) for device in devices]
    print(f"{asked.backbone}, {asked.size}, batch {asked.batch}; images/s")
    print(f"{'device':<44}{'trainer':>9}{'bare':>9}{'ratio':>8}{'target':>8}{'bare with step':>16}{'ratio':>8}")
    for row in rows:
        speed = row["images_per_second"]
        print(
            f"{row['device'][:42]:<44}{speed['trainer']:>9.1f}{speed['bare']:>9.1f}{row['ratio']:>8.3f}"
            f"{row['target']:>8.2f}{speed['with step']:>16.1f}{row['ratio_with_step']:>8.3f}"
        )
    atomic_write_text(asked.out, json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

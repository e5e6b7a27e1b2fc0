"""Stages of a run: training small first and finishing large (progressive resizing), as one schedule (Touvron et al.,
"Fixing the train-test resolution discrepancy", 2019): most is learned at half the size, at a quarter of the cost.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from siamese_search.errors import UsageError
from siamese_search.model import simple_cnn
from siamese_search.training.config import TrainConfig

_STAGE = re.compile(r"(\d{1,4})x(\d{1,4}):(\d{1,4})")

#: Epochs of linear warm-up at the beginning of every stage but the first: only the pixels are new.
RESTART_WARMUP = 0.1


@dataclass(frozen=True, slots=True)
class Stage:
    """The epochs ``first`` … ``last``-1 of a run, at one input size; ``lr`` is the peak of its learning rate."""

    height: int
    width: int
    first: int
    last: int
    lr: float
    warmup: float  # in epochs

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    def learning_rate(self, epoch: float, schedule: str) -> float:
        """At a fractional epoch of the run: linear warm-up, then constant or half a cosine to zero."""
        length, done = self.last - self.first, epoch - self.first
        warmup = min(self.warmup, length / 2)
        if done < warmup:
            return self.lr * (0.01 + 0.99 * done / warmup)
        if schedule == "constant":
            return self.lr
        share = (done - warmup) / max(length - warmup, 1e-9)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))


def stages(config: TrainConfig) -> list[Stage]:
    """The stages of a run in order; one, unless ``config.sizes`` names smaller sizes to begin at.

    Raises UsageError where ``sizes`` cannot be read or leaves no epoch for the full size.
    """
    if config.sizes and config.backbone == simple_cnn.NAME:
        raise UsageError(f"--sizes: {simple_cnn.NAME} is made for one size, leave it out")
    found: list[Stage] = []
    first = 0
    for text in filter(None, (part.strip() for part in re.split("[+,]", config.sizes))):
        match = _STAGE.fullmatch(text)
        if not match:
            raise UsageError(f"--sizes: {text!r} is not HEIGHTxWIDTH:EPOCHS, as in 128x64:20+192x96:2")
        height, width, epochs = (int(number) for number in match.groups())
        if height < 8 or width < 8 or epochs < 1:
            raise UsageError(f"--sizes: {text!r}: at least 8x8 pixels and 1 epoch")
        found.append(_stage(config, (height, width), first, first + epochs))
        first += epochs
    if first >= config.epochs:
        raise UsageError(
            f"--sizes: {first} epochs at smaller sizes leave none of --epochs {config.epochs} "
            f"for {config.height}x{config.width}"
        )
    return [*found, _stage(config, (config.height, config.width), first, config.epochs)]


def _stage(config: TrainConfig, size: tuple[int, int], first: int, last: int) -> Stage:
    if first == 0:
        return Stage(*size, first, last, config.lr, config.warmup_epochs)
    return Stage(*size, first, last, config.lr * config.restart, RESTART_WARMUP)


def stage_at(config: TrainConfig, epoch: float) -> Stage:
    """The stage that epoch ``epoch`` (0 …, may be fractional) is in; past the end, the last."""
    found = stages(config)
    return next((stage for stage in found if epoch < stage.last), found[-1])

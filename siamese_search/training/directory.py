"""A run's directory: begun once, resumed from its checkpoint, refused where it already holds something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from siamese_search.errors import TrainingError, UsageError, printable
from siamese_search.model.bundle import META_NAME
from siamese_search.training.checkpoint import CHECKPOINT_NAME, load_checkpoint
from siamese_search.training.history import read_history, write_history
from siamese_search.training.loop import Reporter
from siamese_search.training.trainer import Progress, Trainer

RUN_NAME = "run.json"


def refuse_used(out: Path) -> None:
    """Raise TrainingError where the directory already holds a run or a model."""
    for name, advice in (
        (RUN_NAME, f"continue it with --resume {printable(out)}"),
        (META_NAME, "keep it"),
    ):
        if (out / name).exists():
            raise TrainingError(f"{printable(out)}: already holds a run: {advice}, or choose another --out")


def restore(trainer: Trainer, out: Path, reporter: Reporter) -> list[dict[str, Any]]:
    """Put the trainer where the run's checkpoint was; returns the rows of its history."""
    path = out / CHECKPOINT_NAME
    if not path.exists():
        raise TrainingError(
            f"{printable(out)}: stopped before its first checkpoint: nothing to resume, start again in another --out"
        )
    state = load_checkpoint(path, trainer.modules, trainer.optimizer)
    trainer.progress = Progress(**state["progress"])
    if trainer.ranks.first and len(read_history(out)) != len(state["rows"]):
        write_history(out, state["rows"])
    reporter.message(f"resuming at epoch {trainer.progress.epoch + 1}, step {trainer.progress.step}")
    rows: list[dict[str, Any]] = state["rows"]
    return rows


def training_device(name: str) -> str:
    """The device that ``auto`` means here. Raises UsageError for one that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch sees no CUDA device here; use --device cpu")
    if name != "cpu" and not name.startswith("cuda"):
        raise UsageError(f"unknown device {name!r}: use auto, cpu or cuda")
    return name

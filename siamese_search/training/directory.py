"""A run's directory: begun once, resumed from its checkpoint, refused where it already holds something."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from siamese_search._version import __version__
from siamese_search.datasets.records import Failure
from siamese_search.errors import TrainingError, UsageError, printable
from siamese_search.io.files import atomic_write_text, check_output
from siamese_search.model.bundle import META_NAME
from siamese_search.training.checkpoint import CHECKPOINT_NAME, load_checkpoint, read_history, write_history
from siamese_search.training.loop import Reporter
from siamese_search.training.options import kind_of
from siamese_search.training.trainer import Progress, Trainer

RUN_NAME = "run.json"

Asked = TypeVar("Asked")


def refuse_used(out: Path) -> None:
    """Raise TrainingError where the directory already holds a run or a model, or cannot be written."""
    try:
        check_output(out, directory=True)
    except OSError as error:
        raise TrainingError(f"{printable(out)}: cannot be written: {error.strerror or error}") from None
    for name, advice in (
        (RUN_NAME, f"continue it with --resume {printable(out)}"),
        (META_NAME, "keep it"),
    ):
        if (out / name).exists():
            raise TrainingError(f"{printable(out)}: already holds a run: {advice}, or choose another --out")


def asked_before(out: Path, request_of: Callable[[dict[str, Any]], Asked]) -> Asked:
    """What an unfinished run was started with: what ``request_of`` makes of its ``run.json``.

    Raises TrainingError where there is none, where it cannot be read, and where the run is finished.
    """
    path = out / RUN_NAME
    try:
        request = request_of(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise TrainingError(
            f"{printable(out)}: no run to resume, {RUN_NAME} is missing: check the directory"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{printable(path)}: cannot be read ({error}): start again in another --out"
        ) from None
    if (out / META_NAME).exists():
        raise TrainingError(f"{printable(out)}: this run is finished: use it with --model {printable(out)}")
    return request


def start_directory(out: Path, saved: dict[str, Any]) -> None:
    """Write ``run.json``: the options of the run, and which images it learns from."""
    out.mkdir(parents=True, exist_ok=True)
    init = str(saved["init"])
    place = str(Path(init).resolve()) if kind_of(init) in ("file", "bundle") else init
    document = {"version": __version__, **saved, "init": place}
    atomic_write_text(out / RUN_NAME, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def learned_before(out: Path) -> dict[str, Any] | None:
    """What the run in ``out`` began to learn from, as :func:`start_directory` was told under ``train``."""
    learned: dict[str, Any] | None = json.loads((out / RUN_NAME).read_text(encoding="utf-8")).get("train")
    return learned


def data_changed(out: Path, changes: str = "") -> TrainingError:
    return TrainingError(
        f"{printable(out)}: the data have changed since this run began{changes}; restore them, or begin another run"
        " (--init takes over its weights)"
    )


def tell_failed(failed: Sequence[Failure], reporter: Reporter) -> None:
    """Say which images cannot be read, if any."""
    if failed:
        reporter.message(
            f"{len(failed)} images cannot be read and are left out, the first: {failed[0].path}: {failed[0].reason}"
        )


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

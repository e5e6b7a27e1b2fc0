"""The epochs of a run: training, validation on the held-out identities, checkpoints, history."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from siamese_search.datasets.records import ImageRecord
from siamese_search.training.checkpoint import (
    CHECKPOINT_NAME,
    load_checkpoint,
    save_checkpoint,
    write_history,
)
from siamese_search.training.config import TrainConfig
from siamese_search.training.pixels import PixelSource
from siamese_search.training.schedule import stage_at
from siamese_search.training.trainer import StepReport, Trainer
from siamese_search.training.validate import validate

BEST_NAME = "best.safetensors"


class Reporter(Protocol):
    """How a run tells what it does. Every method may be called often; none may block."""

    def message(self, text: str) -> None: ...

    def decoding(self, done: int, total: int, what: str) -> None: ...

    def step(self, report: StepReport) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None: ...


class Silent:
    """A reporter that says nothing."""

    def message(self, text: str) -> None: ...

    def decoding(self, done: int, total: int, what: str) -> None: ...

    def step(self, report: StepReport) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None: ...


@dataclass
class Loop:
    """The epochs of one run in directory ``out``: each trained, validated, saved and told to ``reporter``."""

    out: Path
    config: TrainConfig
    trainer: Trainer
    reporter: Reporter
    stop: threading.Event
    rows: list[dict[str, Any]]
    held_records: Sequence[ImageRecord]
    held: PixelSource | None  # the pixels of held_records
    pixels: PixelSource  # the training images

    def epochs(self) -> None:
        config, trainer = self.config, self.trainer
        while not self.finished():
            self._enter_stage()
            if not trainer.train_epoch(self.reporter.step, self.stop.is_set, self.save):
                self.save()
                raise KeyboardInterrupt
            row: dict[str, Any] = {**trainer.finish_epoch()}
            row["epoch"] = int(row["epoch"])
            row.update(self.figures())
            last = row["epoch"] == config.epochs
            if self.held and (last or (config.validate_every and row["epoch"] % config.validate_every == 0)):
                row.update(trainer.ranks.agree(self.validate() if trainer.ranks.first else {}))
                if row["mAP"] > trainer.progress.best.get("mAP", -1.0):
                    trainer.progress.best = {key: row[key] for key in ("epoch", "rank1", "mAP")}
                    if trainer.ranks.first:
                        save_checkpoint(
                            self.out / BEST_NAME,
                            {"network": trainer.result},
                            None,
                            trainer.progress.best,
                        )
            self.rows.append(row)
            # The checkpoint first: a history that runs ahead of it would be cut back by a resume.
            self.save()
            if trainer.ranks.first:
                write_history(self.out, self.rows)
            self.reporter.epoch(row)

    def finished(self) -> bool:
        """Whether there is no further epoch to train."""
        return self.trainer.progress.epoch >= self.config.epochs

    def figures(self) -> dict[str, Any]:
        """What the row of an epoch holds beside the trainer's own figures."""
        return {}

    def _enter_stage(self) -> None:
        """At the first step of a stage of another size: its pixels, and an optimiser without the former's moments."""
        progress = self.trainer.progress
        stage = stage_at(self.config, progress.epoch)
        if progress.epoch == stage.first > 0 and progress.step == 0:
            self.trainer.optimizer.state.clear()  # images of another size have gradients of another scale
        if stage.size == self.pixels.size:
            return
        self.reporter.message(
            f"epochs {stage.first + 1} to {stage.last} at {stage.height}×{stage.width}, peak learning rate {stage.lr:g}"
        )
        self.pixels.resize(stage.size, progress=self._reading("reading training images"))
        if self.held:
            self.held.resize(stage.size, progress=self._reading("reading held-out images"))

    def _reading(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self.reporter.decoding(done, total, what)

    def save(self) -> None:
        self.trainer.check_finite()
        if not self.trainer.ranks.first:
            return
        state = {"progress": asdict(self.trainer.progress), "rows": self.rows}
        save_checkpoint(self.out / CHECKPOINT_NAME, self.trainer.modules, self.trainer.optimizer, state)

    def validate(self) -> dict[str, float]:
        """Figures of the weights that would become the bundle, on the held-out identities."""
        assert self.held is not None
        found = validate(
            self.trainer.result, self.held_records, self.held, str(self.trainer.device), self.config
        )
        row = {"rank1": _clean(found.metrics.rank1), "mAP": _clean(found.metrics.mAP)}
        if found.loss is not None:
            row["val_loss"] = _clean(found.loss.loss)
            row["val_triplet_accuracy"] = _clean(found.loss.accuracy)
        return row

    def final_metrics(self) -> dict[str, float]:
        """The figures of the weights that are kept, after loading the best where ``keep`` says so."""
        if not self.held:
            return {}
        best = self.trainer.progress.best
        if self.config.keep == "best" and best:
            load_checkpoint(self.out / BEST_NAME, {"network": self.trainer.result}, None)
            return {"rank1": best["rank1"], "mAP": best["mAP"], "epoch": best["epoch"]}
        if not self.rows or "mAP" not in self.rows[-1]:
            return {}
        return {key: self.rows[-1][key] for key in ("rank1", "mAP", "epoch")}


def _clean(value: float) -> float:
    return float(value) if math.isfinite(value) else 0.0

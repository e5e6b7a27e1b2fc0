"""What a training run shows on stderr: a live bar per stage, and one line for every finished epoch."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from siamese_search.cli.progress import Bar

if TYPE_CHECKING:
    from siamese_search.training.trainer import StepReport


class TrainScreen:
    """The reporter that ``sss train`` hands to the trainer (:class:`siamese_search.training.run.Reporter`)."""

    def __init__(self, stop: threading.Event, epochs: int | None) -> None:
        """stop: raises KeyboardInterrupt while images are read. epochs: how many there will be, if known."""
        self._stop = stop
        self._stage = ""
        self._bar: Bar | None = None
        self._epochs = epochs or 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def message(self, text: str) -> None:
        self._close()
        Bar("", "").note(text)

    def decoding(self, done: int, total: int, what: str) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt  # nothing has been trained yet that would have to be saved
        self._open(what, "images").update(done, total)

    def step(self, report: StepReport) -> None:
        bar = self._open("training", "batches", batch_start=report.epoch * report.steps + report.step - 1)
        words = (
            f"epoch {report.epoch + 1}/{self._epochs or '?'}  loss {report.loss:.3f}"
            f"  triplets {report.accuracy:.1%}  {report.images_per_second:.0f} images/s"
        )
        total = self._epochs * report.steps if self._epochs else None
        bar.update(report.epoch * report.steps + report.step, total, extra=words)

    def epoch(self, row: dict[str, Any]) -> None:
        line = f"epoch {row['epoch']:>3}" + (f"/{self._epochs}" if self._epochs else "")
        line += f"  loss {row['loss']:.4f}  triplet accuracy {row['triplet_accuracy']:6.1%}"
        if "mAP" in row:
            line += "  held out:"
            if "val_loss" in row:
                line += f" loss {row['val_loss']:.4f}  triplet accuracy {row['val_triplet_accuracy']:6.1%} "
            line += f" rank-1 {row['rank1']:6.1%}  mAP {row['mAP']:6.1%}"
        line += f"  {row['images_per_second']:.0f} images/s"
        (self._bar or Bar("", "")).note(line)

    def _open(self, stage: str, unit: str, *, batch_start: int = 0) -> Bar:
        if self._bar is None or self._stage != stage:
            self._close()
            self._stage = stage
            self._bar = Bar(stage, unit, start=max(batch_start, 0))
        return self._bar

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

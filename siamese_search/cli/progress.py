"""Progress on stderr: a live bar with rate and ETA on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from siamese_search.cli.output import console, note
from siamese_search.errors import amount, printable
from siamese_search.io.resources import Closing
from siamese_search.render.marks import decimal

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from siamese_search.training.run import Reporter
    from siamese_search.training.sweep.record import SweepRun
    from siamese_search.training.trainer import StepReport


#: Seconds between two progress lines where there is no terminal.
LINE_SECONDS = 15.0


class Bar(Closing):
    """``with Bar("ingest", "images") as bar: bar.update(done, total)``. Drawn from the first update to the end."""

    def __init__(self, title: str, unit: str, *, start: int = 0) -> None:
        """start: what was done before this bar began; it does not count for the rate."""
        self._title, self._unit, self._start = title, unit, start
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._started = self._spoke = time.monotonic()

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def note(self, message: str) -> None:
        """One line that stays, above the bar where there is one."""
        if self._bar is None:
            note(message)
        else:
            self._bar.console.print(printable(message), soft_wrap=True)

    def update(self, done: int, total: int | None, *, rate: float | None = None, extra: str = "") -> None:
        """Show ``done`` of ``total`` (``None``: unknown) and a few words. rate: per second; by default the mean."""
        now = time.monotonic()
        if rate is None:
            rate = (done - self._start) / max(now - self._started, 1e-3)
        if sys.stderr.isatty():
            self._draw(done, total, rate, extra)
        elif now - self._spoke >= LINE_SECONDS:
            self._spoke = now
            words = [f"{done}{'' if total is None else f' of {total}'} {self._unit}", f"{_rate(rate)}/s"]
            if total is not None and total > done and rate > 0:
                words.append(f"{_duration((total - done) / rate)} left")
            note(f"{self._title}: {', '.join(words + [extra] * bool(extra))}")

    def _draw(self, done: int, total: int | None, rate: float, extra: str) -> None:
        if self._bar is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}", markup=False),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[extra]}", markup=False),
                console=console(stderr=True),
                transient=True,
                refresh_per_second=8,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=total, rate="", extra="")
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total, rate=f"{_rate(rate)} {self._unit}/s", extra=extra)


def _rate(per_second: float) -> str:
    """Whole numbers, but a decimal where a batch takes long: 0.4, not 0."""
    return f"{per_second:.1f}" if per_second < 10 else f"{per_second:,.0f}"


def _duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``: as precise as an estimate deserves."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class TrainScreen(Closing):
    """The reporter that ``sss train`` hands to the trainer (:class:`siamese_search.training.run.Reporter`)."""

    def __init__(self, stop: threading.Event, epochs: int | None) -> None:
        """stop: raises KeyboardInterrupt while images are read. epochs: how many there will be, if known."""
        self._stop, self._epochs = stop, epochs or 0
        self._stage = ""
        self._bar: Bar | None = None

    def message(self, text: str) -> None:
        self.close()
        Bar("", "").note(text)

    def decoding(self, done: int, total: int, what: str) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt  # nothing has been trained yet that would have to be saved
        self._open(what, "images").update(done, total)

    def step(self, report: StepReport) -> None:
        done = report.epoch * report.steps + report.step
        words = (
            f"epoch {report.epoch + 1}/{self._epochs or '?'}  loss {report.loss:.3f}"
            f"  triplets {report.accuracy:.1%}  {report.images_per_second:.0f} images/s"
        )
        bar = self._open("training", "batches", start=done - 1)
        bar.update(done, self._epochs * report.steps or None, extra=words)

    def epoch(self, row: dict[str, Any]) -> None:
        line = f"epoch {row['epoch']:>3}" + (f"/{self._epochs}" if self._epochs else "")
        line += f"  loss {row['loss']:.4f}  triplet accuracy {row['triplet_accuracy']:6.1%}"
        if "mAP" in row:
            line += "  held out:"
            if "val_loss" in row:
                line += f" loss {row['val_loss']:.4f}  triplet accuracy {row['val_triplet_accuracy']:6.1%} "
            line += f" rank-1 {row['rank1']:6.1%}  mAP {row['mAP']:6.1%}"
        if "clusters" in row:
            line += f"  {amount(row['clusters'], 'cluster')}, {amount(row['singles'], 'single image')}"
            names = {"agreement": "agreement", "purity": "purity", "ari": "ARI"}
            line += "".join(f", {name} {row[key]:.1%}" for key, name in names.items() if key in row)
        line += f"  {row['images_per_second']:.0f} images/s"
        (self._bar or Bar("", "")).note(line)

    def _open(self, stage: str, unit: str, *, start: int = 0) -> Bar:
        if self._bar is None or self._stage != stage:
            self.close()
            self._stage, self._bar = stage, Bar(stage, unit, start=max(start, 0))
        return self._bar

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class SweepScreen(Closing):
    """The reporter that ``sss sweep`` hands over (:class:`siamese_search.training.sweep.run.SweepReporter`)."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._screen: TrainScreen | None = None  # of the run in hand

    def close(self) -> None:
        if self._screen is not None:
            self._screen.close()

    def begin(self, run: SweepRun, number: int, total: int) -> Reporter:
        note(f"run {number} of {total}: {run.name}")
        self._screen = TrainScreen(self._stop, run.point.config.epochs)
        return self._screen

    def end(self, run: SweepRun) -> None:
        self.close()
        told, found = f"failed: {run.reason}", run.figures
        if found is not None:
            told = f"rank-1 {found.rank1:.1%}, mAP {found.mAP:.1%}, AUC {decimal(found.auc)}"
        note(f"{run.name}: {told}")

"""What a sweep shows on stderr: which run it is at, that run's own progress, and its figures when it ends."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from siamese_search.cli.output import note
from siamese_search.cli.progress import Bar
from siamese_search.cli.train_screen import TrainScreen

if TYPE_CHECKING:
    from siamese_search.training.run import Reporter
    from siamese_search.training.sweep_record import SweepRun


class SweepScreen:
    """The reporter that ``sss sweep`` hands over (:class:`siamese_search.training.sweep.SweepReporter`)."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._shown = ExitStack()  # the screen of the run in hand
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.close()

    def begin(self, run: SweepRun, number: int, total: int) -> Reporter:
        self._shown.close()
        note(f"run {number} of {total}: {run.name}")
        return self._shown.enter_context(TrainScreen(self._stop, run.point.config.epochs))

    def measuring(self, done: int, total: int) -> None:
        if self._bar is None:
            self._shown.close()  # the training's bar
            self._bar = self._shown.enter_context(Bar("measuring", "images"))
        self._bar.update(done, total)

    def end(self, run: SweepRun) -> None:
        self._shown.close()
        self._bar = None
        found = run.figures
        if found is None:
            note(f"{run.name}: failed: {run.reason}")
        else:
            auc = "n/a" if found.auc is None else f"{found.auc:.4f}"
            note(f"{run.name}: rank-1 {found.rank1:.1%}, mAP {found.mAP:.1%}, AUC {auc}")

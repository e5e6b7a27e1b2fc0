"""Progress on stderr: a live bar with rate and ETA on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from siamese_search.cli.output import note
from siamese_search.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

#: Seconds between two progress lines where there is no terminal.
LINE_SECONDS = 15.0


class Bar:
    """``with Bar("ingest", "images") as bar: bar.update(done, total)``.

    Nothing is drawn before the first update, and the bar disappears at the end: what stays on the screen
    is the answer.
    """

    def __init__(self, title: str, unit: str, *, start: int = 0) -> None:
        """start: what was done before this bar began; it does not count for the rate."""
        self._title = title
        self._start = start
        self._unit = unit
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._started = time.monotonic()
        self._spoke = self._started

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
        """Show ``done`` of ``total`` (``None`` while it is unknown), and a few words more.

        rate: per second; by default the mean since the beginning.
        """
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

            from siamese_search.cli.output import console

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
        self._bar.update(
            self._task,
            completed=done,
            total=total,
            rate=f"{_rate(rate)} {self._unit}/s",
            extra=extra,
        )


def _rate(per_second: float) -> str:
    """Whole numbers, but a decimal where a batch takes long: 0.4, not 0."""
    return f"{per_second:.1f}" if per_second < 10 else f"{per_second:,.0f}"


def _duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``: as precise as an estimate deserves."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"

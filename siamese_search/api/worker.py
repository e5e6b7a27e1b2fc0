"""The verb of the ingest worker, which stands in a package of its own; ProgressBar: how far any verb is, by tqdm.

It is a widget in a notebook, a line of text in a script.
"""

from __future__ import annotations

from typing import Any

from ingest.run import ingest as ingest
from ingest.summary import IngestSummary as IngestSummary
from ingest.summary import Progress
from siamese_search.io.resources import Closing


class ProgressBar(Closing):
    """``sss.ingest("photos/", progress=sss.ProgressBar())``; for trainings ``reporter=sss.ProgressBar()``.

    Takes what any verb says of its progress, a bar for each stage. ``with`` closes the last one, whatever happens.
    """

    def __init__(self, **options: Any) -> None:
        """options: of ``tqdm.auto.tqdm``, such as ``leave=False``."""
        self._options = options
        self._bar: Any = None
        self._stage: str | None = None

    def __call__(self, *moment: Any) -> None:
        if isinstance(moment[0], Progress):
            self._show("ingest", moment[0].done, moment[0].total)
            return
        stage, *counts = moment if isinstance(moment[0], str) else ("", *moment)
        done, total = counts if len(counts) == 2 else (0, None)
        self._show(stage, done, total)

    def message(self, text: str) -> None:
        from tqdm.auto import tqdm

        tqdm.write(text)

    def decoding(self, done: int, total: int, what: str) -> None:
        self._show(what, done, total)

    def step(self, report: Any) -> None:
        """report: a :class:`siamese_search.training.trainer.StepReport`."""
        self._show(f"epoch {report.epoch + 1}", report.step, report.steps, "batch")
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{report.loss:.3f}", triplets=f"{report.accuracy:.1%}")

    def epoch(self, row: dict[str, Any]) -> None:
        del row  # the last step has said it

    def close(self) -> None:
        """Take the bar down as it stands."""
        if self._bar is not None:
            self._bar.close()
        self._bar = self._stage = None

    def _show(self, stage: str, done: int, total: int | None, unit: str = "image") -> None:
        if stage != self._stage:
            self.close()
        if self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(desc=stage or None, total=total, unit=unit, **self._options)
            self._stage = stage
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        if total is not None and done >= total:
            self._bar.refresh()

"""A training that is stopped in the middle."""

from __future__ import annotations

import threading

from siamese_search.training.loop import Silent


class StopAfter(Silent):
    """Asks the run to stop after some batches, as Ctrl-C does."""

    def __init__(self, steps: int) -> None:
        self.stop = threading.Event()
        self.left = steps

    def step(self, report: object) -> None:  # noqa: ARG002
        self.left -= 1
        if self.left == 0:
            self.stop.set()

"""Feed and Source: planned work as a stream that Ray Data reads, while the planning goes on.

A data set of Ray Data knows all of its input when it starts; here the input is still being found out. So one read
task, on the driver's machine, asks an actor beside it for unit after unit and waits where there is none yet. A unit
stays with the feed until the driver has its outcome: whatever is lost on the way can be read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata


class Feed:
    """Units that have been planned and not been settled. An actor; all calls are quick, or wait in its event loop."""

    def __init__(self) -> None:
        self._units: dict[int, bytes] = {}
        self._begun: dict[int, int] = {}
        self._next = 0
        self._ended = False
        self._changed = asyncio.Condition()
        self._halted = asyncio.Event()

    async def put(self, unit: int, work: bytes) -> None:
        """The next unit: they come as 0, 1, 2, …"""
        async with self._changed:
            self._units[unit] = work
            self._next = unit + 1
            self._changed.notify_all()

    async def end(self) -> None:
        """No further units will come."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def halt(self) -> None:
        """End, and tell the workers to leave what they have not begun."""
        self._units.clear()
        self._halted.set()
        await self.end()

    async def settle(self, unit: int) -> None:
        """The driver has the outcome."""
        self._units.pop(unit, None)
        self._begun.pop(unit, None)

    async def get(self, unit: int) -> tuple[int, bytes] | None:
        """The first unit from this one on that is not settled, once there is one; ``None`` after the last."""
        async with self._changed:
            while True:
                for number in range(unit, self._next):
                    if number in self._units:
                        return number, self._units[number]
                if self._ended:
                    return None
                unit = max(unit, self._next)
                await self._changed.wait()

    async def begin(self, unit: int) -> int:
        """A worker begins with it: for the how many-th time that is."""
        self._begun[unit] = self._begun.get(unit, 0) + 1
        return self._begun[unit]

    async def halted(self) -> None:
        """Returns when :meth:`halt` is called."""
        await self._halted.wait()


class Source(Datasource):  # type: ignore[misc]
    """The feed as a source of Ray Data: a row, in a block of its own, per unit."""

    def __init__(self, feed: Any) -> None:
        super().__init__()
        self._feed = feed

    def get_name(self) -> str:
        return "Feed"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:  # noqa: ARG002
        return [ReadTask(_reader(self._feed), BlockMetadata(None, None, None, None))]


def _reader(feed: Any) -> Callable[[], Iterator[Any]]:
    def read() -> Iterator[Any]:
        import pyarrow as pa

        unit = 0
        while (found := ray.get(feed.get.remote(unit))) is not None:
            unit, work = found
            yield pa.table({"unit": pa.array([unit], pa.int64()), "work": pa.array([work], pa.binary())})
            unit += 1

    return read

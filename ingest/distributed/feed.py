"""Feed and Source: planned work as a stream that Ray Data reads, while the planning goes on.

A data set of Ray Data knows all of its input when it starts; here the input is still being found out. So one read
task, on the driver's machine, asks an actor beside it for unit after unit and waits where there is none yet. A unit
stays with the feed until the driver has its outcome: whatever is lost on the way can be read again.

Calls to an actor with an event loop are carried out in any order. So nothing here depends on one: a reader goes by the
place at which a unit arrived, and an end says how many units there are.
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
        self._arrived: list[int] = []  # units, in the order in which they came
        self._begun: dict[int, int] = {}
        self._total: int | None = None
        self._changed = asyncio.Condition()
        self._halted = asyncio.Event()

    async def put(self, unit: int, work: bytes) -> None:
        """A unit, once."""
        async with self._changed:
            self._units[unit] = work
            self._arrived.append(unit)
            self._changed.notify_all()

    async def end(self, units: int | None = None) -> None:
        """There are so many units, which may still be on their way; ``None``: as many as have come."""
        async with self._changed:
            self._total = len(self._arrived) if units is None else units
            self._changed.notify_all()

    async def halt(self) -> None:
        """End, and tell the workers to leave what they have not begun."""
        self._halted.set()
        await self.end()

    async def settle(self, unit: int) -> None:
        """The driver has the outcome."""
        self._units.pop(unit, None)
        self._begun.pop(unit, None)

    async def get(self, place: int) -> tuple[int, int, bytes] | None:
        """The first unit that is not settled, of those that came at this place or later: its place, number and work.

        Waits until there is one; ``None`` after the last.
        """
        async with self._changed:
            while not self._halted.is_set():
                for at in range(place, len(self._arrived)):
                    unit = self._arrived[at]
                    if unit in self._units:
                        return at, unit, self._units[unit]
                place = max(place, len(self._arrived))
                if self._total is not None and len(self._arrived) >= self._total:
                    return None
                await self._changed.wait()
        return None

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

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:  # noqa: ARG002
        return [ReadTask(_reader(self._feed), BlockMetadata(None, None, None, None))]


def _reader(feed: Any) -> Callable[[], Iterator[Any]]:
    def read() -> Iterator[Any]:
        import pyarrow as pa

        place = 0
        while (found := ray.get(feed.get.remote(place))) is not None:
            place, unit, work = found
            yield pa.table({"unit": pa.array([unit], pa.int64()), "work": pa.array([work], pa.binary())})
            place += 1

    return read

"""The feed's promises, asked directly; its place inside Ray Data is tested in test_pipeline.py."""

import asyncio
import itertools

import pytest

pytest.importorskip("ray.data")

from ingest.distributed.feed import Feed


def test_units_come_in_order_and_an_end_is_an_end():
    async def scene():
        feed = Feed()
        await feed.put(0, b"a")
        await feed.put(1, b"b")
        assert await feed.get(0) == (0, 0, b"a")
        assert await feed.get(1) == (1, 1, b"b")
        waiting = asyncio.create_task(feed.get(2))
        await asyncio.sleep(0)
        assert not waiting.done()
        await feed.put(2, b"c")
        assert await waiting == (2, 2, b"c")
        await feed.end()
        assert await feed.get(3) is None

    asyncio.run(scene())


def test_what_is_not_settled_is_read_again_from_the_start():
    async def scene():
        feed = Feed()
        for unit in range(5):
            await feed.put(unit, b"%d" % unit)
        await feed.end()
        for unit in (0, 1, 3):
            await feed.settle(unit)
        assert await feed.get(0) == (2, 2, b"2")
        assert await feed.get(3) == (4, 4, b"4")
        assert await feed.get(5) is None

    asyncio.run(scene())


def test_a_halt_ends_it_and_tells_who_waits_for_it():
    async def scene():
        feed = Feed()
        await feed.put(0, b"a")
        told = asyncio.create_task(feed.halted())
        asked = asyncio.create_task(feed.get(1))
        await asyncio.sleep(0)
        assert not told.done()
        await feed.halt()
        assert await asked is None
        await told
        assert await feed.get(0) is None

    asyncio.run(scene())


def test_it_counts_how_often_a_unit_was_begun():
    async def scene():
        feed = Feed()
        assert [await feed.begin(4) for _ in range(3)] == [1, 2, 3]
        assert await feed.begin(5) == 1

    asyncio.run(scene())


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_whatever_order_the_calls_arrive_in_a_reader_sees_each_unit_once(order):
    """The fourth call is the end. An actor with an event loop carries calls out in any order."""

    async def read(feed):
        seen, place = [], 0
        while (found := await feed.get(place)) is not None:
            place, unit, _ = found
            seen.append(unit)
            place += 1
        return seen

    async def scene():
        feed = Feed()
        reader = asyncio.create_task(read(feed))
        for call in order:
            await (feed.end(3) if call == 3 else feed.put(call, b""))
            for _ in range(3):
                await asyncio.sleep(0)
        assert sorted(await reader) == [0, 1, 2]
        assert sorted(await read(feed)) == [0, 1, 2]  # and so does the next pass

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_a_unit_that_arrives_after_a_halt_is_not_given_out():
    async def scene():
        feed = Feed()
        await feed.halt()
        await feed.put(0, b"a")
        assert await feed.get(0) is None

    asyncio.run(scene())

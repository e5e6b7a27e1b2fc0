import threading

import pytest

from ingest.stages import prefetch


def test_items_come_in_order_and_the_end_ends():
    assert list(prefetch(range(1000), 3)) == list(range(1000))
    assert list(prefetch([], 1)) == []


def test_an_error_comes_after_the_items_before_it():
    def broken():
        yield 1
        yield 2
        raise ValueError("third")

    items = prefetch(broken(), 5)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(items)


def test_it_runs_at_most_depth_ahead():
    produced = []
    room = threading.Semaphore(0)

    def source():
        for number in range(100):
            produced.append(number)
            room.release()
            yield number

    items = prefetch(source(), 2)
    assert next(items) == 0
    for _ in range(4):  # one consumed, two queued, one waiting to be queued
        assert room.acquire(timeout=10)
    assert not room.acquire(timeout=0.3)
    assert produced == [0, 1, 2, 3]
    items.close()


def test_closing_ends_the_thread():
    before = threading.active_count()
    items = prefetch(iter(int, 1), 2)  # zeros, for ever
    assert next(items) == 0
    assert threading.active_count() == before + 1
    items.close()
    assert threading.active_count() == before

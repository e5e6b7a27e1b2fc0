"""The garbage collector is left as it was found."""

import gc

import pytest

from ingest import stages


@pytest.mark.parametrize(("before", "within"), [((700, 10, 10), 20_000), ((0, 10, 10), 0), ((10**6, 3, 4), 10**6)])
def test_the_collector_runs_rarely_within_and_as_before_after(before, within):
    found = gc.get_threshold()
    try:
        gc.set_threshold(*before)
        with stages.rarely():
            assert gc.get_threshold() == (within, *before[1:])
        assert gc.get_threshold() == before
    finally:
        gc.set_threshold(*found)

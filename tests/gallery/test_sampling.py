"""sample(): the same on every engine, fair, and steady where the gallery changes a little."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from siamese_search.gallery import open_gallery
from siamese_search.gallery.checks import sample
from siamese_search.gallery.contract import StoredPoint
from siamese_search.gallery.filters import Condition

from . import contract, memory

N = 60


@pytest.fixture
def engines(scratch):
    rng = np.random.default_rng(2)
    ids, vectors = contract.make_ids(N, seed=4), contract.unit(rng, N)
    with (
        open_gallery(scratch / "store", model=contract.MODEL, create=True, mode="w") as embedded,
        memory.memory_store().open("default", model=contract.MODEL, create=True, mode="w") as server,
    ):
        for gallery in (embedded, server):
            gallery.upsert(ids, vectors, [{"camera": "ab"[i % 2]} for i in range(N)])
        yield embedded, server


def test_the_same_sample_from_every_engine(engines):
    one, other = (sample(gallery, limit=20, seed=7) for gallery in engines)
    assert [p.id for p in one.points] == [p.id for p in other.points] == sorted(p.id for p in one.points)
    for a, b in zip(one.points, other.points, strict=True):
        np.testing.assert_array_equal(a.vector, b.vector)
        assert a.payload == b.payload
    assert (one.total, other.total, len(one.points)) == (N, N, 20)


def test_all_where_there_are_no_more_and_only_those_that_are_meant(engines):
    for gallery in engines:
        everything = sample(gallery, limit=N)
        assert [p.id for p in everything.points] == [p.id for p in gallery.scroll()]
        assert everything.points[0].vector is not None
        half = sample(gallery, [Condition("camera", "=", ("a",))], limit=10)
        assert (len(half.points), half.total) == (10, N // 2)
        assert {p.payload["camera"] for p in half.points} == {"a"}
        assert sample(gallery, [Condition("camera", "=", ("z",))]).points == []


def test_a_point_that_goes_takes_only_itself_out(engines):
    before = {p.id for p in sample(engines[0], limit=20, seed=7).points}
    engines[0].delete([min(before)])
    assert len(before & {p.id for p in sample(engines[0], limit=20, seed=7).points}) == 19


class Listed:
    """A gallery that is a list: six hundred samples need not read a store."""

    def __init__(self, count):
        self.points = {name: StoredPoint(name, {}) for name in contract.make_ids(count, seed=4)}

    def count(self, _where):
        return len(self.points)

    def scroll(self, _where, **_how):
        return iter(self.points.values())

    def retrieve(self, ids, **_how):
        return [self.points[name] for name in ids]


def test_every_point_has_the_same_chance():
    counts = Counter(p.id for seed in range(600) for p in sample(Listed(N), limit=20, seed=seed).points)
    assert len(counts) == N
    # 600 draws of 20 in 60: 200 each, with a standard deviation of 11.5.
    assert 150 < min(counts.values()) <= max(counts.values()) < 250

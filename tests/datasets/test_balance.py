"""P×K batches over several data sets: equal shares, nobody starved, nobody twice, the same for ever."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamese_search.datasets.samplers import BalancedPKSampler, shares
from siamese_search.errors import DataError

sizes_of_sources = st.lists(st.integers(1, 12), min_size=2, max_size=5)


@given(total=st.integers(2, 40), sizes=sizes_of_sources, turn=st.integers(0, 9))
def test_shares_are_equal_as_far_as_there_are_identities(total: int, sizes: list[int], turn: int) -> None:
    given_ = shares(total, sizes, turn)
    present = [i for i, share in enumerate(given_) if share]
    assert all(share <= size for share, size in zip(given_, sizes, strict=True))
    assert sum(given_) == min(total, sum(sizes[i] for i in present))
    for a in present:
        for b in present:
            assert given_[a] <= given_[b] + 1 or given_[b] == sizes[b]
    if total >= 2 * len(sizes):
        assert len(present) == len(sizes)
    assert all(share >= min(2, size) for share, size in zip(given_, sizes, strict=True) if share)


def test_shares_by_hand() -> None:
    assert shares(16, [643, 40], 0) == [8, 8]
    assert shares(16, [643, 3], 5) == [13, 3]
    assert [shares(5, [9, 9], turn) for turn in range(2)] == [[3, 2], [2, 3]]
    assert [shares(4, [9, 9, 9], turn) for turn in range(3)] == [[2, 2, 0], [0, 2, 2], [2, 0, 2]]
    assert [shares(2, [9, 9], turn) for turn in range(2)] == [[2, 0], [0, 2]]


@given(total=st.integers(2, 20), count=st.integers(2, 5))
def test_over_the_turns_nobody_has_more(total: int, count: int) -> None:
    turns = [shares(total, [50] * count, turn) for turn in range(count)]
    assert len(set(np.sum(turns, axis=0).tolist())) == 1


def data(sizes: list[list[int]]) -> tuple[list[int], list[int]]:
    """(labels, sources) of sources whose identities have so many images each."""
    labels, sources, label = [], [], 0
    for source, people in enumerate(sizes):
        for images in people:
            labels += [label] * images
            sources += [source] * images
            label += 1
    return labels, sources


people = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=8), min_size=2, max_size=4)


@given(sizes=people, p=st.integers(2, 9), k=st.integers(2, 4), seed=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_batches(sizes: list[list[int]], p: int, k: int, seed: int) -> None:
    sizes[0][0] = max(2, sizes[0][0])
    labels, sources = data(sizes)
    sampler = BalancedPKSampler(labels, sources, p, k, seed)
    batches = list(sampler.epoch(1))
    assert len(batches) == sampler.steps(1) > 0
    counts = [len(people) for people in sizes]
    for step, batch in enumerate(batches):
        rows = np.asarray(labels)[batch].reshape(-1, k)
        assert (rows == rows[:, :1]).all()
        assert len(set(rows[:, 0].tolist())) == len(rows)
        owners = Counter(np.asarray(sources)[batch].tolist())
        assert [owners[s] // k for s in range(len(sizes))] == shares(p, counts, 1 + step)
    again = list(BalancedPKSampler(labels, sources, p, k, seed).epoch(1))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_the_large_source_is_seen_whole_and_the_small_one_again_and_again() -> None:
    labels, sources = data([[16] * 60, [4] * 6])
    batches = list(BalancedPKSampler(labels, sources, 8, 4, 0).epoch(0))
    assert len(batches) == 60  # 240 groups of four images, four of them in a batch
    seen = Counter(np.concatenate(batches).tolist())
    large = [seen[i] for i, source in enumerate(sources) if source == 0]
    small = [seen[i] for i, source in enumerate(sources) if source == 1]
    assert sum(count == 1 for count in large) > 0.9 * len(large)
    assert sum(small) == 60 * 16
    assert min(small) >= 35  # 40 on average: none is starved


def test_epochs_and_seeds_differ() -> None:
    labels, sources = data([[8] * 9, [8] * 5])

    def flat(seed: int, epoch: int) -> list[int]:
        return np.concatenate(list(BalancedPKSampler(labels, sources, 4, 2, seed).epoch(epoch))).tolist()

    assert len({tuple(flat(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


@pytest.mark.parametrize("sizes", [[[3]], [[1, 1], [1]]])
def test_nothing_to_learn_from_is_refused(sizes: list[list[int]]) -> None:
    with pytest.raises(DataError, match="at least 2"):
        BalancedPKSampler(*data(sizes), 4, 2)

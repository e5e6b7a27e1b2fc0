from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamese_search.datasets.samplers import PairSampler, PKSampler, TripletSampler, group_by_label
from siamese_search.errors import DataError

label_lists = st.lists(st.integers(1, 9), min_size=2, max_size=12).map(
    lambda sizes: [label for label, size in enumerate(sizes) for _ in range(size)]
)


def test_group_by_label() -> None:
    groups = group_by_label([1, 0, 1, 3])
    assert [g.tolist() for g in groups] == [[1], [0, 2], [], [3]]


@given(labels=label_lists, p=st.integers(2, 6), k=st.integers(2, 4), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_pk_batches_hold_distinct_identities_k_images_each(
    labels: list[int], p: int, k: int, seed: int
) -> None:
    if max(Counter(labels).values()) < 2:
        labels = [*labels, labels[-1]]
    sampler = PKSampler(labels, p, k, seed)
    batches = list(sampler.epoch(3))
    assert len(batches) == sampler.steps(3) > 0
    for batch in batches:
        rows = np.asarray(labels)[batch].reshape(-1, k)
        assert (rows == rows[:, :1]).all()
        assert len(set(rows[:, 0].tolist())) == len(rows)
        assert 2 <= len(rows) <= min(p, len(set(labels)))
    again = list(PKSampler(labels, p, k, seed).epoch(3))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again))


def test_pk_epoch_sees_nearly_every_image_once_and_differs_between_epochs() -> None:
    labels = np.repeat(np.arange(100), 16)
    sampler = PKSampler(labels.tolist(), 8, 4, 0)
    first, second = (np.concatenate(list(sampler.epoch(e))) for e in (0, 1))
    assert len(set(first.tolist())) == len(first)
    assert len(first) > 0.95 * len(labels)
    assert not np.array_equal(first, second[: len(first)])


def test_an_identity_with_fewer_than_k_images_repeats_some() -> None:
    batches = list(PKSampler([0, 0, 1, 1, 1, 1], 2, 4, 0).epoch(0))
    assert sorted(set(np.concatenate(batches).tolist())) == [0, 1, 2, 3, 4, 5]


@given(labels=label_lists, seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_drawn_triplets_are_valid(labels: list[int], seed: int) -> None:
    if max(Counter(labels).values()) < 2:
        labels = [*labels, labels[-1]]
    sampler = TripletSampler(labels, 4, seed=seed)
    array = np.asarray(labels)
    batches = list(sampler.epoch(0))
    assert len(batches) == sampler.steps(0)
    rows = np.concatenate(batches)
    assert (array[rows[:, 0]] == array[rows[:, 1]]).all()
    assert (rows[:, 0] != rows[:, 1]).all()
    assert (array[rows[:, 0]] != array[rows[:, 2]]).all()
    counts = Counter(labels)
    anchors = [i for i, label in enumerate(labels) if counts[label] > 1]
    missing = set(anchors) - set(rows[:, 0].tolist())
    assert len(missing) <= 1  # a last batch of one triplet is left out


def test_given_triplets_are_shuffled_and_complete() -> None:
    triplets = [(i, i + 1, i + 2) for i in range(50)]
    sampler = TripletSampler(list(range(60)), 8, triplets, seed=1)
    rows = np.concatenate(list(sampler.epoch(0)))
    assert sorted(map(tuple, rows.tolist())) == triplets
    assert [tuple(r) for r in rows.tolist()] != triplets


@given(labels=label_lists, batch=st.integers(2, 9), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_pairs_are_half_same_half_different(labels: list[int], batch: int, seed: int) -> None:
    if max(Counter(labels).values()) < 2:
        labels = [*labels, labels[-1]]
    sampler = PairSampler(labels, batch, seed=seed)
    array = np.asarray(labels)
    batches = list(sampler.epoch(2))
    assert len(batches) == sampler.steps(2) > 0
    for block in batches:
        assert block.shape[1] == 2
        assert len(block) <= batch
        same = array[block[:, 0]] == array[block[:, 1]]
        assert same.sum() == len(block) / 2
        assert (block[same, 0] != block[same, 1]).all()
    rows = np.concatenate(batches)
    same = array[rows[:, 0]] == array[rows[:, 1]]
    counts = Counter(labels)
    anchors = [i for i, label in enumerate(labels) if counts[label] > 1]
    assert sorted(rows[same, 0].tolist()) == sorted(rows[~same, 0].tolist()) == anchors
    again = list(PairSampler(labels, batch, seed=seed).epoch(2))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_pairs_change_between_epochs_and_come_from_given_triplets() -> None:
    sampler = PairSampler([0] * 20 + [1] * 20, 8)
    first, second = (np.concatenate(list(sampler.epoch(e))) for e in (0, 1))
    assert {tuple(pair) for pair in first.tolist()} != {tuple(pair) for pair in second.tolist()}
    triplets = [(i, i + 20, i + 40) for i in range(20)]
    rows = np.concatenate(list(PairSampler(list(range(60)), 6, triplets).epoch(0)))
    assert sorted(map(tuple, rows.tolist())) == sorted(
        [(a, p) for a, p, _ in triplets] + [(a, n) for a, _, n in triplets]
    )


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_data_without_pairs_is_refused(labels: list[int]) -> None:
    for make in (
        lambda: PKSampler(labels, 2, 2),
        lambda: TripletSampler(labels, 2),
        lambda: PairSampler(labels, 2),
    ):
        with pytest.raises(DataError, match="at least 2"):
            make()

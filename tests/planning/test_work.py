"""Hours and milliseconds, by hand."""

from __future__ import annotations

import math

import pytest

from siamese_search.gallery.storage import Storage
from siamese_search.planning import figures
from siamese_search.planning.plan import (
    embedding_hours,
    graph_hours,
    graph_search_ms,
    query_budget,
    scan_ms,
    sending_hours,
    worker_counts,
)


def test_hours_of_an_ingest() -> None:
    assert embedding_hours(36_000_000, 1, 1000.0) == 10
    assert embedding_hours(36_000_000, 5, 1000.0) == 2
    assert embedding_hours(36_000_000, 50, 1000.0, writes=10_000.0) == 1  # the store takes no more
    assert embedding_hours(36_000_000, 50, 1000.0, walk=20_000.0) == 0.5  # nor are they found faster
    assert embedding_hours(10**9, 1000, 1000.0) == pytest.approx(10**9 / figures.WALK_RATE / 3600)


def test_sending_is_bound_by_the_client() -> None:
    assert sending_hours(10**9, 1) == pytest.approx(10**9 / figures.SERVER_WRITES / 3600)
    assert sending_hours(10**9, 8) == sending_hours(10**9, 1) / 8


def test_graphs_are_built_once_per_replica() -> None:
    measured = int(figures.GRAPH_POINTS)
    one = graph_hours(measured, replicas=1, shards=1, cores=1)
    assert one == pytest.approx(measured * figures.GRAPH_BUILD_MS / 1000 / 3600)
    assert graph_hours(measured, replicas=3, shards=1, cores=1) == pytest.approx(3 * one)
    assert graph_hours(measured, replicas=1, shards=1, cores=10) == pytest.approx(one / 10)


def test_a_graphs_search_grows_with_the_logarithm() -> None:
    assert graph_search_ms(figures.GRAPH_POINTS) == figures.GRAPH_SEARCH_MS
    assert graph_search_ms(figures.GRAPH_POINTS**2) == pytest.approx(2 * figures.GRAPH_SEARCH_MS)
    assert graph_search_ms(1) == graph_search_ms(1000) == figures.GRAPH_SEARCH_MS  # never less than measured


def test_a_scan_grows_with_points_and_dimensions() -> None:
    storage = Storage("float16", "int4")
    assert scan_ms(1, 512, storage) == pytest.approx(figures.SEARCH_MS, rel=1e-3)
    one = figures.SEARCH_MS + figures.SCAN_NS["int4"]  # a million times as many nanoseconds are as many milliseconds
    assert scan_ms(1_000_000, 512, storage) == pytest.approx(one)
    assert scan_ms(2_000_000, 256, storage) == pytest.approx(one)
    assert scan_ms(1_000_000, 512, Storage()) == pytest.approx(figures.SEARCH_MS + figures.SCAN_NS["float32"])


def test_a_querys_budget() -> None:
    budget = query_budget(40 * 10**6, Storage("float16", "int4"), shards=40, queries_per_second=100, k=10)
    search = figures.GRAPH_SEARCH_MS * math.log(1e6) / math.log(figures.GRAPH_POINTS)
    assert budget.search_ms == pytest.approx(search)
    assert budget.cpu_ms == pytest.approx(40 * search)
    assert budget.candidates == 40  # 10 × 4
    assert budget.reads == 1600
    assert budget.reads_per_second == 160_000
    assert budget.busy_cores == pytest.approx(4 * search)


def test_vectors_that_are_searched_themselves_need_no_second_look() -> None:
    budget = query_budget(10**6, Storage(), shards=4, queries_per_second=1)
    assert (budget.candidates, budget.reads) == (0, 0)


def test_the_asked_number_of_workers_is_shown() -> None:
    assert worker_counts(None) == [1, 2, 4, 8, 16, 32, 64]
    assert worker_counts(12) == [1, 2, 4, 8, 12, 16, 32, 64]
    assert worker_counts(8) == worker_counts(None)

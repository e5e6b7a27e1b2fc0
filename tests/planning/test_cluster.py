"""Servers: Qdrant's own worked examples, and values by hand."""

from __future__ import annotations

import math

import pytest

from siamese_search.gallery.storage import Storage
from siamese_search.planning.figures import cluster_size, rule_of_thumb, topology
from siamese_search.settings import check_value

GIB = 2**30


def test_the_examples_of_qdrants_documentation() -> None:
    """Capacity Planning: a million points, 768-D, two replicas. (It writes GB and means 2^30.)"""
    size = cluster_size(1_000_000, 768, Storage("float32", "int4"), replicas=2, payload_bytes=1024)
    assert size.vectors / GIB == pytest.approx(5.72, abs=0.005)
    assert size.quantised / GIB == pytest.approx(0.72, abs=0.005)
    assert size.graph / GIB == pytest.approx(0.29, abs=0.005)
    assert size.payloads / GIB == pytest.approx(2.86, abs=0.005)
    assert size.ids / GIB == pytest.approx(0.10, abs=0.005)
    assert rule_of_thumb(1_000_000, 1024, replicas=1) / GIB == pytest.approx(5.72, abs=0.005)


def test_a_billion_by_hand() -> None:
    """10^9 × 512 in float16, searched in int4, one copy, m = 16, payloads of 190 bytes of which 56 are indexed."""
    size = cluster_size(10**9, 512, Storage("float16", "int4"), replicas=1, payload_bytes=190, m=16)
    assert size.vectors == 1_024e9
    assert size.quantised == 256e9
    assert size.graph == pytest.approx(153.6e9)  # 16 × 2 × 4 × 1.2 = 153.6 bytes
    assert size.payloads == 285e9
    assert size.payload_indexes == 112e9  # 56 × 2
    assert size.ids == 52e9
    assert size.ram == pytest.approx((256 + 153.6 + 112 + 52) * 1.2e9)
    assert size.disk == pytest.approx((1024 + 256 + 153.6 + 285 + 112 + 52) * 1.2e9)


@pytest.mark.parametrize(("quantisation", "searched"), [("none", 2048), ("int8", 512), ("binary", 64)])
def test_memory_holds_what_is_searched_first(quantisation: str, searched: int) -> None:
    size = cluster_size(1000, 512, Storage("float32", quantisation), replicas=1)
    rest = size.graph + size.payload_indexes + size.ids
    assert size.ram == pytest.approx(1.2 * (1000 * searched + rest))
    assert size.disk >= 1.2 * 1000 * 2048  # the vectors themselves are always there


def test_twice_the_edges_twice_the_graph() -> None:
    one, other = (cluster_size(1000, 512, Storage(), replicas=1, m=m) for m in (16, 32))
    assert other.graph == 2 * one.graph
    assert (other.vectors, other.ids) == (one.vectors, one.ids)


def test_nodes_by_memory_by_points_and_by_replicas() -> None:
    # 1 TB ÷ (100 GB × 0.8) = 12.5
    assert topology(10**6, 1e12, replicas=1, node_ram=1e11).nodes == 13
    assert topology(10**6, 1e12, replicas=1, node_ram=1e11).bound_by == "memory"
    # 10^9 × 2 ÷ 10^8 = 20
    found = topology(10**9, 1e12, replicas=2, node_ram=1e12)
    assert (found.nodes, found.bound_by) == (20, "points")
    assert topology(1000, 1e6, replicas=1, node_ram=1e11).nodes == 1
    found = topology(1000, 1e6, replicas=2, node_ram=1e11)
    assert (found.nodes, found.bound_by) == (3, "replicas")
    assert topology(1000, 1e6, replicas=5, node_ram=1e11).nodes == 5


def test_shards_are_two_to_a_node_and_what_the_settings_take() -> None:
    for ram in (1.0, 1e12, 1e16):
        found = topology(10**6, ram, replicas=2, node_ram=1e11)
        assert found.shards == min(2 * found.nodes, 1024)
        check_value("shards", "shards", found.shards)  # raises where a server's settings would refuse it


def test_every_node_has_room() -> None:
    for images in (1, 10**6, 10**7, 10**8, 10**9):
        for storage in (Storage(), Storage("float16", "int4"), Storage("float16", "binary")):
            size = cluster_size(images, 512, storage, replicas=2)
            nodes = topology(images, size.ram, replicas=2, node_ram=128e9).nodes
            assert size.ram / nodes <= 0.8 * 128e9
            assert math.ceil(2 * images / nodes) <= 100e6

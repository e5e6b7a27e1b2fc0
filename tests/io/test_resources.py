"""What a process may use: a container's limits, and bytes in flight."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from siamese_search.io import resources
from siamese_search.io.resources import Room, available_cpus, available_memory


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Control groups in a directory: lines of /proc/self/cgroup, and files with their text."""
    monkeypatch.setattr(resources, "_ROOT", tmp_path)
    monkeypatch.setattr(resources, "_OWN", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))

    def make(own, **files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for cached in (available_memory, resources._quota):
            cached.cache_clear()

    yield make
    for cached in (available_memory, resources._quota):
        cached.cache_clear()


V1 = "9:memory:/pod/a\n4:cpu,cpuacct:/pod/a\n0::/\n"


@pytest.mark.parametrize(
    ("own", "files", "cpus", "memory"),
    [
        ("0::/\n", {"memory_DOT_max": "4194304\n", "cpu_DOT_max": "150000 100000\n"}, 2, 4 << 20),
        ("0::/\n", {"memory_DOT_max": "max\n", "cpu_DOT_max": "max 100000\n"}, 8, None),
        ("0::/pod/a\n", {"pod__memory_DOT_max": "1048576", "pod__a__memory_DOT_max": "9999999"}, 8, 1 << 20),
        (
            V1,
            {
                "memory__pod__memory_DOT_limit_in_bytes": "2097152",
                "cpu__pod__a__cpu_DOT_cfs_quota_us": "400000",
                "cpu__pod__a__cpu_DOT_cfs_period_us": "100000",
            },
            4,
            2 << 20,
        ),
        (V1, {"cpu__cpu_DOT_cfs_quota_us": "-1", "cpu__cpu_DOT_cfs_period_us": "100000"}, 8, None),
        ("garbage\n::::\n", {"memory_DOT_max": "x", "cpu_DOT_max": "1"}, 8, None),
    ],
)
def test_the_limits_of_a_container_count(groups, own, files, cpus, memory):
    groups(own, **files)
    assert available_cpus() == cpus
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert available_memory() == (memory or whole)


def test_a_room_holds_what_it_has_and_lets_what_is_larger_in_alone():
    room, lock, held, most = Room(100), threading.Lock(), [], []

    def hold(size):
        with room.taken(size):
            with lock:
                held.append(size)
                most.append(list(held))
            time.sleep(0.002)
            with lock:
                held.remove(size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, [30, 60, 250, 10, 100, 45] * 20))
    assert len(most) == 120
    assert all(sum(one) <= 100 or one == [250] for one in most)
    assert any(len(one) > 1 for one in most)

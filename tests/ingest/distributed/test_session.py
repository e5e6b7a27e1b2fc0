"""Where workers are put, and what is refused, without starting anything."""

import importlib.util
import logging
import os
from types import SimpleNamespace

import pytest

from ingest.distributed import session
from ingest.distributed.session import RayOptions, _quiet_ray
from siamese_search.errors import MissingExtraError, UsageError


def machines(*resources, alive=None):
    nodes = [{"Alive": True, "Resources": one} for one in resources]
    nodes += [{"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]
    context = SimpleNamespace(get_node_id=lambda: "here")
    return SimpleNamespace(nodes=lambda: nodes, get_runtime_context=lambda: context)


@pytest.mark.parametrize(
    ("resources", "device", "threads", "workers", "expected"),
    [
        ([{"CPU": 2.0}], "auto", 0, None, (1, 2, 0)),  # a laptop
        ([{"CPU": 1.0}, {"CPU": 1.0}], "auto", 0, None, (2, 1, 0)),
        ([{"CPU": 16.0}, {"CPU": 6.0}], "cpu", 0, None, (5, 4, 0)),  # four CPUs each
        ([{"CPU": 16.0}], "auto", 2, None, (8, 2, 0)),
        ([{"CPU": 16.0}], "auto", 2, 3, (3, 2, 0)),
        ([{"CPU": 16.0}], "auto", 8, 99, (2, 8, 0)),  # no more than there is room for
        ([{"CPU": 0.0}, {"CPU": 8.0}], "auto", 0, None, (2, 4, 0)),  # a head node without CPUs
        ([{"CPU": 16.0, "GPU": 4.0}], "auto", 0, None, (4, 4, 1)),
        ([{"CPU": 8.0, "GPU": 4.0}, {"CPU": 64.0}], "auto", 0, None, (4, 2, 1)),  # the CPU machine is no help
        ([{"CPU": 16.0, "GPU": 4.0}], "cpu", 0, None, (4, 4, 0)),
    ],
)
def test_workers_fill_the_machines(resources, device, threads, workers, expected):
    placed = session._placement(machines(*resources), RayOptions(workers=workers), device, threads)
    assert (placed.workers, placed.cpus, placed.gpus) == expected
    assert placed.node == "here"


@pytest.mark.parametrize(
    ("resources", "device", "threads", "words"),
    [
        ([{"CPU": 0.0}], "auto", 0, "CPU to spare"),
        ([{"CPU": 8.0}], "cuda", 0, "leave out --device cuda"),
        ([{"CPU": 4.0}], "auto", 8, "has 8 CPUs; lower --threads"),
        ([{"CPU": 2.0, "GPU": 1.0}], "auto", 8, "8 CPUs beside a GPU"),
    ],
)
def test_a_cluster_that_has_no_room_says_what_it_lacks(resources, device, threads, words):
    with pytest.raises(UsageError, match=words):
        session._placement(machines(*resources), RayOptions(), device, threads)


def test_what_cannot_work_is_refused_before_anything_starts(monkeypatch):
    with pytest.raises(UsageError, match="ray job submit"):
        RayOptions("ray://head:10001").check()
    with pytest.raises(UsageError, match="at least 1"):
        RayOptions(workers=0).check()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"--engine ray needs the \[ray\] extra"):
        RayOptions().check()


def test_nothing_printed_below_reaches_the_terminal(capfd):
    with session._silent():
        os.write(2, b"chatter")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_only_what_ray_says_to_the_terminal_is_silenced() -> None:
    """Whoever listens to Ray's loggers, or to all loggers, goes on hearing."""
    pytest.importorskip("ray.data")
    logger, ours = logging.getLogger("ray.data"), logging.NullHandler()
    logger.addHandler(ours)
    try:
        _quiet_ray(verbose=False)
        own = [one for one in logger.handlers if type(one).__name__ == "PlainRayHandler"]
        assert own
        assert all(one.level > logging.CRITICAL for one in own)
        assert ours.level == logging.NOTSET
    finally:
        logger.removeHandler(ours)

"""A Ray cluster for one ingest: found or started, kept quiet, and left as it was.

Ray reports on itself by default, to its makers and on the terminal. Here no usage statistics are sent, no dashboard
is started and nothing is printed, unless ``verbose`` asks for the latter.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from ingest.options import RayOptions
from siamese_search.errors import ClusterError, UsageError, in_words, printable
from siamese_search.io.resources import available_cpus, own_signals
from siamese_search.model.embedder import Device

#: Only paths and vectors travel; Ray's default would take a third of the memory.
_OBJECT_STORE_BYTES = 256 << 20
#: CPUs per worker by default: further threads would be another network's on a machine that has more.
_CPUS_PER_WORKER = 4


@dataclass(frozen=True, slots=True)
class Cluster:
    """What an ingest has of a cluster: its workers and the resources of each. node: the driver's own, by Ray's id."""

    workers: int
    cpus: int
    gpus: int
    node: str


@contextmanager
def session(options: RayOptions, device: Device, threads: int) -> Iterator[Cluster]:
    """Connect, or start; at the end disconnect, or stop what was started. A connection that is there is used and kept.

    threads: CPUs of each worker; 0 chooses. Raises ClusterError where there is no cluster at the address, UsageError
    where no machine of it has what a worker needs.
    """
    ray = _quiet_ray(options.verbose)
    ours = not ray.is_initialized()
    if ours:
        _init(ray, options)
    try:
        yield _placement(ray, options, device, threads)
    finally:
        if ours:
            with suppress(Exception):
                ray.shutdown()


def _quiet_ray(verbose: bool) -> Any:
    """The module, with its chatter off. The variables must be there before it is imported."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # or a late call joins whatever cluster there is
    # Or each start warns of a change to come.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray gives way to everything else on a machine (a niceness of 15), and its workers are the work here.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
        import ray.data
    if not verbose:
        warnings.filterwarnings("ignore", module=r"ray\.")
        for handler in logging.getLogger("ray.data").handlers:
            # Ray's own for the terminal. Its log file stays, and so do handlers that others have put there.
            if type(handler).__module__.startswith("ray.") and not hasattr(handler, "_filename"):
                handler.setLevel(logging.CRITICAL + 1)
    return ray


def _init(ray: Any, options: RayOptions) -> None:
    address = options.address or os.environ.get("RAY_ADDRESS") or "local"
    how: dict[str, Any] = {
        "address": address,
        "log_to_driver": options.verbose,
        "logging_level": logging.INFO if options.verbose else logging.CRITICAL,
    }
    if address == "local":
        how |= {"num_cpus": available_cpus(), "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        with own_signals(), nullcontext() if options.verbose else _silent():
            ray.init(**how)  # which takes SIGTERM for itself
    except Exception as error:
        what = "cannot be started here" if address == "local" else f"cannot be reached at {printable(address)}"
        reason = in_words(error, 300)
        raise ClusterError(
            f"a Ray cluster {what}: {reason}; --debug shows what Ray says, and --address names another"
        ) from error


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing reaches the process's stderr: Ray's C++ part announces its settings there."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def _placement(ray: Any, options: RayOptions, device: Device, threads: int) -> Cluster:
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpu = [one for one in machines if one.get("GPU", 0) >= 1]
    gpus = 1 if device == "cuda" or (device == "auto" and with_gpu) else 0
    usable = with_gpu if gpus else [one for one in machines if one.get("CPU", 0) >= 1]
    if not usable:
        raise UsageError(
            "no machine of the Ray cluster has a GPU; leave out --device cuda"
            if gpus
            else "no machine of the Ray cluster has a CPU to spare for workers; start one with: ray start --num-cpus N"
        )
    shares = [int(one.get("CPU", 0) // (one["GPU"] if gpus else 1)) for one in usable]
    cpus = threads or max(1, min(_CPUS_PER_WORKER, *shares))
    room = sum(int(min(one["GPU"], one.get("CPU", 0) // cpus) if gpus else one.get("CPU", 0) // cpus) for one in usable)
    if room < 1:
        raise UsageError(
            f"no machine of the Ray cluster has {cpus} CPUs{' beside a GPU' * gpus}; lower --threads (CPUs per worker)"
        )
    # More than there is room for would wait for machines that may never come.
    workers = room if options.workers is None else min(options.workers, room)
    return Cluster(workers, cpus, gpus, ray.get_runtime_context().get_node_id())

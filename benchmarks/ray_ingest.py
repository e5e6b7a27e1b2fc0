"""Ingest on a Ray cluster of this machine alone against ingest in one process, in turns (A B A B …).

    python benchmarks/ray_ingest.py IMAGES [--limit 1200] [--repeats 3] [--threads 2] [--model BUNDLE]

Prints a table and writes benchmarks/results/ray_ingest.json. Each run is a process of its own, into a fresh store. What
is compared is the time from the first embedded images to the last, so that starting Python, the model and Ray does not
count; Ray's start is told apart. Processor time is that of the process and of all its descendants (Ray's daemons and
workers too), sampled from /proc: it means something also where other work shares the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Python puts this script's own directory first, where "ingest" would be another file.
sys.path[0] = str(ROOT)

RESULT = ROOT / "benchmarks" / "results" / "ray_ingest.json"
TARGET = 0.85
_TICK = os.sysconf("SC_CLK_TCK")


class Processors:
    """Processor seconds of this process and all that descend from it, those that have ended included."""

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def seconds(self) -> float:
        with self._lock:
            self._look()
            return sum(self._seen.values())

    def _watch(self) -> None:
        while True:
            time.sleep(0.25)
            self.seconds()

    def _look(self) -> None:
        parents: dict[int, tuple[int, float]] = {}
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                try:
                    text = Path(entry.path, "stat").read_text()
                except OSError:
                    continue
                fields = text.rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICK
        ours = {os.getpid(), *self._seen}
        grown = True
        while grown:
            new = {pid for pid, (parent, _) in parents.items() if parent in ours} - ours
            ours |= new
            grown = bool(new)
        for pid in ours & parents.keys():
            self._seen[pid] = max(self._seen.get(pid, 0.0), parents[pid][1])


def one_run(options: argparse.Namespace) -> dict[str, float]:
    """An ingest of ``options.images`` by ``options.engine``, in this process."""
    from ingest.distributed.session import RayOptions
    from ingest.run import ingest

    processors = Processors()
    steps: list[tuple[float, float, int]] = []

    def look(moment: Any) -> None:
        if moment.embedded > (steps[-1][2] if steps else 0):
            steps[1:] = [(time.monotonic(), processors.seconds(), moment.embedded)]

    ray = RayOptions(workers=options.workers or None) if options.engine == "ray" else None
    summary = ingest(
        options.images,
        store=options.store,
        model=options.model,
        threads=options.threads,
        engine=options.engine,
        ray=ray,
        progress=look,
    )
    (began, before, some), (ended, after, all_of_them) = steps
    images = all_of_them - some
    return {
        "images": summary.embedded,
        "images_per_second": images / (ended - began),
        "processor_ms_per_image": 1000 * (after - before) / images,
        "seconds": summary.seconds,
        "startup_seconds": summary.startup_seconds,
        "processor_seconds_before": before,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--limit", type=int, default=1200, help="images used (default: 1200)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="CPUs of a worker, and of the one process")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--model", help="bundle (default: the bundled one)")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--engine", help=argparse.SUPPRESS)  # one run, for the processes that are measured
    parser.add_argument("--store", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        print(json.dumps(one_run(options)))
        return
    from siamese_search.datasets.layouts import survey
    from siamese_search.io.files import atomic_write_text
    from siamese_search.io.resources import available_cpus

    runs: dict[str, list[dict[str, float]]] = {"process": [], "ray": []}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "images"
        root.mkdir()
        for count, record in enumerate(survey(options.images).stream()):
            if count == options.limit:
                break
            shutil.copy(record.path, root / f"{count:07d}{record.path.suffix}")
        for repeat in range(options.repeats):
            for engine in runs:
                store = Path(scratch) / f"{engine}{repeat}"
                command = [sys.executable, __file__, str(root), "--engine", engine, "--store", str(store)]
                command += ["--threads", str(options.threads), "--workers", str(options.workers)]
                command += ["--model", options.model] if options.model else []
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                runs[engine].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"{engine:<8}{runs[engine][-1]}", file=sys.stderr, flush=True)
                shutil.rmtree(store)

    def median(engine: str, what: str) -> float:
        return statistics.median(run[what] for run in runs[engine])

    speed = {engine: median(engine, "images_per_second") for engine in runs}
    cost = {engine: median(engine, "processor_ms_per_image") for engine in runs}
    result = {
        "images": runs["ray"][0]["images"],
        "process_images_per_second": speed["process"],
        "ray_images_per_second": speed["ray"],
        "ratio": speed["ray"] / speed["process"],
        "process_processor_ms_per_image": cost["process"],
        "ray_processor_ms_per_image": cost["ray"],
        "processor_ratio": cost["process"] / cost["ray"],
        "target_ratio": TARGET,
        "ray_startup_seconds": median("ray", "startup_seconds"),
        "ray_startup_processor_seconds": median("ray", "processor_seconds_before"),
        "load_average": os.getloadavg()[0],
        "runs": runs,
        "options": {"threads": options.threads, "workers": options.workers, "repeats": options.repeats},
        "machine": {"cpus": available_cpus(), "machine": platform.machine(), "python": platform.python_version()},
    }
    atomic_write_text(options.out, json.dumps(result, indent=1) + "\n")
    print(f"{result['images']} images, {available_cpus()} CPUs, load {result['load_average']:.0f}, in turns, medians")
    for engine in runs:
        print(f"{engine:<10}{speed[engine]:>10.1f} images/s{cost[engine]:>10.2f} ms of processor time per image")
    print(f"{'ratio':<10}{result['ratio']:>10.3f}{result['processor_ratio']:>19.3f}   (target {TARGET})")
    print(
        f"{'start':<10}{result['ray_startup_seconds']:>10.1f} s until Ray's first worker could begin,"
        f" {result['ray_startup_processor_seconds']:.1f} s of processor time until its first images"
    )


if __name__ == "__main__":
    main()

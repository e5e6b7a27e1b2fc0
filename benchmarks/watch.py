"""How long a change takes from the moment the file has settled until a search would find it.

    python benchmarks/watch.py [--images 1000] [--changes 50] [--storm 10000] [--out benchmarks/results/watch.json]

``sss ingest --watch`` runs as a process of its own, with the bundled model, over a directory of JPEGs. This process
writes, overwrites and deletes one file after another, and asks the gallery (opened anew each time, as a search opens
it) until the point is there, has the new size, or has gone. Settled is when the writer is done: the time that the
watch waits to be sure of that is part of what is measured. Then ``sss search`` while the watch is idle, beside the same
search without a watch; and a storm of files at once. Prints a table and writes JSON: p50, p95 and max in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from siamese_search.datasets.records import encode_key, point_id
from siamese_search.gallery import open_gallery
from siamese_search.io.files import atomic_write_text

PROJECT = Path(__file__).resolve().parents[1]
SSS = [sys.executable, "-m", "siamese_search"]
_DEADLINE = 600.0


def draw(path: Path, seed: int) -> None:
    """A JPEG of coarse noise, 128 x 64."""
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((64, 128)).save(path, quality=90)


def seconds_until(condition: Callable[[], bool]) -> float:
    """From now until the condition holds."""
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > _DEADLINE:
            raise SystemExit(f"nothing came of it in {_DEADLINE:.0f} s")
        time.sleep(0.02)
    return time.perf_counter() - began


class Probe:
    """Asks the gallery as another process would."""

    def __init__(self, store: Path, root: Path) -> None:
        self._store, self._source = store, encode_key(os.path.realpath(root))

    def size(self, name: str) -> int | None:
        """Bytes of the file that the stored point was made from; ``None`` where there is no point."""
        with open_gallery(self._store, wait=60) as gallery:
            [point] = gallery.retrieve([point_id(self._source, name)])
        return None if point is None else int(point.payload["size"])

    def count(self) -> int:
        with open_gallery(self._store, wait=60) as gallery:
            return gallery.count()


def spread(values: list[float]) -> dict[str, float]:
    """p50, p95 and max."""
    ordered = sorted(values)
    return {
        "p50_s": statistics.median(ordered),
        "p95_s": ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))],
        "max_s": ordered[-1],
    }


def changes(root: Path, probe: Probe, count: int) -> dict[str, dict[str, float]]:
    """Settle-to-searchable of new, changed and deleted files."""
    seconds: dict[str, list[float]] = {"new": [], "changed": [], "deleted": []}
    for number in range(count):
        path = root / f"change{number}.jpg"
        draw(path, 10_000 + number)
        size = path.stat().st_size
        seconds["new"].append(seconds_until(lambda name=path.name, size=size: probe.size(name) == size))
        draw(path, 20_000 + number)
        with path.open("ab") as file:
            file.write(b"\0" * (number % 7 + 1) if path.stat().st_size == size else b"")
        size = path.stat().st_size
        seconds["changed"].append(seconds_until(lambda name=path.name, size=size: probe.size(name) == size))
        path.unlink()
        seconds["deleted"].append(seconds_until(lambda name=path.name: probe.size(name) is None))
    return {kind: spread(values) for kind, values in seconds.items()}


def searches(root: Path, store: Path, runs: int) -> dict[str, float]:
    """Cold searches, one after another."""
    query = min(root.iterdir())
    values = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        subprocess.run(
            [*SSS, "search", str(query), "--store", str(store)], check=True, capture_output=True, timeout=_DEADLINE
        )
        values.append(time.perf_counter() - began)
    return spread(values[1:])


def storm(root: Path, probe: Probe, count: int) -> dict[str, float]:
    """So many files at once: until the last one is there, and the rate."""
    before, first = probe.count(), min(root.iterdir()).read_bytes()
    for number in range(count):
        (root / f"storm{number:06d}.jpg").write_bytes(first)
    seconds = seconds_until(lambda: probe.count() >= before + count)
    return {"files": count, "seconds": seconds, "files_per_second": count / seconds}


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(images: int, count: int, files: int, runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        root, store = Path(temporary) / "images", Path(temporary) / "store"
        root.mkdir()
        for number in range(images):
            draw(root / f"{number:06d}.jpg", number)
        with subprocess.Popen(
            [*SSS, "ingest", str(root), "--watch", "--layout", "flat", "--store", str(store), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as watch:
            assert watch.stdout is not None
            watch.stdout.readline()  # the first ingest is complete
            probe = Probe(store, root)
            figures: dict[str, Any] = dict(changes(root, probe, count))
            time.sleep(3)
            before = processor_seconds(watch.pid)
            time.sleep(10)
            figures["idle"] = {"processor_share": (processor_seconds(watch.pid) - before) / 10}
            figures["search_beside_an_idle_watch"] = searches(root, store, runs)
            if files:
                figures["storm"] = storm(root, probe, files)
            watch.send_signal(signal.SIGTERM)
            watch.stdout.close()
            figures["exit_code"] = watch.wait(60)
        figures["search_alone"] = searches(root, store, runs)
        shutil.rmtree(root)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how soon a watch has what has changed.")
    parser.add_argument("--images", type=int, default=1000, help="in the gallery from the start")
    parser.add_argument("--changes", type=int, default=50, help="of each kind")
    parser.add_argument("--storm", type=int, default=10_000, help="files at once; 0 for none")
    parser.add_argument("--runs", type=int, default=7, help="searches")
    parser.add_argument("--out", type=Path, default=PROJECT / "benchmarks" / "results" / "watch.json")
    options = parser.parse_args()
    figures = measure(options.images, options.changes, options.storm, options.runs)
    print(f"{'':30} {'p50, s':>8} {'p95, s':>8} {'max, s':>8}")
    for name, row in figures.items():
        if isinstance(row, dict) and "p50_s" in row:
            print(f"{name:30} {row['p50_s']:8.2f} {row['p95_s']:8.2f} {row['max_s']:8.2f}")
    if "storm" in figures:
        row = figures["storm"]
        print(f"storm: {row['files']} files in {row['seconds']:.1f} s ({row['files_per_second']:.0f} files/s)")
    print(f"idle: {figures['idle']['processor_share']:.1%} of a core; exit code {figures['exit_code']}")
    figures["machine"] = {
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "images": options.images,
        "changes": options.changes,
    }
    atomic_write_text(options.out, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

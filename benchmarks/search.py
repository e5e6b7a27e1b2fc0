"""How long a cold ``sss search`` takes: a new process, one query image, a gallery that is already there.

    python benchmarks/search.py [--points 13000 100000] [--runs 7] [--out benchmarks/results/search.json]

The gallery holds random unit vectors under the bundled model's name, so that nothing has to be embedded first;
for the search it makes no difference. Prints a table and writes JSON: medians of wall-clock time, and of the
processor time, which suffers little from a busy machine. Beside them stand a bare interpreter and the imports
of the plain way (torch, timm, qdrant-client), without which no search of that kind begins.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from siamese_search.gallery import open_gallery
from siamese_search.gallery.contract import ModelRef
from siamese_search.io.files import atomic_write_text
from siamese_search.model.bundle import load_bundle

PROJECT = Path(__file__).resolve().parents[1]
BATCH = 1000


def fill(store: Path, points: int) -> None:
    """A gallery of random unit vectors with the payloads of an ingest."""
    bundle = load_bundle(None)
    model = ModelRef(bundle.fingerprint, bundle.dim, bundle.name)
    rng = np.random.default_rng(0)
    with open_gallery(store, model=model, create=True, mode="w") as gallery:
        for start in range(0, points, BATCH):
            count = min(BATCH, points - start)
            rows = rng.standard_normal((count, bundle.dim), dtype=np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            payloads = [
                {
                    "identity": f"{number % 1500:04d}",
                    "camera": str(number % 6 + 1),
                    "source": "/data/gallery",
                    "key": f"{number:08d}.jpg",
                    "path": f"/data/gallery/{number:08d}.jpg",
                    "size": 3000,
                    "mtime_ns": 1_700_000_000_000_000_000,
                }
                for number in range(start, start + count)
            ]
            gallery.upsert([str(uuid.UUID(bytes=rng.bytes(16))) for _ in payloads], rows, payloads)


def timed(command: list[str], runs: int) -> dict[str, float]:
    """Median wall-clock and processor seconds of a command, after one run that warms the file cache."""
    wall, processor = [], []
    for run in range(runs + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if run:
            wall.append(seconds)
            processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"wall_s": statistics.median(wall), "cpu_s": statistics.median(processor)}


def measure(sizes: list[int], runs: int) -> dict[str, Any]:
    """Figures by name: ``search_13000``, ``python``, ``help``, ``plain_imports`` (where those are installed)."""
    sss = [sys.executable, "-m", "siamese_search"]
    figures: dict[str, Any] = {
        "python": timed([sys.executable, "-c", "pass"], runs),
        "help": timed([*sss, "--help"], runs),
    }
    with tempfile.TemporaryDirectory() as temporary:
        query = Path(temporary) / "query.jpg"
        pixels = np.random.default_rng(1).integers(0, 255, (128, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(query)
        for points in sizes:
            store = Path(temporary) / f"store-{points}"
            fill(store, points)
            command = [*sss, "search", os.fspath(query), "--store", os.fspath(store)]
            figures[f"search_{points}"] = timed(command, runs)
    plain = [sys.executable, "-c", "import torch, timm, qdrant_client"]
    if subprocess.run(plain, check=False, capture_output=True).returncode == 0:
        figures["plain_imports"] = timed(plain, max(1, runs // 3))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a cold search.")
    parser.add_argument("--points", type=int, nargs="+", default=[13_000, 100_000])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path, default=PROJECT / "benchmarks" / "results" / "search.json")
    options = parser.parse_args()
    figures = measure(options.points, options.runs)
    print(f"{'':16} {'wall, s':>9} {'cpu, s':>9}")
    for name, row in figures.items():
        print(f"{name:16} {row['wall_s']:9.3f} {row['cpu_s']:9.3f}")
    figures["machine"] = {
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
    }
    atomic_write_text(options.out, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

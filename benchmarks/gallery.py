"""How fast the embedded gallery is: upsert, reopen, query, filtered query, cold open and query.

    python benchmarks/gallery.py [--points 20000] [--dim 512] [--store DIR] [--out benchmarks/results/gallery.json]

Vectors are random unit vectors around identity centres; payloads are those of an ingest. Prints a table and
writes JSON. Times are medians; run it on an otherwise idle machine, or read the figures marked cpu, which
count this process's processor time and suffer little from a busy one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from siamese_search.gallery import open_gallery
from siamese_search.gallery.contract import ModelRef
from siamese_search.gallery.filters import Condition
from siamese_search.io.files import atomic_write_text

PROJECT = Path(__file__).resolve().parents[1]
COLD = """
import sys, numpy as np
from siamese_search.gallery import open_gallery
row = np.load(sys.argv[2])
with open_gallery(sys.argv[1]) as gallery:
    print(gallery.query(row, 10)[0].id)
"""


def make(points: int, dim: int) -> tuple[list[str], np.ndarray, list[dict[str, Any]]]:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, points // 17), dim), dtype=np.float32)
    rows = centres[np.arange(points) % len(centres)] + 0.7 * rng.standard_normal((points, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = [str(uuid.UUID(bytes=rng.bytes(16))) for _ in range(points)]
    payloads = [
        {
            "identity": f"{i % len(centres):05d}",
            "camera": str(i % 6),
            "source": "/data/gallery",
            "key": f"{i % len(centres):05d}/{i:08d}.jpg",
            "path": f"/data/gallery/{i % len(centres):05d}/{i:08d}.jpg",
            "size": 2000 + i % 5000,
            "mtime_ns": 1_700_000_000_000_000_000 + i,
        }
        for i in range(points)
    ]
    return ids, rows, payloads


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def measure(store: Path, points: int, dim: int, batch: int) -> dict[str, Any]:
    ids, rows, payloads = make(points, dim)
    model = ModelRef("0" * 64, dim, "benchmark")
    out: dict[str, Any] = {"points": points, "dim": dim, "cpus": os.cpu_count(), "python": platform.python_version()}
    with open_gallery(store, model=model, create=True, mode="w") as gallery:
        started, cpu = time.perf_counter(), time.process_time()
        for i in range(0, points, batch):
            gallery.upsert(ids[i : i + batch], rows[i : i + batch], payloads[i : i + batch])
        out["flush_s"] = seconds(gallery.flush)
        out["upsert_points_per_s"] = points / (time.perf_counter() - started)
        out["upsert_points_per_cpu_s"] = points / (time.process_time() - cpu)
        out["size_mib"] = gallery.info().size_bytes / 2**20

    def reopen() -> None:
        with open_gallery(store) as gallery:
            gallery.count()

    cpu = time.process_time()
    out["reopen_and_count_s"] = statistics.median(seconds(reopen) for _ in range(5))
    out["reopen_and_count_cpu_s"] = (time.process_time() - cpu) / 5
    with open_gallery(store) as gallery:
        two_cameras = [Condition("camera", "=", ("1", "2"))]
        identity = [Condition("identity", "=", ("00003",))]
        for name, where in (("query", []), ("query_camera", two_cameras), ("query_identity", identity)):
            times = [seconds(lambda r=row, w=where: gallery.query(r, 10, w)) for row in rows[:200]]
            out[f"{name}_p50_ms"] = 1000 * statistics.median(times)
            out[f"{name}_p95_ms"] = 1000 * sorted(times)[int(len(times) * 0.95)]
            cpu = time.process_time()
            for row in rows[:200]:
                gallery.query(row, 10, where)
            out[f"{name}_cpu_ms"] = 1000 * (time.process_time() - cpu) / 200
        out["query_batch_64_ms_per_query"] = 1000 * seconds(lambda: gallery.query_batch(rows[:64], 10)) / 64
        out["facet_identity_ms"] = 1000 * statistics.median(
            seconds(lambda: gallery.facet("identity")) for _ in range(5)
        )
        out["scroll_points_per_s"] = points / seconds(lambda: sum(1 for _ in gallery.scroll(fields=["key"])))

    vector = store.parent / "query.npy"
    np.save(vector, rows[0])
    command = [sys.executable, "-c", COLD, os.fspath(store), os.fspath(vector)]
    env = {**os.environ, "PYTHONPATH": os.fspath(PROJECT)}
    cold = [seconds(lambda: subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)) for _ in range(5)]
    bare = [seconds(lambda: subprocess.run([sys.executable, "-c", "import numpy"], check=True)) for _ in range(5)]
    out["cold_process_query_s"] = statistics.median(cold)
    out["cold_process_numpy_only_s"] = statistics.median(bare)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the embedded gallery.")
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--store", type=Path, help="an empty directory to work in (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=PROJECT / "benchmarks" / "results" / "gallery.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure((options.store or Path(temporary)) / "store", options.points, options.dim, options.batch)
    for name, value in figures.items():
        print(f"{name:32} {value:>14,.4g}" if isinstance(value, float) else f"{name:32} {value:>14}")
    atomic_write_text(options.out, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

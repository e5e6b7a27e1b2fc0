"""Ranking metrics at the size of Market-1501: 3,368 queries against 19,732 gallery items of 512-D.

    python benchmarks/ranking.py [--queries N] [--gallery N] [--dim N] [--out FILE]

Random unit vectors with planted identities, six cameras, junk and distractors in Market's proportions.
Prints a table and writes JSON beside it. Targets: 5 s and 1 GB on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from siamese_search.evaluation.protocol import Labels
from siamese_search.evaluation.retrieval import retrieval_metrics
from siamese_search.evaluation.verification import cross_pair_scores
from siamese_search.io.files import atomic_write_text

IDENTITIES, CAMERAS = 750, 6
TARGET_SECONDS, TARGET_MEGABYTES = 5.0, 1000.0


def planted(count: int, dim: int, rng: np.random.Generator, centres: np.ndarray, *, extras: bool) -> Any:
    """Unit vectors [count, dim] near their identity's centre, with identities and cameras as text."""
    identity = rng.integers(1, IDENTITIES + 1, size=count)
    vectors = centres[identity] + rng.normal(0, 3.0, size=(count, dim)).astype(np.float32)
    if extras:  # Market's gallery: 2,798 distractors and 3,819 junk boxes per 19,732
        kind = rng.random(count)
        identity[kind < 0.142] = 0
        identity[kind > 0.807] = -1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = ["-1" if i < 0 else f"{i:04d}" for i in identity]
    return vectors, names, [str(c) for c in rng.integers(1, CAMERAS + 1, size=count)]


def measured(work: Callable[[], Any], runs: int = 3) -> tuple[Any, float, float]:
    """The result, the median wall time and the median CPU time of some runs, in seconds."""
    walls, cpus = [], []
    for _ in range(runs):
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return result, float(np.median(walls)), float(np.median(cpus))


def peak_megabytes() -> float:
    """Peak resident memory of this process, inputs and libraries included."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--gallery", type=int, default=19732)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ranking.json")
    asked = parser.parse_args()

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(IDENTITIES + 1, asked.dim)).astype(np.float32)
    queries, query_ids, query_cameras = planted(asked.queries, asked.dim, rng, centres, extras=False)
    gallery, gallery_ids, gallery_cameras = planted(asked.gallery, asked.dim, rng, centres, extras=True)

    labels = Labels.of(query_ids, gallery_ids, query_cameras, gallery_cameras)
    ranking, seconds, cpu = measured(lambda: retrieval_metrics(queries, gallery, labels))
    ranking_peak = peak_megabytes()
    pairs, pair_seconds, pair_cpu = measured(lambda: cross_pair_scores(queries, gallery, labels), 1)
    result = {
        "queries": asked.queries,
        "gallery": asked.gallery,
        "dim": asked.dim,
        "ranking": {"seconds": seconds, "cpu_seconds": cpu, "peak_megabytes": ranking_peak},
        "verification": {
            "pairs": pairs.genuine_pairs + pairs.impostor_pairs,
            "seconds": pair_seconds,
            "cpu_seconds": pair_cpu,
            "peak_megabytes": peak_megabytes(),
        },
        "figures": {"rank1": ranking.rank1, "mAP": ranking.mAP, "mINP": ranking.mINP, "auc": pairs.auc()},
        "targets": {"seconds": TARGET_SECONDS, "peak_megabytes": TARGET_MEGABYTES},
        "machine": {
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "load": os.getloadavg()[0],
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    atomic_write_text(asked.out, json.dumps(result, indent=2) + "\n")

    print(f"{asked.queries:,} queries x {asked.gallery:,} gallery items x {asked.dim}-D")
    print(f"{'':14}{'wall':>9}{'CPU':>9}{'peak memory':>14}")
    for name in ("ranking", "verification"):
        row = result[name]
        print(f"{name:14}{row['seconds']:7.2f} s{row['cpu_seconds']:7.2f} s{row['peak_megabytes']:11.0f} MB")
    print(f"{'target':14}{TARGET_SECONDS:7.2f} s{'':9}{TARGET_MEGABYTES:11.0f} MB")
    print(f"rank-1 {100 * ranking.rank1:.1f} %, mAP {100 * ranking.mAP:.1f} %; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()

"""The plan's formulas against galleries that are really there: disk, memory of a search, time of a search.

    python benchmarks/plan.py [--points 10000 100000] [--storage float32 float16/int4] [--graph 30000]
                              [--million DIR] [--work DIR] [--out benchmarks/results/plan.json]

Makes a gallery of random unit vectors (those of benchmarks/million.py) for each number of points and storage, before
and after ``sss optimise``, and compares its parts with :mod:`siamese_search.planning.figures`. ``--million`` takes
galleries that benchmarks/million.py has left in its ``--work`` directory, however large. Processor times of
searches are taken in this process: of one core, 200 queries each, the first 20 aside.

--graph: also an HNSW graph over so many points, in the last storage: what it takes to build and to search.
Prints a table and writes JSON (what it holds of other galleries stays), to which the constants in
siamese_search/planning/figures.py refer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path[0] = os.fspath(PROJECT)

from benchmarks.million import BLOCK, build, query_rows  # noqa: E402
from siamese_search.gallery import open_gallery  # noqa: E402
from siamese_search.gallery.contract import ModelRef  # noqa: E402
from siamese_search.gallery.edge import layout  # noqa: E402
from siamese_search.gallery.filters import Condition  # noqa: E402
from siamese_search.gallery.storage import Storage  # noqa: E402
from siamese_search.io.files import atomic_write_text  # noqa: E402
from siamese_search.planning.figures import EmbeddedSize, embedded_size  # noqa: E402

DIM = 512
WARM = 20
CAMERA = Condition("camera", "=", ("3",))

#: File or directory of a segment → part of the plan; the longest beginning counts.
PARTS = {
    "vector_storage": "vectors",
    "vector_index": "graph",
    "payload_storage": "payloads",
    "payload_index": "payload_indexes",
    "id_tracker": "ids",
    "mutable_id_tracker": "ids",
}


def parts_of(store: Path) -> dict[str, int]:
    """Bytes on disk of a store's only gallery, by part; ``other`` is what the plan has no part for."""
    gallery = layout.find_gallery(store, "default")
    generation = layout.current_generation(gallery)
    sizes = dict.fromkeys((*PARTS.values(), "quantised", "log", "other"), 0)
    for file in generation.rglob("*"):
        if not file.is_file():
            continue
        inside = file.relative_to(generation).parts
        part = "other"
        if inside[:2] == (layout.SHARD, "wal"):
            part = "log"
        elif inside[:2] == (layout.SHARD, "segments") and len(inside) > 3:
            name = inside[3]
            part = next((value for key, value in PARTS.items() if name.startswith(key)), "other")
            if part == "vectors" and any("quantized" in piece for piece in inside[3:]):
                part = "quantised"
        sizes[part] += file.stat().st_blocks * 512
    return sizes


def planned(size: EmbeddedSize) -> dict[str, float]:
    return {
        part: getattr(size, part)
        for part in ("vectors", "quantised", "graph", "payloads", "payload_indexes", "ids", "log")
    }


def compared(store: Path, points: int, storage: Storage, *, optimised: bool, indexed: bool) -> dict[str, Any]:
    """Measured and planned, and by how much the plan is off (0.05: 5 % too much)."""
    with open_gallery(store) as gallery:
        info = gallery.info()
    size = embedded_size(points, DIM, storage, optimised=optimised, indexed=indexed)
    real = parts_of(store)
    return {
        "points": points,
        "storage": str(storage),
        "optimised": optimised,
        "indexed": indexed,
        "disk": {"measured": info.size_bytes, "planned": round(size.disk)},
        "disk_off": size.disk / info.size_bytes - 1,
        "resident": {"measured": info.resident_bytes, "planned": round(size.resident)},
        "resident_off": size.resident / info.resident_bytes - 1,
        "bytes_per_point": {
            "measured": {part: round(amount / points, 1) for part, amount in real.items()},
            "planned": {part: round(amount / points, 1) for part, amount in planned(size).items()},
        },
    }


def search_cost(store: Path, points: int) -> dict[str, float]:
    """ms of one core for a search of 10 (also among the points of one camera, a sixth of all), and ns per vector."""
    rows = query_rows("random", DIM, max(1, points // BLOCK))
    with open_gallery(store) as gallery:
        for row in rows[:WARM]:
            gallery.query(row, 10)
        began = time.process_time()
        for row in rows[WARM:]:
            gallery.query(row, 10)
        ms = 1000 * (time.process_time() - began) / len(rows[WARM:])
        began = time.process_time()
        for row in rows[WARM:]:
            gallery.query_ids(row[None], 10)
        bare = 1000 * (time.process_time() - began) / len(rows[WARM:])
        began = time.process_time()
        for row in rows[WARM:]:
            gallery.query(row, 10, [CAMERA])
        camera = 1000 * (time.process_time() - began) / len(rows[WARM:])
    return {
        "search_cpu_ms": ms,
        "search_ids_cpu_ms": bare,
        "search_camera_cpu_ms": camera,
        "ns_per_point": 1e6 * bare / points,
    }


def optimise(store: Path, index: bool) -> float:
    """Optimise; seconds of processor time that the child took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open_gallery(store, mode="w") as gallery:
        gallery.optimise(index=index)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(points: int, storage: Storage, work: Path, *, index: bool) -> list[dict[str, Any]]:
    """As ingested, optimised (from the size on where that does something), and with a graph."""
    model = ModelRef("0" * 64, DIM, "benchmark")
    store = work / f"plan-{points}-{storage.vectors}-{storage.quantisation}"
    shutil.rmtree(store, ignore_errors=True)  # an earlier run's, optimised already
    queries = query_rows("random", DIM, max(1, points // BLOCK))
    build(store, "random", points, model, storage, queries)
    rows = [compared(store, points, storage, optimised=False, indexed=False) | search_cost(store, points)]
    optimise(store, index=False)
    with open_gallery(store) as gallery:  # smaller ones stay as they are
        compact = any(Path(gallery.generation).glob("shard/segments/*/id_tracker.e2i"))  # type: ignore[attr-defined]
    if compact:
        rows.append(compared(store, points, storage, optimised=True, indexed=False) | search_cost(store, points))
    if index:
        seconds = optimise(store, index=True)
        row = compared(store, points, storage, optimised=True, indexed=True) | search_cost(store, points)
        rows.append(row | {"build_cpu_ms_per_point": 1000 * seconds / points})
    return rows


def left_by_million(directory: Path) -> list[dict[str, Any]]:
    """The galleries in the work directory of benchmarks/million.py, which are optimised."""
    rows = []
    for store in sorted(directory.glob("*-*-*-*")):
        data, points, vectors, quantisation = store.name.split("-")
        storage = Storage(vectors, quantisation)
        with open_gallery(store) as gallery:
            indexed = gallery.info().indexed_points > 0
        row = compared(store, int(points), storage, optimised=True, indexed=indexed)
        rows.append({"data": data} | row | search_cost(store, int(points)))
    return rows


def record(path: Path, rows: list[dict[str, Any]]) -> None:
    """Put the rows into the results, in the place of those of the same galleries; the others stay."""

    def gallery(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["points"], row["storage"], row["optimised"], row["indexed"], row.get("data", "random")

    known = json.loads(path.read_text())["rows"] if path.exists() else []
    merged = {gallery(row): row for row in (*known, *rows)}
    document = {
        "rows": [merged[key] for key in sorted(merged)],
        "worst_disk_off": max(abs(row["disk_off"]) for row in merged.values()),
        "dim": DIM,
        "machine": {
            "python": platform.python_version(),
            "processor": platform.processor() or platform.machine(),
            "cpus": os.cpu_count(),
        },
    }
    print(f"the plan's disk is off by {document['worst_disk_off']:.1%} at most")
    atomic_write_text(path, json.dumps(document, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the plan with real galleries.")
    parser.add_argument("--points", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--storage", nargs="+", default=["float32", "float16/int4"], metavar="VECTORS[/QUANTISED]")
    parser.add_argument("--graph", type=int, default=30_000, metavar="POINTS", help="0: no graph")
    parser.add_argument("--million", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--work", type=Path, help="a directory for the galleries (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=PROJECT / "benchmarks" / "results" / "plan.json")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        storages = [Storage(*text.split("/")) for text in options.storage]
        for points in options.points:
            for storage in storages:
                rows += measure(points, storage, work, index=False)
        if options.graph:
            rows += measure(options.graph, storages[-1], work, index=True)
    for directory in options.million:
        rows += left_by_million(directory)
    print(f"{'points':>10} {'storage':26} {'':10} {'disk':>9} {'off':>7} {'read':>9} {'off':>7} {'search':>10}")
    for row in rows:
        how = "graph" if row["indexed"] else "optimised" if row["optimised"] else "ingested"
        print(
            f"{row['points']:>10,} {row['storage']:26} {how:10} {row['disk']['measured'] / 1e6:6.1f} MB"
            f" {row['disk_off']:+7.1%} {row['resident']['measured'] / 1e6:6.1f} MB {row['resident_off']:+7.1%}"
            f" {row['search_cpu_ms']:7.2f} ms {row['search_camera_cpu_ms']:7.2f} ms"
        )
    record(options.out, rows)


if __name__ == "__main__":
    main()

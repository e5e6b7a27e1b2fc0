"""A million vectors in one process: built, optimised, reopened, searched.

    python benchmarks/million.py [--points 1000000] [--data random clustered] [--storage float16] [--quantise int4]
                                 [--alone] [--work DIR] [--out benchmarks/results/million.json]

random: independent unit vectors, and for each query ten planted neighbours at cosines from 0.3 to 0.9. clustered:
identities of 20 vectors at a cosine of 0.67 to one another, as re-identification gives; a query is one more of an
identity. Recall@10 is measured against an exact ranking in numpy of the vectors as they were made, so that rounding
counts as loss. Prints a table and writes JSON.

While it is optimised another process searches, unless ``--alone`` says otherwise: on a machine so busy that opening
takes minutes, the two would wait for each other in vain.

With ``--work DIR`` the galleries stay there, and a run that was interrupted goes on (the results keep the times of
what an earlier run of the same size built and optimised). A million points take about
6 GB of disk each while they are optimised.

Memory is that of a process of its own that has imported the gallery, and then opens it and searches 200 times:
``anonymous`` is what only it holds, ``file`` are the pages of files that it has mapped (they count as resident, but
the system takes them back when it needs them). ``bare`` is the same process before it opens the gallery.
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
from numpy.typing import NDArray
from PIL import Image

from siamese_search.gallery import open_gallery
from siamese_search.gallery.contract import ModelRef
from siamese_search.gallery.filters import Condition
from siamese_search.gallery.storage import QUANTISATIONS, VECTORS, Storage
from siamese_search.io.files import atomic_write_text
from siamese_search.model.bundle import load_bundle

PROJECT = Path(__file__).resolve().parents[1]
BLOCK = 1000
QUERIES = 200
K = 10
PER_IDENTITY = 20

#: Of a million vectors: at most this, but of recall at least.
TARGETS = {"open_s": 1.0, "cold_search_s": 1.0, "searched_resident_mb": 600.0, "recall_at_10": 0.99}

Rows = NDArray[np.float32]

#: A process of its own: opens the gallery, searches, and says what it took.
READER = """
import json, sys, time
import numpy as np
from siamese_search.gallery import open_gallery
def memory():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {name: int(lines[key].split()[0]) * 1024 for name, key in
            (("anonymous", "RssAnon"), ("file", "RssFile"), ("resident", "VmRSS"))}
rows = np.load(sys.argv[2])
import qdrant_edge
import siamese_search.gallery.edge.gallery
bare, started = memory(), time.perf_counter()
with open_gallery(sys.argv[1]) as gallery:
    points = gallery.count()
    opened = time.perf_counter() - started
    after = memory()
    times = []
    for row in rows:
        began = time.perf_counter()
        hits = gallery.query(row, 10)
        times.append(time.perf_counter() - began)
    print(json.dumps({"points": points, "open_s": opened, "first_query_ms": 1000 * times[0],
        "query_p50_ms": 1000 * float(np.median(times)), "bare": bare, "opened": after, "searched": memory()}))
"""

#: Searches until its stdin ends; says how often, and how long it waited for the slowest answer.
SEARCHER = """
import sys, threading, time
import numpy as np
from siamese_search.gallery import open_gallery
rows, over = np.load(sys.argv[2]), threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
slowest, answers = 0.0, 0
with open_gallery(sys.argv[1], wait=600) as gallery:
    gallery.count()
    while not over.is_set():
        began = time.perf_counter()
        assert gallery.query(rows[answers % len(rows)], 10)
        slowest, answers = max(slowest, time.perf_counter() - began), answers + 1
        time.sleep(0.02)
print(answers, slowest)
"""


def unit(rows: Rows) -> Rows:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def query_rows(data: str, dim: int, blocks: int) -> Rows:
    """float32 [QUERIES, dim], unit rows. Every query of clustered data has its identity in the gallery."""
    rng = np.random.default_rng([1, QUERIES])
    if data == "random":
        return unit(rng.standard_normal((QUERIES, dim), dtype=np.float32))
    centres = np.concatenate(
        [_centres(q % blocks, dim)[q // blocks % (BLOCK // PER_IDENTITY)][None] for q in range(QUERIES)]
    )
    return unit(centres + 0.7 * rng.standard_normal((QUERIES, dim), dtype=np.float32))


def _centres(block: int, dim: int) -> Rows:
    """float32 [identities, dim]: those of one block."""
    return np.random.default_rng([2, block]).standard_normal((BLOCK // PER_IDENTITY, dim), dtype=np.float32)


def block_rows(data: str, block: int, blocks: int, dim: int, queries: Rows) -> Rows:
    """float32 [BLOCK, dim]: the block-th thousand of a gallery. Always the same, so that a run can go on."""
    rng = np.random.default_rng([3, block])
    noise = rng.standard_normal((BLOCK, dim), dtype=np.float32)
    if data == "clustered":
        return unit(np.repeat(_centres(block, dim), PER_IDENTITY, 0) + 0.7 * noise)
    rows = unit(noise)
    # The planted neighbours of query q are the first K points of block q (of block q modulo the number of blocks).
    mine = range(block, len(queries), blocks)
    cosines = np.linspace(0.9, 0.3, K, dtype=np.float32)[:, None]
    for place, query in enumerate(mine):
        part = slice(place * K, (place + 1) * K)
        across = unit(rows[part] - (rows[part] @ queries[query])[:, None] * queries[query])
        rows[part] = cosines * queries[query] + np.sqrt(1 - cosines**2) * across
    return unit(rows)


def payloads_of(block: int) -> list[dict[str, Any]]:
    numbers = range(block * BLOCK, (block + 1) * BLOCK)
    return [
        {
            "identity": f"{number // PER_IDENTITY:06d}",
            "camera": str(number % 6 + 1),
            "source": "/data/gallery",
            "key": f"{number // PER_IDENTITY:06d}/{number:08d}.jpg",
            "path": f"/data/gallery/{number // PER_IDENTITY:06d}/{number:08d}.jpg",
            "size": 2000 + number % 5000,
            "mtime_ns": 1_700_000_000_000_000_000 + number,
        }
        for number in numbers
    ]


def ids_of(block: int) -> list[str]:
    """Random in their order, as those of an ingest are."""
    rng = np.random.default_rng([4, block])
    return [str(uuid.UUID(bytes=rng.bytes(16))) for _ in range(BLOCK)]


def build(store: Path, data: str, points: int, model: ModelRef, storage: Storage, queries: Rows) -> tuple[float, int]:
    """(seconds that the engine took for what was not there yet, how many points that were)."""
    seconds, blocks = 0.0, points // BLOCK
    with open_gallery(store, model=model, create=True, mode="w", storage=storage) as gallery:
        first = gallery.count() // BLOCK
        for block in range(first, blocks):
            rows, ids, payloads = (
                block_rows(data, block, blocks, model.dim, queries),
                ids_of(block),
                payloads_of(block),
            )
            began = time.perf_counter()
            gallery.upsert(ids, rows, payloads)
            seconds += time.perf_counter() - began
            if (block + 1) % 100 == 0:
                print(f"{data}: {(block + 1) * BLOCK:,} points", file=sys.stderr, flush=True)
        began = time.perf_counter()
        gallery.flush()
        return seconds + time.perf_counter() - began, (blocks - first) * BLOCK


def optimise(store: Path, rows: Path, index: bool | None, *, alone: bool) -> dict[str, Any]:
    """Optimise while another process searches, or alone."""
    env = {**os.environ, "PYTHONPATH": os.fspath(PROJECT)}
    command = [sys.executable, "-c", SEARCHER, os.fspath(store), os.fspath(rows)]
    searcher = (
        None if alone else subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    )
    try:
        began = time.perf_counter()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        with open_gallery(store, mode="w", wait=600) as gallery:
            changed = gallery.optimise(index=index)
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        figures: dict[str, Any] = {
            "optimise_s": time.perf_counter() - began,
            "optimise_cpu_s": now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
            "optimised": changed,
        }
        if searcher is not None:
            answers, slowest = searcher.communicate()[0].split()
            figures["searches_meanwhile"] = int(answers)
            figures["slowest_search_meanwhile_s"] = float(slowest)
        return figures
    finally:
        if searcher is not None and searcher.poll() is None:
            searcher.kill()
            searcher.wait()


def exact(data: str, points: int, dim: int, queries: Rows) -> NDArray[np.int64]:
    """int64 [QUERIES, K]: the numbers of the nearest points, by brute force over the vectors as they were made."""
    best = np.full((len(queries), 0), 0, np.int64)
    scores = np.full((len(queries), 0), 0, np.float32)
    blocks = points // BLOCK
    for block in range(blocks):
        found = queries @ block_rows(data, block, blocks, dim, queries).T
        scores = np.concatenate([scores, found], 1)
        best = np.concatenate([best, np.broadcast_to(block * BLOCK + np.arange(BLOCK), (len(queries), BLOCK))], 1)
        keep = np.argpartition(-scores, K - 1, axis=1)[:, :K]
        best, scores = np.take_along_axis(best, keep, 1), np.take_along_axis(scores, keep, 1)
    return best


def recall(store: Path, wanted: NDArray[np.int64], queries: Rows) -> float:
    """Share of the exact K nearest that the gallery finds."""
    names: dict[int, list[str]] = {}
    hits = 0
    with open_gallery(store) as gallery:
        for ranked, row in zip(wanted, queries, strict=True):
            found = {hit.id for hit in gallery.query(row, K)}
            for number in ranked:
                block = int(number) // BLOCK
                if block not in names:
                    names[block] = ids_of(block)
                hits += names[block][int(number) % BLOCK] in found
    return hits / wanted.size


def filtered(store: Path, queries: Rows, points: int) -> dict[str, float]:
    """Median and 95th percentile, in milliseconds, of filtered queries in an open gallery."""
    identities = tuple(f"{number:06d}" for number in range(0, points // PER_IDENTITY, points // PER_IDENTITY // 20))
    camera = Condition("camera", "=", ("3",))
    among = Condition("identity", "=", identities[:20])
    out = {}
    with open_gallery(store) as gallery:
        for name, where in (
            ("all", []),
            ("camera", [camera]),
            ("identity_in_20", [among]),
            ("camera_and_identity_in_20", [camera, among]),
        ):
            times, cpu = [], time.process_time()
            for row in queries:
                began = time.perf_counter()
                gallery.query(row, K, where)
                times.append(1000 * (time.perf_counter() - began))
            out[f"query_{name}_p50_ms"] = statistics.median(times)
            out[f"query_{name}_p95_ms"] = sorted(times)[int(len(times) * 0.95)]
            out[f"query_{name}_cpu_ms"] = 1000 * (time.process_time() - cpu) / len(queries)
    return out


def cold_searches(store: Path, work: Path, runs: int) -> float:
    """Median seconds of ``sss search`` with an image, a process each."""
    image = work / "query.jpg"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (128, 64, 3), dtype=np.uint8)).save(image)
    command = [sys.executable, "-m", "siamese_search", "search", os.fspath(image), "--store", os.fspath(store)]
    env = {**os.environ, "PYTHONPATH": os.fspath(PROJECT)}
    times = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])  # the first one brings the files into the system's memory


def readers(store: Path, rows: Path, runs: int) -> dict[str, Any]:
    """Medians over ``runs`` processes that open the gallery and search."""
    env = {**os.environ, "PYTHONPATH": os.fspath(PROJECT)}
    command = [sys.executable, "-c", READER, os.fspath(store), os.fspath(rows)]
    said = [
        json.loads(subprocess.run(command, check=True, env=env, capture_output=True, text=True).stdout)
        for _ in range(runs + 1)
    ]
    last = said[-1]
    out: dict[str, Any] = {"first_open_s": said[0]["open_s"]}
    for name in ("open_s", "first_query_ms", "query_p50_ms"):
        out[name] = statistics.median(one[name] for one in said[1:])
    for moment in ("bare", "opened", "searched"):
        for kind, amount in last[moment].items():
            out[f"{moment}_{kind}_mb"] = amount / 1e6
    return out


def measure(data: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    bundle = load_bundle(None)
    model = ModelRef(bundle.fingerprint, bundle.dim, bundle.name)
    storage = Storage(options.storage, options.quantise)
    points = options.points // BLOCK * BLOCK
    queries = query_rows(data, bundle.dim, points // BLOCK)
    store = work / f"{data}-{points}-{options.storage}-{options.quantise}"
    rows = work / f"{data}-queries.npy"
    np.save(rows, queries)
    figures: dict[str, Any] = {"points": points, "storage": str(storage)}
    seconds, made = build(store, data, points, model, storage, queries)
    if made == points:  # a part of it would not tell
        figures["build_s"] = seconds
    index = {"auto": None, "yes": True, "no": False}[options.index]
    optimised = optimise(store, rows, index, alone=options.alone)
    if optimised["optimised"]:
        figures |= optimised
    with open_gallery(store) as gallery:
        info = gallery.info()
        figures |= {
            "disk_mb": info.size_bytes / 1e6,
            "estimated_mb": info.resident_bytes / 1e6,
            "indexed_points": info.indexed_points,
        }
    figures |= readers(store, rows, options.runs)
    figures["cold_search_s"] = cold_searches(store, work, options.runs)
    figures |= filtered(store, queries, points)
    figures["recall_at_10"] = recall(store, exact(data, points, bundle.dim, queries), queries)
    return figures


def record(path: Path, figures: dict[str, Any]) -> None:
    """Put the figures of one kind of data into the results; those of the other kind stay."""
    document = json.loads(path.read_text()) if path.exists() else {}
    for data, new in figures.items():
        old = document.get(data, {})
        same = all(old.get(key) == new[key] for key in ("points", "storage"))
        document[data] = {**(old if same else {}), **new}
    machine = {
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[2],
    }
    atomic_write_text(path, json.dumps({**document, "targets": TARGETS, "machine": machine}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a large gallery in one process.")
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--data", nargs="+", choices=["random", "clustered"], default=["random", "clustered"])
    parser.add_argument("--storage", choices=VECTORS, default="float16")
    parser.add_argument("--quantise", choices=QUANTISATIONS, default="int4")
    parser.add_argument("--index", choices=["auto", "yes", "no"], default="auto")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="nobody searches while it is optimised")
    parser.add_argument("--work", type=Path, help="a directory for the galleries (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=PROJECT / "benchmarks" / "results" / "million.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        figures: dict[str, Any] = {}
        for data in options.data:
            figures[data] = measure(data, options, work)
            record(options.out, {data: figures[data]})  # now: the next one takes hours on a busy machine
    print(f"{'':32}" + "".join(f"{data:>22}" for data in figures))
    for name in dict.fromkeys(name for one in figures.values() for name in one):
        cells = [one.get(name, "") for one in figures.values()]
        shown = "".join(f"{c:>22,.4g}" if isinstance(c, float) else f"{c!s:>22}" for c in cells)
        print(f"{name:32}{shown}" + (f"   target {TARGETS[name]:g}" if name in TARGETS else ""))


if __name__ == "__main__":
    main()

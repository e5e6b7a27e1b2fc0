"""The second run over a directory in which nothing has changed: files per second, and memory by size.

    python benchmarks/reingest.py [--files 100000] [--small 10000] [--repeats 3] [--checksum]

Makes a directory of tiny files (hard links to a few, under names of their own), fills a gallery with random unit
vectors under the ids and payloads that an ingest would have given them (no model is needed), and times ``run_ingest``
over it: scan, plan, and nothing to embed. On a busy machine the CPU seconds say more than the wall clock.

Each run is a process of its own, so that its memory is its own; the same with ``--small`` files shows what grows with
the directory. Of the memory there are three figures: all that is resident at the peak, mapped files of the store
included; of that, what is the process's own (anonymous); and by how much that grows while the ingest runs, which is
the ingest without the store.

``--prune`` adds the look for files that have gone, ``--checksum`` reads every file. Prints a table and writes
benchmarks/results/reingest.json.
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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
# Python puts this script's own directory first, where "ingest" is another file.
sys.path[0] = str(ROOT)

from ingest.pipeline import run_ingest  # noqa: E402
from ingest.plan import payload_of  # noqa: E402
from ingest.scan import scan_files, survey_roots  # noqa: E402
from siamese_search.datasets.records import point_id  # noqa: E402
from siamese_search.gallery import open_gallery  # noqa: E402
from siamese_search.gallery.contract import ModelRef  # noqa: E402
from siamese_search.io.files import atomic_write_text  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "reingest.json"
TARGET = 20_000
MEMORY_TARGET = 1.15
_FOLDER = 1000  # files per directory
_LINKS = 1000  # hard links per file: file systems allow 65,000 and fewer


class NoModel:
    """Stands where the model would; the second run must not ask it for anything."""

    input_size = (256, 128)

    def __init__(self, dim: int) -> None:
        self.dim, self.fingerprint = dim, "0" * 64
        self.centres = None

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise AssertionError(f"{len(images)} images were to be embedded in a second run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--small", type=int, default=10_000, help="the other size; 0 for none")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--names", choices=["market", "plain"], default="market")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checksum", action="store_true")
    parser.add_argument("--prune", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--run", nargs=2, type=Path, metavar=("IMAGES", "STORE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(one_run(*options.run, options)))
        return
    sizes = [size for size in (options.small, options.files) if size]
    runs = {}
    with tempfile.TemporaryDirectory() as scratch:
        for size in sizes:
            images, store = Path(scratch, f"images{size}"), Path(scratch, f"store{size}")
            make_files(images, size, options.names)
            fill(images, store, options.dim)
            if options.checksum:  # the first such run adds the checksums
                run_apart(images, store)
            runs[size] = [run_apart(images, store) for _ in range(options.repeats)]
    result = summary(runs, options)
    atomic_write_text(options.out, json.dumps(result, indent=1) + "\n")
    for row in result["sizes"]:
        print(
            f"{row['files']:>9,} files  {row['seconds']:>7.2f} s  {row['files_per_second']:>9,.0f} files/s"
            f"  {row['cpu_seconds']:>7.2f} s of CPU"
            f"  {row['peak_megabytes']:>5.0f} MB at most, {row['own_megabytes']:.0f} MB its own,"
            f" {row['growth_megabytes']:+.1f} MB by the ingest"
        )
    print(f"target: {TARGET:,} files/s, peak memory within {MEMORY_TARGET - 1:.0%}: {result['memory_ratio']:.3f}")


def make_files(root: Path, count: int, names: str) -> None:
    """``count`` names in folders of a thousand, each a hard link to one of a few tiny files."""
    template = root / "template"
    for number in range(count):
        folder = root / f"{number // _FOLDER:05d}"
        if number % _FOLDER == 0:
            folder.mkdir(parents=True)
        if number % _LINKS == 0:
            template.unlink(missing_ok=True)
            template.write_bytes(b"not to be decoded" + number.to_bytes(8, "big"))
        name = (
            f"{number % 1501:04d}_c{number % 6 + 1}s1_{number:06d}_01.jpg" if names == "market" else f"{number:07d}.jpg"
        )
        os.link(template, folder / name)
    template.unlink(missing_ok=True)


def fill(root: Path, store: Path, dim: int) -> None:
    """The gallery that an ingest would have made, with random vectors."""
    rng = np.random.default_rng(0)
    with open_gallery(store, model=ModelRef("0" * 64, dim), create=True, mode="w") as gallery:
        for chunk in scan_files(survey_roots([root])):
            vectors = rng.standard_normal((len(chunk), dim)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            ids = [point_id(file.source, file.record.key) for file in chunk]
            gallery.upsert(ids, vectors, [payload_of(file) for file in chunk])


def run_apart(images: Path, store: Path) -> dict[str, Any]:
    """:func:`one_run` in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--run", os.fspath(images), os.fspath(store)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def one_run(images: Path, store: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A second run, timed without the start of the process."""
    with open_gallery(store, model=ModelRef("0" * 64, options.dim), mode="w") as gallery:
        points = gallery.count()  # opens the shard
        before = peak_own = _anonymous()

        def sample(_moment: object) -> None:
            nonlocal peak_own
            peak_own = max(peak_own, _anonymous())

        started = time.perf_counter()
        used = time.process_time()
        done = run_ingest(
            [images],
            gallery,
            NoModel(options.dim),
            checksum=options.checksum,
            prune="safe" if options.prune else "no",
            progress=sample,
        )
        seconds, used = time.perf_counter() - started, time.process_time() - used
    assert (done.unchanged, done.seen, done.removed) == (points, points, 0), done
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "cpu_seconds": used, "peak": peak, "own": peak_own, "growth": peak_own - before}


def _anonymous() -> int:
    """Bytes of this process's own resident memory, without mapped files (Linux)."""
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * resource.getpagesize()


def summary(runs: dict[int, list[dict[str, Any]]], options: argparse.Namespace) -> dict[str, Any]:
    sizes = []
    for files, each in runs.items():
        seconds = statistics.median(run["seconds"] for run in each)
        sizes.append(
            {
                "files": files,
                "seconds": seconds,
                "files_per_second": files / seconds,
                "cpu_seconds": statistics.median(run["cpu_seconds"] for run in each),
                **{
                    f"{what}_megabytes": statistics.median(run[what] for run in each) / 1e6
                    for what in ("peak", "own", "growth")
                },
                "runs": [run["seconds"] for run in each],
            }
        )
    return {
        "sizes": sizes,
        "target_files_per_second": TARGET,
        "memory_ratio": sizes[-1]["peak_megabytes"] / sizes[0]["peak_megabytes"],
        "target_memory_ratio": MEMORY_TARGET,
        "options": {"names": options.names, "dim": options.dim, "checksum": options.checksum, "prune": options.prune},
        "machine": {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()},
    }


if __name__ == "__main__":
    main()

"""Searches per second through an open gallery (``sss.open``) against one ``sss.search`` after the other.

    python benchmarks/handle.py [--images 2000] [--calls 20] [--threads 1] [--writing]

Fills a gallery with random unit vectors of the bundled model's dimension (no images are embedded for it) and asks for
the neighbours of drawn images, one per call: by ``sss.search``, which opens the gallery and loads the network each
time, and by a handle, which does so once. ``--writing`` does it again while another process keeps adding points to the
gallery, for which the handle gives way between its calls. The answers are compared.

Prints a table and writes benchmarks/results/handle.json.
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

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import siamese_search as sss  # noqa: E402
from siamese_search.datasets.demo import generate_demo  # noqa: E402
from siamese_search.gallery import open_gallery  # noqa: E402
from siamese_search.model.bundle import load_bundle  # noqa: E402
from siamese_search.workspace import reference  # noqa: E402


def fill(store: str, images: int, seed: int = 0) -> None:
    """Random unit vectors under the bundled model's name."""
    model = reference(load_bundle(None))
    rows = np.random.default_rng(seed).standard_normal((images, model.dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, f"{seed}/{number}")) for number in range(images)]
    payloads = [
        {"identity": f"{n % 100:04}", "camera": f"{n % 6}", "key": f"{n}.jpg", "path": f"/{n}.jpg"}
        for n in range(images)
    ]
    with open_gallery(store, model=model, create=True, mode="w") as gallery:
        gallery.upsert(ids, rows, payloads)


def drawn_photos(directory: Path, count: int) -> list[Path]:
    """So many queries: drawn people, again and again."""
    generate_demo(directory / "demo", identities=4, cameras=2)
    drawn = sorted((directory / "demo" / "gallery").glob("*.jpg"))
    return [drawn[number % len(drawn)] for number in range(count)]


def write_for_ever(store: str) -> None:
    """What the other process does: ten points at a time, with a pause."""
    number = 0
    while True:
        number += 1
        fill(store, 10, seed=number)
        time.sleep(0.05)


def timed(call: Callable[[Path], Any], photos: list[Path]) -> tuple[list[float], list[Any]]:
    """Seconds of each call, and what it answered."""
    seconds, answers = [], []
    for photo in photos:
        began = time.perf_counter()
        answers.append(call(photo))
        seconds.append(time.perf_counter() - began)
    return seconds, answers


def measure(store: str, photos: list[Path], threads: int) -> dict[str, Any]:
    """Both ways, over the same queries; the handle's first call, which loads, is named apart."""
    apart, expected = timed(lambda photo: sss.search(photo, store=store, threads=threads), photos)
    with sss.open(store, threads=threads) as people:
        (first,), _ = timed(people.search, photos[:1])
        held, found = timed(people.search, photos)
    return {
        "search_per_second": len(apart) / sum(apart),
        "handle_per_second": len(held) / sum(held),
        "search_median_ms": 1000 * statistics.median(apart),
        "handle_median_ms": 1000 * statistics.median(held),
        "handle_first_ms": 1000 * first,
        "times": sum(apart) / sum(held),
        "equal": found == expected,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--writing", action="store_true", help="also while another process writes")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write_for_ever(arguments.write)
    with tempfile.TemporaryDirectory(prefix="sss-handle-") as directory:
        store = os.path.join(directory, "store")  # noqa: PTH118
        fill(store, arguments.images)
        photos = drawn_photos(Path(directory), arguments.calls)
        results = {"alone": measure(store, photos, arguments.threads)}
        if arguments.writing:
            command = [sys.executable, __file__, "--write", store]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as writer:
                try:
                    results["while another writes"] = measure(store, photos, arguments.threads)
                finally:
                    writer.kill()
            results["while another writes"].pop("equal")  # the gallery grew meanwhile
    print(f"{'':22} {'search/s':>9} {'handle/s':>9} {'times':>6} {'median ms':>16} {'first ms':>9}")
    for name, one in results.items():
        medians = f"{one['search_median_ms']:.0f} -> {one['handle_median_ms']:.0f}"
        print(
            f"{name:22} {one['search_per_second']:9.2f} {one['handle_per_second']:9.2f} {one['times']:6.1f}"
            f" {medians:>16} {one['handle_first_ms']:9.0f}"
        )
    document = {
        "images": arguments.images,
        "calls": arguments.calls,
        "threads": arguments.threads,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": round(os.getloadavg()[0], 1),
        "results": results,
    }
    (HERE / "results" / "handle.json").write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Ingest against its own upper bound, measured in one run on the same images and the same cores.

    python benchmarks/ingest.py IMAGES [--limit 2000] [--model BUNDLE] [--threads N] [--repeats 3]

Prints a table and writes benchmarks/results/ingest.json. Rows:

forward only   the embedder on images already decoded in memory: what the processor can do
end to end     run_ingest into a fresh store: scan, decode, embed, commit
re-ingest      the same command again: nothing has changed
as a process   the re-ingest in a new process, start and imports included

Repeats alternate forward and end to end, and medians are compared, so that a busy or a throttled machine slows both.
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
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
# Python puts this script's own directory first, where "ingest" would be this very file.
sys.path[0] = str(ROOT)

from ingest.pipeline import run_ingest  # noqa: E402
from siamese_search.datasets.layouts import scan_records  # noqa: E402
from siamese_search.files import atomic_write_text  # noqa: E402
from siamese_search.gallery import open_gallery  # noqa: E402
from siamese_search.gallery.base import ModelRef  # noqa: E402
from siamese_search.images import read_image  # noqa: E402
from siamese_search.model.bundle import Bundle, load_bundle  # noqa: E402
from siamese_search.model.embedder import Embedder, load_embedder  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "ingest.json"
TARGET = 0.92


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--limit", type=int, default=2000, help="images used (default: 2000; 0 for all)")
    parser.add_argument("--model", type=Path, help="bundle (default: the bundled one)")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--decode-threads", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    bundle = load_bundle(options.model)
    embedder = load_embedder(bundle, threads=options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        root, count = _linked(options.images, Path(scratch) / "images", options.limit)
        pixels = _decoded(root, embedder.input_size, min(count, 1024))
        embedder.embed(pixels[: options.batch_size])  # the first run allocates
        forward, full, again = [], [], []
        for repeat in range(options.repeats):
            forward.append(_forward(embedder, pixels, options.batch_size))
            store = Path(scratch) / f"store{repeat}"
            full.append(count / _ingest(root, store, bundle, embedder, options))
            again.append(count / _ingest(root, store, bundle, embedder, options))
        process = _process(root, Path(scratch) / "store0", options.model)
    result = {
        "images": count,
        "input_size": list(embedder.input_size),
        "forward_images_per_second": statistics.median(forward),
        "ingest_images_per_second": statistics.median(full),
        "ratio": statistics.median(full) / statistics.median(forward),
        "target_ratio": TARGET,
        "reingest_files_per_second": statistics.median(again),
        "reingest_process_seconds": process,
        "runs": {"forward": forward, "ingest": full, "reingest": again},
        "options": {k: v for k, v in vars(options).items() if isinstance(v, int)},
        "machine": {
            "cpus": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
        "model": bundle.fingerprint,
    }
    atomic_write_text(options.out, json.dumps(result, indent=1) + "\n")
    _print(result)


def _linked(images: Path, root: Path, limit: int) -> tuple[Path, int]:
    """A directory of links to the first ``limit`` images, so that a part of a set can be measured."""
    root.mkdir()
    count = 0
    for record in scan_records(images):
        (root / f"{count:07d}{record.path.suffix}").symlink_to(record.path.resolve())
        count += 1
        if count == limit:
            break
    return root, count


def _decoded(root: Path, size: tuple[int, int], count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.stack([read_image(path, size) for path in sorted(root.iterdir())[:count]])


def _forward(embedder: Embedder, pixels: np.ndarray[Any, np.dtype[np.uint8]], batch: int) -> float:
    """Images per second of the model alone."""
    started = time.perf_counter()
    for start in range(0, len(pixels), batch):
        embedder.embed(pixels[start : start + batch])
    return len(pixels) / (time.perf_counter() - started)


def _ingest(
    root: Path, store: Path, bundle: Bundle, embedder: Embedder, options: argparse.Namespace
) -> float:
    """Seconds of one run_ingest."""
    model = ModelRef(bundle.fingerprint, bundle.dim, bundle.name)
    with open_gallery(store, model=model, create=True, mode="w") as gallery:
        started = time.perf_counter()
        summary = run_ingest(
            [root],
            gallery,
            embedder,
            batch_size=options.batch_size,
            decode_threads=options.decode_threads,
        )
        assert not summary.failed, summary.failures[:3]
        return time.perf_counter() - started


def _process(root: Path, store: Path, model: Path | None) -> float:
    """Seconds of ``sss ingest`` on what is stored already, process start included."""
    command = [sys.executable, "-m", "siamese_search", "ingest", str(root), "--store", str(store), "--json"]
    command += ["--model", str(model)] if model else []
    started = time.perf_counter()
    # In the scratch directory no sss.toml interferes.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=store.parent, env=environment
    )
    seconds = time.perf_counter() - started
    assert json.loads(answer.stdout)["new"] == 0, answer.stdout
    return seconds


def _print(result: dict[str, Any]) -> None:
    height, width = result["input_size"]
    print(f"{result['images']} images at {height}x{width}, {result['machine']['cpus']} CPUs")
    print(f"{'forward only':<16}{result['forward_images_per_second']:>12,.1f} images/s")
    print(f"{'end to end':<16}{result['ingest_images_per_second']:>12,.1f} images/s")
    print(f"{'ratio':<16}{result['ratio']:>12.3f}   (target {TARGET})")
    print(f"{'re-ingest':<16}{result['reingest_files_per_second']:>12,.0f} files/s")
    print(f"{'as a process':<16}{result['reingest_process_seconds']:>12.2f} s")


if __name__ == "__main__":
    main()

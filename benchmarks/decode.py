"""Decode large photographs at the size of a model, against a full decode by Pillow, with the same threads.

    python benchmarks/decode.py [--photos 2000] [--megapixels 12] [--quality 85 90 95] [--threads 2]

Draws some distinct photographs, reads them in a loop until there have been --photos, and prints a table and writes
benchmarks/results/decode.json. Per JPEG quality:

full        Image.open().convert("RGB").resize(), as data loaders do it
here        siamese_search.io.decoding.BatchDecoder, as ingest does it
entropy     Pillow at 1/8 of the size: what is left when nothing but the entropy coding is undone in full.
            No decoder that reads the whole file with libjpeg-turbo can be faster than that

The three take turns on the same photographs, and medians of their rates are compared, so that a busy or a throttled
machine slows all of them; "cpu" is the same ratio of processor times, which other programs disturb least. The
difference is that of the results of "full" and "here", in grey levels.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
# Python puts this script's own directory first, where "ingest" would be the benchmark of that name.
sys.path[:1] = [str(ROOT), str(ROOT / "tests" / "support")]

from photos import draw_photo  # noqa: E402

from siamese_search.io.decoding import BatchDecoder  # noqa: E402
from siamese_search.io.files import atomic_write_text  # noqa: E402
from siamese_search.io.images import read_image  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "decode.json"
TARGET = 4.0
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=200, help="photographs read per method and quality")
    parser.add_argument("--distinct", type=int, default=10, help="photographs drawn")
    parser.add_argument("--megapixels", type=float, default=12.0)
    parser.add_argument("--quality", type=int, nargs="+", default=[85, 90, 95])
    parser.add_argument("--subsampling", default="4:2:0", choices=["4:4:4", "4:2:2", "4:2:0"])
    parser.add_argument("--noise", type=float, default=2.0, help="of the sensor, in grey levels (default: 2)")
    parser.add_argument("--size", type=int, nargs=2, default=[256, 128], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--repeats", type=int, default=5, help="turns that each method takes")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        drawn = _draw(Path(scratch), options)
        rows = [_measure(paths, quality, options) for quality, paths in drawn.items()]
    result = {
        "rows": rows,
        "target_ratio": TARGET,
        "options": {name: value for name, value in vars(options).items() if name != "out"},
        "machine": {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()},
    }
    atomic_write_text(options.out, json.dumps(result, indent=1) + "\n")
    _print(result)


def _draw(scratch: Path, options: argparse.Namespace) -> dict[int, list[Path]]:
    """The photographs, 4:3, every other one upright, in each quality."""
    height = round((options.megapixels * 1e6 * 3 / 4) ** 0.5 / 8) * 8
    size = (height, round(height * 4 / 3 / 8) * 8)
    drawn: dict[int, list[Path]] = {quality: [] for quality in options.quality}
    for number in range(options.distinct):
        photo = draw_photo(number, size if number % 2 else size[::-1], options.noise)
        for quality, paths in drawn.items():
            paths.append(scratch / f"{number}-{quality}.jpg")
            photo.save(paths[-1], quality=quality, subsampling=options.subsampling)
    return drawn


def _measure(paths: Sequence[Path], quality: int, options: argparse.Namespace) -> dict[str, Any]:
    height, width = options.size

    def full(path: Path) -> np.ndarray[Any, Any]:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))

    def entropy(path: Path) -> None:
        with Image.open(path) as image:
            image.draft("RGB", (image.width // 8, image.height // 8))
            image.load()

    def threaded(one: Callable[[Path], object]) -> Callable[[Sequence[Path]], None]:
        def run(batch: Sequence[Path]) -> None:
            for _ in pool.map(one, batch):
                pass

        return run

    def here(batch: Sequence[Path]) -> None:
        pending = [
            decoder.submit(batch[start : start + BATCH]) for start in range(0, len(batch), BATCH)
        ]  # as many as fit a turn: no queue between turns, so no method works in another's time
        for part in pending:
            with part.result() as decoded:
                assert not decoded.failures, decoded.failures[0]

    per_turn = max(options.threads, options.photos // options.repeats)
    rates: dict[str, list[float]] = {"full": [], "here": [], "entropy": []}
    spent: dict[str, list[float]] = {name: [] for name in rates}
    with ThreadPoolExecutor(options.threads) as pool, BatchDecoder((height, width), options.threads) as decoder:
        methods = {"full": threaded(full), "here": here, "entropy": threaded(entropy)}
        for method in methods.values():
            method(paths[: options.threads])  # the first use imports and allocates
        for turn in range(options.repeats):
            batch = list(itertools.islice(itertools.cycle(paths), turn, turn + per_turn))
            for name, method in methods.items():
                before, started = time.process_time(), time.perf_counter()
                method(batch)
                rates[name].append(per_turn / (time.perf_counter() - started))
                spent[name].append((time.process_time() - before) / per_turn * 1000)
    difference = np.abs(np.stack([full(path).astype(int) - read_image(path, (height, width)) for path in paths]))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    cpu = {name: statistics.median(values) for name, values in spent.items()}
    return {
        "quality": quality,
        "megabytes": round(statistics.mean(path.stat().st_size for path in paths) / 1e6, 2),
        "photos_per_second": {name: round(value, 2) for name, value in medians.items()},
        "ratio": round(medians["here"] / medians["full"], 2),
        "ratio_of_entropy_alone": round(medians["entropy"] / medians["full"], 2),
        "cpu_ms": {name: round(value, 2) for name, value in cpu.items()},
        "cpu_ratio": round(cpu["full"] / cpu["here"], 2),
        "cpu_ratio_of_entropy_alone": round(cpu["full"] / cpu["entropy"], 2),
        "difference": {
            "mean": round(float(difference.mean()), 3),
            "share_over_2": round(float((difference > 2).mean()), 6),
            "max": int(difference.max()),
        },
        "runs": {name: [round(value, 2) for value in values] for name, values in rates.items()},
    }


def _print(result: dict[str, Any]) -> None:
    options = result["options"]
    print(
        f"{options['photos']} JPEGs of {options['megapixels']:g} megapixels, {options['subsampling']}, to"
        f" {options['size'][0]}x{options['size'][1]}, {options['threads']} threads; photos/s; target {TARGET:g}x"
    )
    print(
        f"{'quality':>7} {'MB':>5} {'full':>7} {'here':>7} {'ratio':>6} {'cpu':>5} {'entropy':>8}"
        f" {'mean':>6} {'>2':>8} {'max':>4}"
    )
    for row in result["rows"]:
        rates, difference = row["photos_per_second"], row["difference"]
        print(
            f"{row['quality']:>7} {row['megabytes']:>5.2f} {rates['full']:>7.1f} {rates['here']:>7.1f}"
            f" {row['ratio']:>6.2f} {row['cpu_ratio']:>5.2f} {rates['entropy']:>8.1f} {difference['mean']:>6.3f}"
            f" {difference['share_over_2']:>8.4%} {difference['max']:>4}"
        )


if __name__ == "__main__":
    main()

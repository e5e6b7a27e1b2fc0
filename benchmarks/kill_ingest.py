"""``kill -9`` at random moments of an ingest, until it has died often enough; the galleries must not differ.

    python benchmarks/kill_ingest.py [--kills 50] [--images 2000] [--model BUNDLE] [--seed 1]

Draws small pictures, ingests them once without interruption, and then again and again with the real command in
processes that are killed: between their start and the end of the uninterrupted run any moment is as likely as any
other. After each kill the same command goes on in the same gallery; when it comes to its end, the gallery must hold
the same ids, payloads, checksums and vectors, bit by bit, and the next gallery begins. Prints what happened and writes
benchmarks/results/kill_ingest.json; exits with 1 when anything was lost, doubled or wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
# ruff: noqa: E402 - benchmarks/ingest.py must not hide the package of that name

import numpy as np
from PIL import Image

from siamese_search.errors import GalleryNotFoundError
from siamese_search.gallery import open_gallery
from siamese_search.gallery.checks import is_sound
from siamese_search.io.files import atomic_write_text

RESULT = Path(__file__).resolve().parent / "results" / "kill_ingest.json"

#: id → (payload, vector's bytes)
Points = dict[str, tuple[dict[str, Any], bytes]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--model", type=Path, help="bundle (default: the bundled one)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each ingest (default: all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "images"
        draw(root, options.images, options.seed)
        started = time.monotonic()
        subprocess.run(command(root, Path(scratch) / "whole", options), check=True, capture_output=True)
        duration = time.monotonic() - started
        expected, sound = points_of(Path(scratch) / "whole")
        assert sound
        assert len(expected) == options.images
        print(f"{options.images} images, {duration:.1f} s without interruption", flush=True)
        result = kill(root, Path(scratch), expected, duration, options)
    result["options"] = {"images": options.images, "seed": options.seed, "seconds": duration}
    atomic_write_text(options.out, json.dumps(result, indent=1) + "\n")
    wrong = result["lost"] + result["doubled"] + result["wrong"] + result["damaged"]
    print(
        f"{result['kills']} kills ({result['in_mid_ingest']} with a part of the images stored), {result['galleries']}"
        f" galleries: {result['lost']} lost, {result['doubled']} doubled, {result['wrong']} wrong,"
        f" {result['damaged']} damaged"
    )
    return 1 if wrong else 0


def draw(root: Path, count: int, seed: int) -> None:
    """Small JPEGs of coarse coloured noise, with Market-1501 names, so that payloads have labels."""
    root.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = rng.integers(0, 256, (8, 4, 3), dtype=np.uint8)
        name = f"{number // 8 + 1:04d}_c{number % 6 + 1}s1_{number:06d}_01.jpg"
        Image.fromarray(pixels).resize((64, 128), Image.Resampling.BICUBIC).save(root / name, quality=90)


def command(root: Path, store: Path, options: argparse.Namespace) -> list[str]:
    parts = [sys.executable, "-m", "siamese_search", "ingest", root, "--store", store, "--json"]
    parts += ["--threads", options.threads]
    parts += ["--model", options.model] if options.model else []
    return [str(part) for part in parts]


def points_of(store: Path) -> tuple[Points, bool]:
    """All points of the gallery, each id once; and whether every vector agrees with its checksum."""
    with open_gallery(store) as gallery:
        points = list(gallery.scroll(with_vectors=True))
        sound = all(is_sound(point, gallery.dim) for point in points)
    found: Points = {}
    for point in points:
        assert point.vector is not None
        found[point.id] = (point.payload, point.vector.tobytes())
    return found, sound and len(found) == len(points)


def kill(root: Path, scratch: Path, expected: Points, duration: float, options: argparse.Namespace) -> dict[str, Any]:
    """Ingest into one gallery after the other; count what is wrong in each, when it is whole and after each kill."""
    moments = random.Random(options.seed)
    result = dict.fromkeys(("kills", "in_mid_ingest", "galleries", "lost", "doubled", "wrong", "damaged"), 0)
    kept: Points = {}
    store = scratch / "store0"
    while result["kills"] < options.kills or kept:
        last = result["kills"] >= options.kills  # of the last gallery only the rest is wanted
        process = subprocess.Popen(
            command(root, store, options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            _, complaint = process.communicate(timeout=None if last else moments.uniform(0, duration))
            if process.returncode != 0:
                raise SystemExit(f"the ingest failed after {result['kills']} kills: {complaint}")
            complete = True
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            result["kills"] += 1
            complete = False
        try:
            points, sound = points_of(store)
        except GalleryNotFoundError:  # killed before there was one
            points, sound = {}, True
        result["damaged"] += not sound
        result["lost"] += len(kept.keys() - points.keys())
        result["doubled"] += len(points.keys() - expected.keys())
        result["wrong"] += sum(points[one] != expected[one] for one in points.keys() & expected.keys())
        result["in_mid_ingest"] += not complete and 0 < len(points) < len(expected)
        kept = points
        if complete:
            result["lost"] += len(expected.keys() - points.keys())
            result["galleries"] += 1
            store, kept = scratch / f"store{result['galleries']}", {}
        print(f"kill {result['kills']}: {len(points)} of {len(expected)}{' whole' * complete}", flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())

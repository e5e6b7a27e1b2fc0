"""1,000 damaged and hostile files beside sound ones: the ingest must end, name each one, and stay within its memory.

    python benchmarks/damaged.py [--count 1000] [--sound 100] [--seed 0]

Writes damaged files of every format (tests/support/damaged.py) and some that mean harm: pictures of gigapixels in a few
kilobytes, large ones by the dozen, text that unpacks without end, a file of 3 GiB, a pipe, a device, loops. The real
command ingests the sound ones alone, then everything, each in a process of its own into a gallery of its own. Every
file must be a point or in the list of failures, and every sound one a point with the vector that it has alone. Prints
what happened and writes benchmarks/results/damaged.json; exits with 1 where a file is missing or the run did not end as
it should.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
sys.path.append(str(ROOT / "tests" / "support"))
# ruff: noqa: E402 - benchmarks/ingest.py must not hide the package of that name

import numpy as np
from damaged import write_damaged
from PIL import Image

from siamese_search.datasets.records import decode_key
from siamese_search.gallery import open_gallery
from siamese_search.io.files import atomic_write_text

RESULT = Path(__file__).resolve().parent / "results" / "damaged.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="damaged and hostile files together")
    parser.add_argument("--sound", type=int, default=100)
    parser.add_argument("--large", type=int, default=12, help="pictures of 36 megapixels among the hostile")
    parser.add_argument("--model", type=Path, help="bundle (default: the bundled one)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        draw_sound(scratch / "sound", options.sound, options.seed)
        root = scratch / "all"
        draw_sound(root / "sound", options.sound, options.seed)
        hostile = write_hostile(root / "hostile", options.large)
        write_damaged(root / "damaged", options.count - hostile, options.seed)
        alone = ingest(scratch / "sound", scratch, options.model)
        together = ingest(root, scratch, options.model)
    result: dict[str, Any] = {
        "files": options.count,
        "hostile": hostile,
        "sound": options.sound,
        "seed": options.seed,
        "cores": len(os.sched_getaffinity(0)),
    }
    seen = files_below(together.pop("names"))
    points, failures = together.pop("points"), together.pop("failures")
    result["alone"] = {name: alone[name] for name in ("exit_code", "seconds", "cpu_seconds", "peak_mb")}
    result["together"] = together
    result["stored"], result["named"] = len(points), len(failures)
    result["neither"] = sorted(seen - points.keys() - failures)
    result["sound_lost"] = sum(points.get(f"sound/{key}") != row for key, row in alone["points"].items())
    atomic_write_text(options.out, json.dumps(result, indent=1) + "\n")
    print(
        f"{options.count} damaged and hostile files beside {options.sound} sound ones: exit code"
        f" {together['exit_code']} after {together['seconds']} s ({together['cpu_seconds']} of a processor);"
        f" {len(points)} readable and stored, {len(failures)} named, {len(result['neither'])} neither;"
        f" {result['sound_lost']} sound ones lost or changed; peak"
        f" {together['peak_mb']:,} MB, {alone['peak_mb']:,} MB with the sound ones alone"
    )
    ended = alone["exit_code"] == 0 and together["exit_code"] == 3
    return 0 if ended and not result["neither"] and not result["sound_lost"] else 1


def draw_sound(root: Path, count: int, seed: int) -> None:
    """JPEGs of coarse coloured noise, as large as a camera's crops."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = rng.integers(0, 256, (8, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 128), Image.Resampling.BICUBIC).save(root / f"{number:04d}.jpg")


def write_hostile(root: Path, large: int) -> int:
    """Files that mean harm; how many."""
    root.mkdir(parents=True)
    bomb = png(60_000, 60_000, zlib.compress(bytes(10_000_000), 9))
    (root / "claims gigapixels.png").write_bytes(bomb)
    (root / "claims more than there can be.png").write_bytes(png(2**31 - 1, 2**31 - 1, b""))
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9))
    (root / "text without end.png").write_bytes(png(8, 8, zlib.compress(bytes(8 * 9)), text))
    (root / "text for ever.png").write_bytes(png(8, 8, zlib.compress(bytes(8 * 9)), text * 50))
    for number in range(large):
        Image.new("RGB", (6000, 6000), (number, 0, 0)).save(
            root / f"large {number}.tif", compression="tiff_adobe_deflate"
        )
    with (root / "three gigabytes.jpg").open("wb") as file:
        file.truncate(3 << 30)
    os.mkfifo(root / "pipe.jpg")
    (root / "device.jpg").symlink_to("/dev/zero")
    (root / "loop.jpg").symlink_to("loop.jpg")
    (root / "secrets.jpg").symlink_to("/etc/passwd")
    (root / "nowhere.jpg").symlink_to("not there")
    (root / "circle").symlink_to(root)
    for name in ("line\nbreak.jpg", "\x1b[31mred.jpg", os.fsdecode(b"\xff\xfe.jpg"), "-k.jpg", "x" * 250 + ".jpg"):
        (root / name).write_bytes(b"\xff\xd8\xff")
    return len(list(root.iterdir()))


def png(width: int, height: int, data: bytes, before: bytes = b"") -> bytes:
    """A greyscale PNG with this compressed data, whatever its header says; ``before``: chunks before it."""
    head = chunk(b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0")
    return b"\x89PNG\r\n\x1a\n" + head + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def ingest(root: Path, scratch: Path, model: Path | None) -> dict[str, Any]:
    """The real command; its exit code, seconds and peak memory in MB; points (key: vector) and failures."""
    store, log = scratch / f"{root.name}.store", scratch / f"{root.name}.failures"
    command = [sys.executable, "-m", "siamese_search", "ingest", root, "--layout", "flat", "--store", store]
    command += ["--failures", log, *(["--model", model] if model else [])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.monotonic()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([str(part) for part in command], stdout=quiet, stderr=quiet, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    points: dict[str, bytes] = {}
    with open_gallery(store) as gallery:
        for point in gallery.scroll(with_vectors=True):
            assert point.vector is not None
            points[decode_key(point.key)] = point.vector.tobytes()
    base = os.path.join(os.path.realpath(root), "")  # noqa: PTH118 - names may hold any bytes
    failures = {json.loads(line)["path"].removeprefix(base) for line in log.read_text().splitlines()}
    return {
        "exit_code": process.returncode,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
        "points": points,
        "failures": failures,
        "names": [os.path.relpath(path, root) for path in root.rglob("*")],
    }


def files_below(names: list[str]) -> set[str]:
    """What an ingest has to give account of: everything but the three directories themselves."""
    return {name for name in names if "/" in name}


if __name__ == "__main__":
    sys.exit(main())

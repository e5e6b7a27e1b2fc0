"""OpenVINO against ONNX Runtime: processor time per image on one thread, and how far their vectors agree.

    python benchmarks/cpu_engines.py IMAGES [--limit 500] [--model BUNDLE] [--repeats 5] [--int8]

The engines take turns on the same images; processor time is what other programs on the machine disturb least. Rows:
ONNX Runtime; OpenVINO in float32 and bfloat16, by images per run; and with --int8 a quantised bundle in both.
``cosine`` is that of the vectors of an image, ``score`` the largest difference between what two engines say of a pair
of images, ``rank 1`` the share of images whose nearest other image is the same. Prints a table and writes
benchmarks/results/cpu_engines.json. Needs the [openvino] extra, and [torch] to quantise.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
# Python puts this script's own directory first, where "ingest" would be the benchmark of that name.
sys.path[0] = str(ROOT)

from siamese_search.datasets.layouts import survey  # noqa: E402
from siamese_search.io.files import atomic_write_text  # noqa: E402
from siamese_search.io.images import read_image  # noqa: E402
from siamese_search.model.bundle import load_bundle  # noqa: E402
from siamese_search.model.embedder import Embedder, OnnxEmbedder, OpenVinoEmbedder  # noqa: E402
from siamese_search.model.weights_file import quantise  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "cpu_engines.json"
#: Images timed in one turn of an engine.
_TURN = 96


class InEights(OpenVinoEmbedder):
    chunk = 8


class OneByOne(OpenVinoEmbedder):
    chunk = 1


class Int8(OpenVinoEmbedder):
    """Runs a quantised bundle, which the engine refuses."""

    def __init__(self, bundle: Any, *, half: bool) -> None:
        super().__init__(type(bundle)(bundle.path, {**bundle.meta, "precision": "float32"}), threads=1, half=half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--limit", type=int, default=500, help="images compared (default: 500)")
    parser.add_argument("--model", type=Path, help="bundle (default: the bundled one)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--int8", action="store_true", help="quantised bundles, too")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    bundle = load_bundle(options.model)
    records = list(survey(options.images).stream())
    chosen = records[:: max(1, len(records) // options.limit)][: options.limit]
    pixels = np.stack([read_image(record.path, bundle.input_size) for record in chosen])
    with tempfile.TemporaryDirectory() as scratch:
        engines: dict[str, Embedder] = {
            "onnx runtime": OnnxEmbedder(bundle, threads=1),
            "openvino f32": OpenVinoEmbedder(bundle, threads=1, half=False),
            "openvino bf16": OpenVinoEmbedder(bundle, threads=1, half=True),
            "openvino bf16, 1 image": OneByOne(bundle, threads=1, half=True),
            "openvino bf16, 8 images": InEights(bundle, threads=1, half=True),
        }
        if options.int8:
            small = quantise(bundle, pixels[:: max(1, len(pixels) // 128)][:128], Path(scratch) / "int8")
            engines |= {
                "onnx runtime int8": OnnxEmbedder(small, threads=1),
                "openvino int8": Int8(small, half=False),
                "openvino int8, rest bf16": Int8(small, half=True),
            }
        rows = _measure(engines, pixels, options.repeats)
    result = {
        "images": len(pixels),
        "input_size": list(bundle.input_size),
        "model": bundle.fingerprint,
        "rows": rows,
        "machine": {"processor": _processor(), "machine": platform.machine(), "python": platform.python_version()},
    }
    before = json.loads(options.out.read_text()) if options.out.exists() else {}
    height, width = bundle.input_size
    atomic_write_text(options.out, json.dumps({**before, f"{height}x{width}": result}, indent=1) + "\n")
    print(f"{len(pixels)} images at {height}x{width}, {result['machine']['processor']}, one thread")
    print(f"{'':<26} {'cpu ms':>7} {'÷ ORT':>6} {'least cosine':>13} {'score':>7} {'rank 1':>7}")
    for row in rows:
        print(
            f"{row['engine']:<26} {row['cpu_ms']:>7.2f} {row['ratio']:>6.2f} {row['least_cosine']:>13.5f}"
            f" {row['largest_score_difference']:>7.4f} {row['same_nearest']:>7.1%}"
        )


def _measure(engines: dict[str, Embedder], pixels: NDArray[np.uint8], repeats: int) -> list[dict[str, Any]]:
    spent: dict[str, list[float]] = {name: [] for name in engines}
    for engine in engines.values():
        engine.embed(pixels[:8])  # the first run allocates
    for turn in range(repeats):
        start = turn * _TURN % max(1, len(pixels) - _TURN)
        part = pixels[start : start + _TURN]
        for name, engine in engines.items():
            before = time.process_time()
            engine.embed(part)
            spent[name].append((time.process_time() - before) / len(part) * 1000)
    least = {name: statistics.median(values) for name, values in spent.items()}
    reference = engines["onnx runtime"].embed(pixels)
    scores = reference @ reference.T
    nearest = _nearest(scores)
    rows = []
    for name, engine in engines.items():
        vectors = engine.embed(pixels)
        cosines = (vectors * reference).sum(axis=1)
        found = vectors @ vectors.T
        rows.append(
            {
                "engine": name,
                "cpu_ms": round(least[name], 3),
                "ratio": round(least[name] / least["onnx runtime"], 3),
                "least_cosine": round(float(cosines.min()), 6),
                "mean_cosine": round(float(cosines.mean()), 6),
                "largest_score_difference": round(float(np.abs(found - scores).max()), 5),
                "mean_score_difference": round(float(np.abs(found - scores).mean()), 6),
                "same_nearest": round(float((_nearest(found) == nearest).mean()), 4),
                "runs": [round(value, 3) for value in spent[name]],
            }
        )
    return rows


def _nearest(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Of each image the nearest other one."""
    others = scores.copy()
    np.fill_diagonal(others, -np.inf)
    nearest: NDArray[np.int64] = others.argmax(axis=1)
    return nearest


def _processor() -> str:
    """The processor's name, and which instructions it has that matter here."""
    name, flags = platform.processor(), ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() == "flags":
                flags = value
    except OSError:
        return name
    known = [flag for flag in ("avx2", "avx512_vnni", "avx512_bf16", "amx_bf16") if f" {flag}" in flags]
    return f"{name} ({', '.join(known)})"


if __name__ == "__main__":
    main()

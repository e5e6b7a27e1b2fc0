"""Ingest against its own upper bound, measured in one run on the same images and the same cores.

    python benchmarks/ingest.py IMAGES [--limit 2000] [--model BUNDLE] [--threads N] [--repeats 3]
        [--plain 1000] [--search] [--sweep] [--memory 10000,100000]

Prints a table and writes benchmarks/results/ingest.json. Rows:

forward only   the embedder on images already decoded in memory: what the processor can do
end to end     run_ingest into a fresh store: scan, decode, embed, commit
re-ingest      the same command again: nothing has changed
as a process   the re-ingest in a new process, start and imports included
plain          --plain N: timm in eager mode, DataLoader and QdrantClient(path=), on the first N images
search         --search: the longest that a search in another process took during an ingest, less its time alone

Repeats alternate forward and end to end, and medians are compared, so that a busy or a throttled machine slows both.
--sweep measures forward only and end to end for several numbers of threads and sizes of batches, and ONNX Runtime with
all threads in each layer, and OpenVINO where it is installed. --memory: see benchmarks/ingest_memory.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
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
# Python puts this script's own directory first, where "ingest" would be this very file.
sys.path[0] = str(ROOT)

from ingest.pipeline import run_ingest  # noqa: E402
from ingest.summary import IngestSummary  # noqa: E402
from siamese_search.datasets.layouts import survey  # noqa: E402
from siamese_search.gallery import open_gallery  # noqa: E402
from siamese_search.gallery.contract import ModelRef  # noqa: E402
from siamese_search.io.files import atomic_write_text  # noqa: E402
from siamese_search.io.images import read_image  # noqa: E402
from siamese_search.io.resources import available_cpus  # noqa: E402
from siamese_search.model.bundle import Bundle, load_bundle  # noqa: E402
from siamese_search.model.embedder import Embedder, load_embedder  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "ingest.json"
TARGET = 0.92


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--limit", type=int, default=2000, help="images used (default: 2000; 0 for all)")
    parser.add_argument("--model", type=Path, help="bundle (default: the bundled one)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "openvino", "cuda"))
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--decode-threads", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plain", type=int, default=0, metavar="N", help="also the plain way, on N images")
    parser.add_argument("--search", action="store_true", help="also searches during an ingest")
    parser.add_argument("--sweep", action="store_true", help="only the sweep of threads and batch sizes")
    parser.add_argument("--memory", metavar="N,N", help="only the peak memory for these numbers of images")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.memory:
            from benchmarks.ingest_memory import measure

            counts = [int(count) for count in options.memory.split(",")]
            _merge(options.out, {"memory": measure(counts, Path(scratch))})
            return
        bundle = load_bundle(options.model)
        root, count = _linked(options.images, Path(scratch) / "images", options.limit)
        pixels = _decoded(root, bundle.input_size, min(count, 1024))
        if options.sweep:
            from benchmarks.ingest_sweep import sweep

            def end_to_end(embedder: Embedder, decode_threads: int, batch: int, name: str) -> float:
                store = Path(scratch) / f"sweep-{name}"
                return count / _ingest(root, store, bundle, embedder, decode_threads, batch).seconds

            rows = sweep(bundle, pixels, lambda *one: _forward(*one), end_to_end, options.repeats)
            _merge(options.out, {"sweep": rows})
            return
        result = _measure(options, bundle, root, count, pixels, Path(scratch))
        if options.plain:
            result |= _plain(options, bundle, root, Path(scratch), result["ingest_images_per_second"])
        if options.search:
            result |= _search(options, bundle, root, Path(scratch))
    _merge(options.out, result)
    _print(result)


def _measure(
    options: argparse.Namespace, bundle: Bundle, root: Path, count: int, pixels: NDArray[np.uint8], scratch: Path
) -> dict[str, Any]:
    embedder = load_embedder(bundle, device=options.device, threads=options.threads)
    embedder.embed(pixels[: options.batch_size])  # the first run allocates
    forward, full, again = [], [], []
    cpu: dict[str, list[float]] = {"forward": [], "ingest": []}
    for repeat in range(options.repeats):
        before = time.process_time()
        forward.append(_forward(embedder, pixels, options.batch_size))
        cpu["forward"].append((time.process_time() - before) / len(pixels))
        store = scratch / f"store{repeat}"
        arguments = (root, store, bundle, embedder, options.decode_threads, options.batch_size)
        before = time.process_time()
        summary = _ingest(*arguments)
        cpu["ingest"].append((time.process_time() - before) / count)
        full.append(count / summary.seconds)
        again.append(count / _ingest(*arguments).seconds)
    return {
        "images": count,
        "input_size": list(embedder.input_size),
        "device": options.device,
        "forward_images_per_second": statistics.median(forward),
        "ingest_images_per_second": statistics.median(full),
        "ratio": statistics.median(full) / statistics.median(forward),
        "target_ratio": TARGET,
        "forward_cpu_ms": statistics.median(cpu["forward"]) * 1000,
        "ingest_cpu_ms": statistics.median(cpu["ingest"]) * 1000,
        "reingest_files_per_second": statistics.median(again),
        "reingest_process_seconds": _process(root, scratch / "store0", options.model),
        "busy": {stage: round(summary.busy(stage), 3) for stage in summary.stages},
        "bottleneck": summary.bottleneck,
        "runs": {"forward": forward, "ingest": full, "reingest": again},
        "options": {k: v for k, v in vars(options).items() if isinstance(v, int)},
        "machine": {"cpus": available_cpus(), "machine": platform.machine(), "python": platform.python_version()},
        "model": bundle.fingerprint,
    }


def _plain(options: argparse.Namespace, bundle: Bundle, root: Path, scratch: Path, ours: float) -> dict[str, Any]:
    """The plain way on some of the images, and how many times as fast we are."""
    from benchmarks.ingest_plain import plain_ingest

    paths = sorted(root.iterdir())[: options.plain]
    seconds, vectors = plain_ingest(paths, scratch / "plain", bundle, options.batch_size)
    same = load_embedder(bundle).embed(_decoded(root, bundle.input_size, len(vectors)))
    rate = len(paths) / seconds
    return {
        "plain_images_per_second": rate,
        "times_plain": ours / rate,
        "plain_least_cosine": float((vectors * same).sum(axis=1).min()),
    }


def _search(options: argparse.Namespace, bundle: Bundle, root: Path, scratch: Path) -> dict[str, Any]:
    """The longest search of another process while an ingest with ``--reembed`` runs, and the median without."""
    store = scratch / "store0"
    command = [sys.executable, str(Path(__file__).with_name("ingest_search.py")), str(store)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    embedder = load_embedder(bundle, threads=options.threads)

    def watch(work: Any) -> list[float]:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as searcher:
            work()
            searcher.terminate()
            out, _ = searcher.communicate()
        return [float(line) for line in out.splitlines()[1:] if line.strip()]

    alone = watch(lambda: time.sleep(5))
    meanwhile = watch(
        lambda: _ingest(root, store, bundle, embedder, options.decode_threads, options.batch_size, reembed=True)
    )
    return {
        "search_seconds": statistics.median(alone),
        "search_seconds_during_ingest": statistics.median(meanwhile),
        "longest_search_during_ingest": max(meanwhile),
        "searches_during_ingest": len(meanwhile),
    }


def _merge(path: Path, result: dict[str, Any]) -> None:
    """Write what was measured over what the file holds from other runs."""
    before = json.loads(path.read_text()) if path.exists() else {}
    atomic_write_text(path, json.dumps({**before, **result}, indent=1) + "\n")


def _linked(images: Path, root: Path, limit: int) -> tuple[Path, int]:
    """A directory of the first ``limit`` images, so that a part of a set can be measured."""
    root.mkdir()
    count = 0
    for record in survey(images).stream():
        place = root / f"{count:07d}{record.path.suffix}"
        try:
            os.link(record.path, place)
        except OSError:  # another file system, or not our file
            shutil.copyfile(record.path, place)
        count += 1
        if count == limit:
            break
    return root, count


def _decoded(root: Path, size: tuple[int, int], count: int) -> NDArray[np.uint8]:
    return np.stack([read_image(path, size) for path in sorted(root.iterdir())[:count]])


def _forward(embedder: Embedder, pixels: NDArray[np.uint8], batch: int) -> float:
    """Images per second of the model alone."""
    started = time.perf_counter()
    for start in range(0, len(pixels), batch):
        embedder.embed(pixels[start : start + batch])
    return len(pixels) / (time.perf_counter() - started)


def _ingest(
    root: Path,
    store: Path,
    bundle: Bundle,
    embedder: Embedder,
    decode_threads: int,
    batch_size: int,
    *,
    reembed: bool = False,
) -> IngestSummary:
    """One run_ingest."""
    model = ModelRef(bundle.fingerprint, bundle.dim, bundle.name)
    with open_gallery(store, model=model, create=True, mode="w") as gallery:
        summary = run_ingest(
            [root], gallery, embedder, batch_size=batch_size, decode_threads=decode_threads, reembed=reembed
        )
    assert not summary.failed, summary.failures[:3]
    return summary


def _process(root: Path, store: Path, model: Path | None) -> float:
    """Seconds of ``sss ingest`` on what is stored already, process start included."""
    command = [sys.executable, "-m", "siamese_search", "ingest", str(root), "--store", str(store), "--json"]
    command += ["--model", str(model)] if model else []
    started = time.perf_counter()
    # In the scratch directory no sss.toml interferes.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=store.parent, env=environment)
    seconds = time.perf_counter() - started
    assert json.loads(answer.stdout)["new"] == 0, answer.stdout
    return seconds


def _print(result: dict[str, Any]) -> None:
    height, width = result["input_size"]
    print(f"{result['images']} images at {height}x{width}, {result['machine']['cpus']} CPUs")
    print(f"{'forward only':<16}{result['forward_images_per_second']:>12,.1f} images/s")
    print(f"{'end to end':<16}{result['ingest_images_per_second']:>12,.1f} images/s")
    print(f"{'ratio':<16}{result['ratio']:>12.3f}   (target {TARGET})")
    share = result["forward_cpu_ms"] / result["ingest_cpu_ms"]
    print(f"{'processor':<16}{share:>12.3f}   (its time for the forward pass ÷ for all, whatever else is running)")
    print(f"{'re-ingest':<16}{result['reingest_files_per_second']:>12,.0f} files/s")
    print(f"{'as a process':<16}{result['reingest_process_seconds']:>12.2f} s")
    print("busy: " + ", ".join(f"{stage} {share:.0%}" for stage, share in result["busy"].items()))
    if "times_plain" in result:
        print(f"{'plain':<16}{result['plain_images_per_second']:>12,.1f} images/s, {result['times_plain']:.1f} times")
    if "longest_search_during_ingest" in result:
        print(
            f"{'search':<16}{result['search_seconds']:>12.3f} s alone, during an ingest"
            f" {result['search_seconds_during_ingest']:.3f}, at most {result['longest_search_during_ingest']:.3f}"
        )


if __name__ == "__main__":
    main()

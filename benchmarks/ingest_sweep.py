"""Threads, batch sizes and engines, for benchmarks/ingest.py --sweep: which defaults are best on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.errors import MissingExtraError
from siamese_search.io.resources import available_cpus
from siamese_search.model.bundle import Bundle
from siamese_search.model.embedder import Embedder, OnnxEmbedder, load_embedder

Pixels = NDArray[np.uint8]
Run = Callable[[Pixels], NDArray[np.float32]]


class LayerParallel(OnnxEmbedder):
    """ONNX Runtime as it comes: all threads share each layer of one run."""

    def __init__(self, bundle: Bundle, *, threads: int, spinning: bool, chunk: int) -> None:
        import onnxruntime

        super().__init__(bundle, threads=1)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
        self._session = onnxruntime.InferenceSession(
            bundle.onnx_path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        self.chunk = chunk


def sweep(
    bundle: Bundle,
    pixels: Pixels,
    forward: Callable[[Embedder, Pixels, int], float],
    end_to_end: Callable[[Embedder, int, int, str], float],
    repeats: int,
) -> list[dict[str, Any]]:
    """Images per second of each configuration, medians of repeats that take turns; printed and returned.

    forward: of an embedder, images and a batch size. end_to_end: of an embedder, decode threads, a batch size.
    ``cpu_ms``: processor time per image of the forward pass, which a busy machine changes least.
    """
    cpus = available_cpus()
    engines: dict[str, Embedder] = {
        f"{threads} x 1 thread": OnnxEmbedder(bundle, threads=threads) for threads in sorted({1, cpus})
    }
    engines[f"1 x {cpus} threads, chunk 32"] = LayerParallel(bundle, threads=cpus, spinning=True, chunk=32)
    engines[f"1 x {cpus} threads, no spin"] = LayerParallel(bundle, threads=cpus, spinning=False, chunk=32)
    try:
        engines["openvino"] = load_embedder(bundle, device="openvino")
    except MissingExtraError:
        print("openvino is not installed")
    ours = engines[f"{cpus} x 1 thread"]
    reference = ours.embed(pixels[:64])
    tasks: dict[tuple[str, str], Callable[[], float]] = {}
    for name, engine in engines.items():
        tasks[name, "forward"] = lambda engine=engine: forward(engine, pixels, 64)  # type: ignore[misc]
    for batch in (16, 32, 128):
        tasks[f"batch {batch}", "forward"] = lambda batch=batch: forward(ours, pixels, batch)  # type: ignore[misc]
    for decode in sorted({1, max(1, cpus // 2), cpus, 2 * cpus}):
        for batch in (32, 64, 128):
            name = f"decode threads {decode}, batch {batch}"
            tasks[name, "end to end"] = lambda d=decode, b=batch, n=name: end_to_end(  # type: ignore[misc]
                ours, d, b, f"{n}-{time.monotonic_ns()}"
            )
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in tasks}
    spent: dict[tuple[str, str], list[float]] = {key: [] for key in tasks}
    for _ in range(repeats):
        for key, task in tasks.items():
            before, rate = time.process_time(), task()
            rates[key].append(rate)
            spent[key].append((time.process_time() - before) / len(pixels) * 1000)
    rows: list[dict[str, Any]] = []
    for (name, kind), values in rates.items():
        row: dict[str, Any] = {"what": name, "kind": kind, "images_per_second": round(statistics.median(values), 1)}
        if kind == "forward":
            row["cpu_ms"] = round(min(spent[name, kind]), 2)
        if name in engines:
            row["least_cosine"] = round(float((engines[name].embed(pixels[:64]) * reference).sum(1).min()), 6)
        rows.append(row)
        print("  ".join(f"{value}" for value in row.values()), flush=True)
    return rows

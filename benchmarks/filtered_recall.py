"""What a filter costs a search behind a graph: recall@10 of the exact search, and time, by the share that it keeps.

    python benchmarks/filtered_recall.py [--points N] [--dim N] [--server URL] [--out FILE]

Clustered unit vectors (750 people, six cameras that each push them their own way), which are harder for a graph than
those of images. Prints a table and writes JSON. ``sss`` is what a search does; the graph alone (with and without ACORN)
is measured in the embedded engine only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import qdrant_edge as edge

from siamese_search.gallery import open_store
from siamese_search.gallery.contract import Gallery, ModelRef
from siamese_search.gallery.edge import gallery as engine
from siamese_search.gallery.filters import bind, parse_where
from siamese_search.io.files import atomic_write_text

FILTERS = ("detection=0", "camera=1", "detection=1", "camera=3,4,5", "sequence!=1,2", "camera!=1")
QUERIES = 200
#: Ways through the graph: ACORN's max_selectivity (0: without it) and the candidates looked at.
WAYS = {"graph": (0.0, 128), "acorn 0.4": (0.4, 128), "acorn 1.0": (1.0, 128), "acorn 1.0, ef 512": (1.0, 512)}


def population(points: int, dim: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Vectors [points, dim] and their payloads."""
    rng = np.random.default_rng(0)
    camera = rng.integers(0, 6, points)
    vectors = rng.standard_normal((750, dim), np.float32)[rng.integers(0, 750, points)]
    vectors += 0.6 * rng.standard_normal((6, dim), np.float32)[camera]
    vectors += rng.standard_normal((points, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    detection = rng.choice(5, points, p=[0.05, 0.35, 0.25, 0.2, 0.15])
    sequence = rng.integers(1, 7, points)
    payloads = [
        {"camera": str(1 + c), "sequence": int(s), "detection": int(d)} for c, s, d in zip(camera, sequence, detection)
    ]
    return vectors, payloads


@contextmanager
def filled(store: str, vectors: np.ndarray, payloads: list[dict[str, Any]]) -> Iterator[Gallery]:
    """A gallery of these with an index, dropped afterwards."""
    name = f"benchmark-{uuid.uuid4().hex[:8]}"
    with open_store(store) as opened:
        try:
            with opened.open(name, model=ModelRef("b" * 64, vectors.shape[1]), create=True, mode="w") as gallery:
                ids = [str(uuid.UUID(int=1 + n)) for n in range(len(vectors))]
                gallery.upsert(ids, vectors, payloads)
                gallery.optimise(index=True)
                yield gallery
        finally:
            opened.drop(name)


def timed(ask: Callable[[], list[list[int]]], queries: int) -> tuple[list[list[int]], float]:
    """The answers, and milliseconds per query."""
    started = time.perf_counter()
    found = ask()
    return found, 1000 * (time.perf_counter() - started) / queries


def through_graph(selectivity: float, ef: int) -> Any:
    """Every search of the embedded engine goes this way."""
    acorn = edge.AcornSearchParams(enable=True, max_selectivity=selectivity) if selectivity else None

    def params(_storage: Any, _k: int, *, exact: bool, filtered: bool) -> edge.SearchParams:
        del filtered
        return edge.SearchParams(exact=exact, hnsw_ef=None if exact else ef, acorn=None if exact else acorn)

    return patch.multiple(engine, search_params=params, exact_if_filtered=lambda *_: False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--server", default="")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "filtered_recall.json")
    asked = parser.parse_args()
    vectors, payloads = population(asked.points, asked.dim)
    rows = vectors[:: max(1, asked.points // QUERIES)]
    table: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, filled(asked.server or folder, vectors, payloads) as gallery:
        for expression in FILTERS:
            where = bind(parse_where([expression]), gallery.fields())
            exact, cost = timed(lambda: gallery.query_ids(rows, 10, where, exact=True), len(rows))  # noqa: B023
            line: dict[str, Any] = {"filter": expression, "kept": gallery.count(where) / asked.points, "exact_ms": cost}
            for way in ("sss", *(() if asked.server else WAYS)):
                with through_graph(*WAYS[way]) if way in WAYS else patch.dict({}):
                    found, cost = timed(lambda: gallery.query_ids(rows, 10, where), len(rows))  # noqa: B023
                shares = [len(set(a) & set(b)) / len(b) for a, b in zip(found, exact, strict=True) if b]
                line[way] = {"recall": float(np.mean(shares)), "worst": min(shares), "ms": cost}
            table.append(line)
    machine = {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }
    result = {"points": asked.points, "dim": asked.dim, "engine": "server" if asked.server else "embedded"}
    atomic_write_text(asked.out, json.dumps({**result, "filters": table, "machine": machine}, indent=2) + "\n")
    ways = [name for name in ("sss", *WAYS) if name in table[0]]
    print(f"{asked.points:,} points x {asked.dim}-D, {result['engine']}; recall@10 (worst query), ms a query")
    print(f"{'filter':15}{'kept':>6}{'exact':>10}" + "".join(f"{way:>26}" for way in ways))
    for line in table:
        cells = (f"{line[w]['recall']:.4f} ({line[w]['worst']:.1f}) {line[w]['ms']:6.2f} ms" for w in ways)
        print(f"{line['filter']:15}{line['kept']:6.0%}{line['exact_ms']:7.2f} ms" + "".join(f"{c:>26}" for c in cells))


if __name__ == "__main__":
    main()

"""Near pairs of a gallery: blocked products behind a projection, plain blocked products, and the gallery's own queries.

    python benchmarks/duplicates.py STORE [--gallery NAME] [--points N] [--queries N] [--threshold S] [--out FILE]

STORE: a gallery whose vectors are taken. Beyond their number, points are drawn near them (noise of 0.6 of a vector's
length, so that such a pair is no near one). Processor seconds of one thread; the last two ways are measured on a part
and scaled, by the number of pairs and of queries. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

# Python puts this script's own directory first, where "ingest" would be another script.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from siamese_search.gallery import open_gallery  # noqa: E402
from siamese_search.io.files import atomic_write_text  # noqa: E402
from siamese_search.vectors.near_pairs import BLOCK, near_pairs  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--gallery", default="default")
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "duplicates.json")
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    with open_gallery(asked.store, asked.gallery) as gallery, tempfile.TemporaryFile() as spool:
        real = np.stack([p.vector for p in gallery.scroll(with_vectors=True) if p.vector is not None])
        started = time.process_time()
        gallery.query_batch(real[: asked.queries], 20, exact=True, with_payload=False)
        query = (time.process_time() - started) / asked.queries
        count, dim = asked.points, real.shape[1]
        for start in range(0, count, BLOCK):
            part = np.resize(real, (start + min(BLOCK, count - start), dim))[start:].copy()
            if start + len(part) > len(real):
                part += rng.normal(0, 0.6 / np.sqrt(dim), part.shape).astype(np.float32)
                part /= np.linalg.norm(part, axis=1, keepdims=True)
            spool.write(part.astype(np.float32).tobytes())
        spool.flush()
        vectors: Any = np.memmap(spool, np.float32, "r", shape=(count, dim))
        pairs, started = 0, time.process_time()
        for rows, _, _ in near_pairs(vectors, asked.threshold):
            pairs += len(rows)
        projected = time.process_time() - started
        block, other = np.asarray(vectors[:BLOCK]), np.asarray(vectors[-BLOCK:])
        started = time.process_time()
        for _ in range(5):
            np.nonzero(block @ other.T >= asked.threshold)
        blocks = -(-count // BLOCK)
        plain = (time.process_time() - started) / 5 * blocks * (blocks + 1) / 2
    result = {
        "points": count,
        "dim": dim,
        "threshold": asked.threshold,
        "pairs": pairs,
        "cpu_seconds": {
            "projection first": round(projected, 1),
            "blocked products (scaled)": round(plain, 1),
            "gallery queries (scaled)": round(query * count * count / len(real), 1),
        },
        "queried_in": len(real),
        "peak_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6),
    }
    atomic_write_text(asked.out, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

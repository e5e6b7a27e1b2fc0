"""Search a gallery without pause, for benchmarks/ingest.py --search: prints the seconds of each search.

Each opens the gallery, waits for its turn, asks for the ten nearest to a random vector, and closes it again.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from siamese_search.gallery import open_gallery

if __name__ == "__main__":
    rng = np.random.default_rng(0)
    while True:
        started = time.perf_counter()
        with open_gallery(sys.argv[1], wait=60) as gallery:
            vector = rng.normal(size=gallery.dim).astype(np.float32)
            gallery.query(vector / np.linalg.norm(vector), 10)
        print(time.perf_counter() - started, flush=True)
        time.sleep(0.1)

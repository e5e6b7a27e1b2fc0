"""One ingest in a process of its own, so that a decoder that crashes takes no test with it: ``... ROOT``.

Prints JSON: the summary, and the key and vector of every point.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fakes import ColourEmbedder, MemoryGallery

from ingest.pipeline import run_ingest

if __name__ == "__main__":
    gallery = MemoryGallery()
    summary = run_ingest([Path(sys.argv[1])], gallery, ColourEmbedder(), layout="flat", decode_threads=2)
    points = {payload["key"]: vector.tolist() for vector, payload in gallery.points.values()}
    failures = [[failure.path, failure.reason] for failure in summary.failures]
    print(json.dumps({"seen": summary.seen, "failed": summary.failed, "failures": failures, "points": points}))

"""One ingest in a process of its own: ``ingest_process.py ROOT STORE SECONDS_PER_BATCH WAIT``.

Prints ``started`` once the first batch is being embedded, and the summary as JSON at the end; exits with 130 when it
was interrupted. Takes the model of ``fakes``, slowed down, and the real store.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from fakes import MODEL, ColourEmbedder

from ingest import pipeline, stages
from siamese_search.gallery import open_gallery
from siamese_search.io.resources import stop_on_signals


class SlowEmbedder(ColourEmbedder):
    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def embed(self, images):
        if not self.batches:
            print("started", flush=True)
        time.sleep(self.seconds)
        return super().embed(images)


def main() -> int:
    stages.COMMIT_POINTS = 48  # many commits in a short run, so that kills fall between and into them
    root, store, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    opened = open_gallery(store, model=MODEL, create=True, mode="w", wait=float(sys.argv[4]))
    with stop_on_signals() as stop, opened as gallery:
        summary = pipeline.run_ingest([root], gallery, SlowEmbedder(seconds), batch_size=16, stop=stop)
    print(json.dumps({**summary.to_json(), "interrupted": summary.interrupted}))
    return 130 if summary.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())

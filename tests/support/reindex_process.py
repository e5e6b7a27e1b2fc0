"""A re-index, or searches without pause, in a process of its own, with the models of ``fakes`` and the real store.

``reindex_process.py reindex STORE SECONDS_PER_BATCH``: from ``fakes.MODEL`` to :data:`MIRRORED`. Prints ``batch``
before each batch is embedded, and the summary as JSON at the end; exits with 130 when it was interrupted.

``reindex_process.py search STORE``: opens the gallery anew for every search and asks for each of its own images by
what the gallery's model makes of it. Prints the fingerprint of each answered search; any wrong answer ends it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from fakes import MODEL, ColourEmbedder

from siamese_search.errors import GalleryReplacedError
from siamese_search.gallery import open_gallery, open_store
from siamese_search.gallery.contract import ModelRef
from siamese_search.io.images import read_image
from siamese_search.io.resources import stop_on_signals
from siamese_search.maintenance.reindex import run_reindex

MIRRORED = ModelRef("e" * 64, 48, "mirrored")


class MirroredEmbedder(ColourEmbedder):
    """Another model: the same colours, read backwards."""

    fingerprint = MIRRORED.fingerprint

    def __init__(self, seconds=0.0, *, loud=False):
        super().__init__()
        self.seconds, self.loud = seconds, loud

    def embed(self, images):
        if self.loud:
            print("batch", flush=True)
        time.sleep(self.seconds)
        return np.ascontiguousarray(super().embed(images)[:, ::-1])


def reindex(store, seconds):
    with stop_on_signals() as stop, open_store(store) as opened:
        try:
            embedder = MirroredEmbedder(seconds, loud=True)
            summary = run_reindex(opened, "default", MIRRORED, embedder, batch_size=16, stop=stop)
        except KeyboardInterrupt:
            return 130
    print(json.dumps(summary.to_json()))
    return 0


def search(store):
    models = {MODEL.fingerprint: ColourEmbedder(), MIRRORED.fingerprint: MirroredEmbedder()}
    pixels = {}
    while True:
        try:
            with open_gallery(store, wait=60) as gallery:
                points = list(gallery.scroll(batch=50))  # several turns, as a search has
                for point in points:
                    if point.id not in pixels:
                        pixels[point.id] = read_image(Path(point.payload["path"]), (16, 8))
                rows = models[gallery.model.fingerprint].embed(np.stack([pixels[one.id] for one in points]))
                answers = gallery.query_batch(rows, 1)
                assert len(points) == int(sys.argv[3]), len(points)
                for point, (hit,) in zip(points, answers, strict=True):
                    assert hit.score > 0.9999, (gallery.model, point, hit)
                    assert hit.payload["key"] == point.payload["key"]
                print(gallery.model.fingerprint, flush=True)
        except GalleryReplacedError:
            print("replaced", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "reindex":
        sys.exit(reindex(sys.argv[2], float(sys.argv[3])))
    search(sys.argv[2])

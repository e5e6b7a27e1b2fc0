"""Peak memory of an ingest by its number of images, for benchmarks/ingest.py --memory.

Each ingest is a process of its own, over links to a hundred drawn pictures, with a very small network: its memory does
not depend on the number of images, and it is fast. ``anonymous`` is what the kernel cannot take back; the rest of
``resident`` is files that are mapped: libraries, and the pages of the store that were touched of late. ``pipeline``
ingests into a gallery that forgets everything, so that what the store holds in memory does not count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
_PER_FOLDER = 1000


def measure(counts: list[int], scratch: Path) -> list[dict[str, Any]]:
    """For each number of images: peak MB of the pipeline alone and with the embedded store."""
    model = _tiny_bundle(scratch / "model")
    _draw(scratch / "pictures")
    rows = []
    for count in counts:
        root = scratch / f"images{count}"
        _link(scratch / "pictures", root, count)
        row: dict[str, Any] = {"images": count}
        for kind in ("pipeline", "store"):
            command = [sys.executable, __file__, kind, str(root), str(scratch / f"store{count}"), str(model)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            row[kind] = json.loads(done.stdout)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def _tiny_bundle(path: Path) -> Path:
    import torch

    from siamese_search.model.network import APNNetwork, NetworkSpec
    from siamese_search.model.weights_file import save_bundle

    torch.manual_seed(7)
    spec = NetworkSpec(backbone="test_efficientnet", dim=32, height=64, width=32)
    return save_bundle(APNNetwork(spec), path, {}).path


def _draw(directory: Path) -> None:
    directory.mkdir()
    rng = np.random.default_rng(0)
    for number in range(100):
        pixels = rng.integers(0, 256, (8, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 64)).save(directory / f"{number}.jpg")


def _link(pictures: Path, root: Path, count: int) -> None:
    for number in range(count):
        folder = root / f"{number // _PER_FOLDER:05d}"
        if number % _PER_FOLDER == 0:
            folder.mkdir(parents=True)
        os.link(pictures / f"{number % 100}.jpg", folder / f"{number:07d}.jpg")


class _Watch:
    """The peak of this process's memory, in MB, looked at twenty times a second."""

    def __init__(self) -> None:
        self.peak = {"resident": 0.0, "anonymous": 0.0}
        threading.Thread(target=self._run, daemon=True).start()

    def look(self) -> None:
        names = {"VmRSS": "resident", "RssAnon": "anonymous"}
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in names:
                kind = names[name]
                self.peak[kind] = max(self.peak[kind], int(value.split()[0]) / 1024)

    def _run(self) -> None:
        while True:
            self.look()
            time.sleep(0.05)


def _ingest(kind: str, root: Path, store: str, model: Path) -> None:
    """One ingest in this process; prints its peaks."""
    from ingest.pipeline import run_ingest
    from siamese_search.gallery import open_gallery
    from siamese_search.gallery.contract import Gallery, ModelRef
    from siamese_search.model.bundle import load_bundle
    from siamese_search.model.embedder import load_embedder

    bundle = load_bundle(model)
    reference = ModelRef(bundle.fingerprint, bundle.dim, "tiny")

    class Forgetful:
        name, store, dim, model = "default", "nowhere", bundle.dim, reference

        def retrieve(self, ids: list[str], **_: Any) -> list[None]:
            return [None] * len(ids)

        def upsert(self, *_: Any) -> None: ...

        def flush(self) -> None: ...

    watch = _Watch()
    embedder = load_embedder(bundle)
    if kind == "pipeline":
        gallery: Gallery = Forgetful()  # type: ignore[assignment]
        summary = run_ingest([root], gallery, embedder)
    else:
        with open_gallery(store, model=reference, create=True, mode="w") as gallery:
            summary = run_ingest([root], gallery, embedder)
    watch.look()
    rounded = {name: round(value, 1) for name, value in watch.peak.items()}
    print(json.dumps({**rounded, "seconds": round(summary.seconds, 1)}))


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not this directory, where "ingest" would be a benchmark
    _ingest(sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))

"""Do verdicts hold? The stated against the real false match rate, and how often a gallery tells which it is.

    python benchmarks/verdicts.py --data DIR [--images 500] [--cache FILE.npz]

Writes benchmarks/results/verdicts.json for the weights that ship. DIR holds ``market1501/unseen50``,
``cuhk03/unseen50``, ``orl_faces`` and ``vehicles/train``; the drawn demo set, noise and charts are made here.

1. Of each set: what really passes at stated rates, by the bundled calibration, and by one of the set's own, which was
   measured on half of its identities (as ``sss calibrate`` does) and is tried on the other half, five times.
2. Whether verdicts are given in random parts of a set, of several sizes, labels known or not. That is right if, and
   only if, what passes at 1 % on the whole set is between 0.5 % and 2 %.

After the weights have changed: the record that galleries are compared with is the calibration in their ``model.json``
itself (``sss evaluate --calibrate`` of the recipe's held-out run), so run this script again, and that is all.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from siamese_search.datasets.demo import generate_demo
from siamese_search.embedding import batches_of, embed_images
from siamese_search.errors import DataError, UsageError
from siamese_search.evaluation.calibrate import calibrate
from siamese_search.evaluation.protocol import Labels
from siamese_search.evaluation.verification import PairScores, pair_scores
from siamese_search.model.bundle import load_bundle
from siamese_search.model.calibration import Calibration
from siamese_search.retrieval.judging import Judge, checked
from siamese_search.workspace import load

RESULTS = Path(__file__).parent / "results" / "verdicts.json"
RATES = (0.1, 0.03, 0.01, 0.003)
SIZES = (16, 32, 64, 128, 256)
DRAWS = 200
#: Image, identity, camera.
Item = tuple[Path, str, str | None]
Vectors = NDArray[np.float32]


def items_of(data: Path, scratch: Path, most: int) -> Iterator[tuple[str, list[Item]]]:
    def market(root: Path) -> list[Item]:
        names = [(path, path.name.split("_")) for path in sorted(root.rglob("*.jpg"))]
        return [(path, parts[0], parts[1][:2]) for path, parts in names]

    yield "market1501 unseen50", market(data / "market1501/unseen50")
    yield "cuhk03 unseen50", market(data / "cuhk03/unseen50")
    yield "orl_faces", [(p, p.parent.name, None) for p in sorted((data / "orl_faces").rglob("*.pgm"))]
    cars = [(p, re.split("_", p.stem)) for p in sorted((data / "vehicles/train").rglob("*.jpg"))]
    kept = sorted({parts[1] for _, parts in cars})
    kept = random.Random(0).sample(kept, min(len(kept), most // 2))
    yield "vehicles", [(p, parts[1], parts[-1]) for p, parts in cars if parts[1] in kept][:most]
    generate_demo(scratch / "demo")
    yield "demo", market(scratch / "demo")
    for name, draw in (("noise", noise), ("charts", chart)):
        (scratch / name).mkdir()
        paths = [scratch / name / f"{number:03}.png" for number in range(100)]
        for number, path in enumerate(paths):
            draw(np.random.default_rng(number)).save(path)
        yield name, [(path, path.stem, None) for path in paths]


def noise(draw: np.random.Generator) -> Image.Image:
    """One colour, noise of any grain, or both."""
    grain = int(draw.integers(1, 17))
    rows = draw.normal(draw.uniform(0, 255, 3), draw.uniform(0, 90), (128 // grain, 64 // grain + 1, 3))
    return Image.fromarray(np.clip(rows, 0, 255).astype(np.uint8)).resize((64, 128), Image.Resampling.BICUBIC)


def chart(draw: np.random.Generator) -> Image.Image:
    """Bars, a line or dots between two axes on white."""
    picture = Image.new("RGB", (int(draw.integers(100, 400)), int(draw.integers(100, 400))), "white")
    pen, (width, height) = ImageDraw.Draw(picture), picture.size
    pen.line([(20, 10), (20, height - 20), (width - 10, height - 20)], fill="black", width=2)
    points = [
        (int(x), int(y)) for x, y in zip(np.linspace(30, width - 20, 8), draw.uniform(15, height - 25, 8), strict=True)
    ]
    colour, kind = tuple(int(c) for c in draw.integers(0, 200, 3)), draw.integers(3)
    for x, y in points if kind != 1 else []:
        box = (x - 6, y, x + 6, height - 20) if kind == 0 else (x - 4, y - 4, x + 4, y + 4)
        (pen.rectangle if kind == 0 else pen.ellipse)(box, fill=colour)
    if kind == 1:
        pen.line(points, fill=colour, width=3)
    return picture


def embedded(data: Path, most: int, cache: Path | None) -> dict[str, tuple[Vectors, list[str], list[str | None]]]:
    """Set → vectors [n, d], identities, cameras."""
    if cache is not None and cache.exists():
        saved = np.load(cache)
        names = [name.removesuffix("/v") for name in saved.files if name.endswith("/v")]
        return {
            n: (saved[f"{n}/v"], saved[f"{n}/i"].tolist(), [c or None for c in saved[f"{n}/c"].tolist()]) for n in names
        }
    eyes, found = load(load_bundle(None), "cpu", 1), {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, items in items_of(data, Path(scratch), most):
            parts = list(embed_images(batches_of(items), eyes, lambda item: item[0], threads=1))
            seen = [item for part in parts for item in part.items]
            vectors = np.concatenate([part.vectors for part in parts])
            found[name] = vectors, [one for _, one, _ in seen], [camera for *_, camera in seen]
            print(f"embedded {name}: {len(vectors)}", flush=True)
    if cache is not None:
        flat: dict[str, Any] = {}
        for name, (vectors, ids, cameras) in found.items():
            flat |= {f"{name}/v": vectors, f"{name}/i": ids, f"{name}/c": [c or "" for c in cameras]}
        np.savez(cache, **flat)
    return found


def scores(vectors: Vectors, ids: list[str], cameras: list[str | None], wanted: set[str] | None = None) -> PairScores:
    rows = [row for row, one in enumerate(ids) if wanted is None or one in wanted]
    labels = Labels.within([ids[row] for row in rows], [cameras[row] for row in rows])
    return pair_scores(vectors[rows], labels)


def passing(pairs: PairScores, known: Calibration) -> dict[str, float | None]:
    """Stated rate → real one; ``None`` where fewer than 20 pairs are expected to pass, or it cannot be stated."""
    found: dict[str, float | None] = {}
    for rate in RATES:
        found[f"{rate:g}"] = None
        if rate * pairs.impostor_pairs < 20:
            continue
        try:
            threshold = known.threshold(rate)
        except UsageError:
            continue
        edges, _, impostor = pairs.binned(1 << 14)
        found[f"{rate:g}"] = float(impostor[edges[:-1] >= threshold].sum() / impostor.sum())
    return found


def own(vectors: Vectors, ids: list[str], cameras: list[str | None]) -> dict[str, list[float | None]]:
    """Stated rate → the real ones of five halves of the identities, by calibrations of the other halves."""
    names, draw = sorted(set(ids) - {"0000", "-1"}), random.Random(0)
    found: dict[str, list[float | None]] = {f"{rate:g}": [] for rate in RATES}
    for _ in range(5):
        half = set(draw.sample(names, len(names) // 2))
        try:
            known = calibrate(scores(vectors, ids, cameras, half))
        except DataError:
            return found
        for rate, real in passing(scores(vectors, ids, cameras, set(names) - half), known).items():
            found[rate].append(real)
    return found


def decisions(vectors: Vectors, ids: list[str], known: Calibration, *, labelled: bool) -> dict[str, float | None]:
    """Images of a random part → share of draws in which verdicts are given. Identities are taken whole."""
    rows: dict[str, list[int]] = {}
    for row, one in enumerate(ids):
        rows.setdefault(one, []).append(row)
    draw, found = random.Random(1), {}
    for size in SIZES:
        given = 0
        for _ in range(DRAWS):
            order = draw.sample(sorted(rows), len(rows))
            part = [row for one in order for row in rows[one]][:size]
            names = [ids[row] if labelled else None for row in part]
            given += checked(Judge(known, identities=len(part)), vectors[part], names).calibration is not None
        found[str(size)] = given / DRAWS if size <= len(ids) else None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--cache", type=Path)
    asked = parser.parse_args()
    bundle = load_bundle(None)
    known = bundle.calibration
    assert known is not None
    report: dict[str, Any] = {"weights": bundle.fingerprint, "calibration": known.data, "sets": {}}
    for name, (vectors, ids, cameras) in embedded(asked.data, asked.images, asked.cache).items():
        pairs = scores(vectors, ids, cameras)
        before = passing(pairs, known)
        holds = before["0.01"] is not None and 0.005 <= before["0.01"] <= 0.02
        report["sets"][name] = {
            "images": len(ids),
            "identities": len(set(ids)),
            "real_by_bundled": before,
            "real_by_own": own(vectors, ids, cameras),
            "holds_at_1_percent": holds,
            "verdicts_given": {
                "labelled": decisions(vectors, ids, known, labelled=True),
                "unlabelled": decisions(vectors, ids, known, labelled=False),
            },
        }
        print(name, json.dumps(report["sets"][name], indent=None), flush=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Can a query that is no such object be told from one that is merely not in the gallery, without another model?

    python benchmarks/no_object.py --data DIR --screens docs [--cache FILE.npz]

Writes benchmarks/results/no_object.json for the weights that ship. DIR holds ``market1501/unseen50``,
``cuhk03/unseen50``, ``orl_faces`` and ``vehicles/train``; screens are PNGs of pages and plots; charts, noise and images
of one colour are made here. The images of half of a gallery's identities are the gallery, those of the other half its
strangers: a measure is good if it ranks what is no person above them. Five such halves, and the mean. Besides, what was
built: the share of each set that looks strange to the bundled calibration.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from verdicts import chart, noise

from siamese_search.io.files import atomic_write_text
from siamese_search.io.images import read_image
from siamese_search.model.bundle import load_bundle
from siamese_search.model.calibration import figures_of
from siamese_search.model.embedder import load_embedder

RESULTS = Path(__file__).parent / "results" / "no_object.json"
GALLERIES = ("market1501", "cuhk03")
COLOURS = ((0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0), (0, 255, 0), (0, 0, 255), (30, 60, 90),
           (200, 180, 150))  # fmt: skip
Rows = NDArray[np.float64]
#: From the gallery's rows to how strange other rows are, higher is stranger.
Measure = Callable[[Rows], Callable[[Rows], Rows]]


def images_of(data: Path, screens: Path, scratch: Path) -> Iterator[tuple[str, list[tuple[Path, str]]]]:
    """Set → images and identities."""

    def drawn(name: str, pictures: list[Image.Image]) -> tuple[str, list[tuple[Path, str]]]:
        found = [(scratch / f"{name}{number}.png", str(number)) for number in range(len(pictures))]
        for (path, _), picture in zip(found, pictures, strict=True):
            picture.save(path)
        return name, found

    yield drawn("one colour", [Image.new("RGB", (64, 128), colour) for colour in COLOURS])
    yield "screens", [(path, path.stem) for path in sorted(screens.rglob("*.png"))[:60]]
    for name, draw in (("noise", noise), ("charts", chart)):
        yield drawn(name, [draw(np.random.default_rng(number)) for number in range(60)])
    yield "faces", [(path, path.parent.name) for path in sorted((data / "orl_faces").rglob("*.pgm"))[::4]]
    yield "vehicles", [(path, path.stem) for path in sorted((data / "vehicles/train").rglob("*.jpg"))[::9]]
    for name in GALLERIES:
        paths = sorted((data / name / "unseen50").rglob("*.jpg"))
        step = 1 if name == GALLERIES[0] else 2
        yield name, [(path, path.name.split("_")[0]) for path in paths[::step]]


def figures(pixels: NDArray[np.uint8]) -> Rows:
    """Means and contrasts of light and two colours, edges at four sizes, light and edges in eight parts: [62]."""
    height, width = (side // 2 for side in pixels.shape[:2])
    small = pixels.astype(np.float64).reshape(height, 2, width, 2, 3).mean((1, 3))
    light = small @ (0.299, 0.587, 0.114)
    planes = np.stack([light, small[..., 0] - small[..., 1], small[..., 2] - light])

    def parts(plane: Rows) -> Rows:
        return plane.reshape(4, plane.shape[0] // 4, 2, plane.shape[1] // 2).mean((1, 3)).ravel()

    found = [planes.mean((1, 2)) / 32, np.log(planes.std((1, 2)) + 1)]
    for level in range(4):
        edges = [
            np.abs(np.diff(light, axis=0, append=light[-1:])),
            np.abs(np.diff(light, axis=1, append=light[:, -1:])),
        ]
        for one in edges:
            mean, root = one.mean(), np.sqrt((one**2).mean())
            found.append(np.log([mean + 0.5, (root + 0.5) / (mean + 0.5)]))
        if level < 2:
            found += [np.log(parts(one) + 0.5) for one in edges]
        if level == 0:
            found.append(parts(light) / 32)
        light = light.reshape(light.shape[0] // 2, 2, light.shape[1] // 2, 2).mean((1, 3))
    return np.concatenate(found)


def outside(gallery: Rows) -> Callable[[Rows], Rows]:
    """The squared distance from the plane of the 16 principal directions."""
    middle = gallery.mean(0)
    axes = np.linalg.svd(gallery - middle, full_matrices=False)[2][:16]
    return lambda rows: ((rows - middle) ** 2).sum(1) - (((rows - middle) @ axes.T) ** 2).sum(1)


def mahalanobis(shrinkage: float) -> Measure:
    """The squared distance from the gallery's mean by its correlations, these shrunk towards none."""

    def fitted(gallery: Rows) -> Callable[[Rows], Rows]:
        middle, spread = gallery.mean(0), gallery.std(0) + 1e-9
        scaled = (gallery - middle) / spread
        shape = (1 - shrinkage) * (scaled.T @ scaled) / len(gallery) + shrinkage * np.eye(gallery.shape[1])
        inverse = np.linalg.inv(shape)
        return lambda rows: np.einsum("ij,jk,ik->i", (rows - middle) / spread, inverse, (rows - middle) / spread)

    return fitted


MEASURES: dict[str, tuple[str, Measure]] = {
    "mean similarity to the gallery": ("vector", lambda s: lambda x: -(x @ s.T).mean(1)),
    "mean similarity to the nearest 20": ("vector", lambda s: lambda x: -np.sort(x @ s.T, axis=1)[:, -20:].mean(1)),
    "distance from their 16 principal directions": ("vector", outside),
    "62 figures of colour and edges in the pixels": ("pixels", mahalanobis(0.3)),
}


def auc(high: Rows, low: Rows) -> float:
    """The chance that one of ``high`` is above one of ``low``."""
    return float((high[:, None] > low).mean() + (high[:, None] == low).mean() / 2)


def seen(data: Path, screens: Path, cache: Path | None) -> dict[str, NDArray[np.float64]]:
    """``SET/vector``, ``/pixels``, ``/looks`` and ``/identity`` → rows."""
    if cache is not None and cache.exists():
        return dict(np.load(cache))
    bundle = load_bundle(None)
    embedder = load_embedder(bundle, threads=1)
    found: dict[str, NDArray[np.float64]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, images in images_of(data, screens, Path(scratch)):
            pixels = np.stack([read_image(path, bundle.input_size) for path, _ in images])
            rows = {"vector": embedder.embed(pixels), "pixels": [*map(figures, pixels)], "looks": figures_of(pixels)}
            found |= {f"{name}/{kind}": np.array(one, np.float64) for kind, one in rows.items()}
            found[f"{name}/identity"] = np.array([identity for _, identity in images])
            print(f"{name}: {len(images)}", flush=True)
    if cache is not None:
        np.savez(cache, **found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--screens", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    asked = parser.parse_args()
    rows = seen(asked.data, asked.screens, asked.cache)
    sets = [name.removesuffix("/vector") for name in rows if name.endswith("/vector")]
    report: dict[str, object] = {"weights": load_bundle(None).fingerprint, "galleries": {}}
    for gallery in GALLERIES:
        table: dict[str, dict[str, list[float]]] = {}
        for measure, (kind, fitted) in MEASURES.items():
            identities, own = rows[f"{gallery}/identity"], rows[f"{gallery}/{kind}"]
            trials = []
            for seed in range(5):
                names = np.unique(identities)
                half = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
                known = np.isin(identities, half)
                strange = fitted(own[known])
                strangers = strange(own[~known])
                limit = np.quantile(strangers, 0.99)
                others = {name: strange(rows[f"{name}/{kind}"]) for name in sets if name != gallery}
                trials.append([[auc(one, strangers), (one > limit).mean()] for one in others.values()])
            means = np.mean(trials, axis=0)
            table[measure] = dict(zip(others, means.round(4).tolist(), strict=True))
            print(gallery, measure, *(f"{a:.2f} / {100 * c:.0f} %" for a, c in means), sep=" | ", flush=True)
        report["galleries"] |= {gallery: table}  # type: ignore[operator]
    known = load_bundle(None).calibration
    assert known is not None
    built = {name: float(known.strange(rows[f"{name}/looks"].astype(np.float32)).mean()) for name in sets}
    print("as built", *(f"{name} {share:.1%}" for name, share in built.items()), sep=" | ")
    report["strange"] = {name: round(share, 4) for name, share in built.items()}
    atomic_write_text(RESULTS, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

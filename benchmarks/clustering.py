"""How well `sss cluster` groups people that the model has never seen, against plainer methods.

    python benchmarks/clustering.py IMAGES IDS [--work DIR] [--synthetic N] [--out FILE]

IMAGES: files with Market-1501 names; IDS: a file of the identities to take. Their labels are not given to the gallery;
they judge the outcome. The defaults were chosen on one half of the identities (`chosen on`) and are reported on
the other half and on all; images per identity are also cut down, because neighbourhoods of a fixed size are made for
many. `--synthetic N` measures time and memory of N vectors. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Python puts this script's own directory first, where "ingest" would be another script.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from siamese_search.io.files import atomic_write_text  # noqa: E402
from siamese_search.model.bundle import load_bundle  # noqa: E402
from siamese_search.vectors.clustering import cluster  # noqa: E402

COLUMNS = ("precision", "recall", "f1", "bcubed_precision", "bcubed_recall", "bcubed_f1", "ari", "clusters", "larger")


def scores(truth: NDArray[Any], found: NDArray[Any]) -> dict[str, float]:
    """Pairwise precision, recall and F1; BCubed (Bagga and Baldwin, 1998); adjusted Rand (Hubert and Arabie, 1985).

    clusters: all; larger: those of two images or more.
    """
    rows = np.unique(truth, return_inverse=True)[1]
    columns = np.unique(found, return_inverse=True)[1]
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1)

    def pairs(counts: NDArray[np.float64]) -> float:
        return float((counts * (counts - 1)).sum() / 2)

    both, ours, theirs, count = pairs(table), pairs(table.sum(0)), pairs(table.sum(1)), len(truth)
    precision, recall = both / max(ours, 1), both / max(theirs, 1)
    b_precision = float((table * table / table.sum(0)).sum() / count)
    b_recall = float((table * table / table.sum(1)[:, None]).sum() / count)
    expected = ours * theirs / (count * (count - 1) / 2)
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-12),
        "bcubed_precision": b_precision,
        "bcubed_recall": b_recall,
        "bcubed_f1": 2 * b_precision * b_recall / (b_precision + b_recall),
        "ari": (both - expected) / ((ours + theirs) / 2 - expected),
        "clusters": int(table.shape[1]),
        "larger": int((table.sum(0) > 1).sum()),
    }


def plain(vectors: NDArray[np.float32], threshold: float) -> NDArray[Any]:
    """Average linkage by cosine alone."""
    from sklearn.cluster import AgglomerativeClustering

    distances = np.clip(1 - vectors @ vectors.T, 0, 2).astype(np.float64)
    how = AgglomerativeClustering(None, metric="precomputed", linkage="average", distance_threshold=1 - threshold)
    return np.asarray(how.fit_predict(distances))


def hdbscan(vectors: NDArray[np.float32]) -> NDArray[Any]:
    """HDBSCAN by cosine; what it calls noise stands alone."""
    from sklearn.cluster import HDBSCAN

    distances = np.clip(1 - vectors @ vectors.T, 0, 2).astype(np.float64)
    found = np.asarray(HDBSCAN(min_cluster_size=3, metric="precomputed", copy=True).fit_predict(distances))
    return np.where(found < 0, len(found) + np.arange(len(found)), found)


def embedded(images: Path, wanted: set[str], work: Path) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Vectors and identities of the wanted images, through a gallery that is not told the identities."""
    from ingest.run import ingest
    from siamese_search.gallery import open_gallery

    flat = work / "images"
    flat.mkdir(parents=True, exist_ok=True)
    for path in sorted(images.iterdir()):
        if path.name.split("_")[0] in wanted and not (flat / path.name).exists():
            shutil.copyfile(path, flat / path.name)
    ingest(flat, store=work / "store", layout="flat")
    with open_gallery(work / "store") as gallery:
        points = list(gallery.scroll(with_vectors=True))
    assert not any("identity" in point.payload for point in points)
    truth = np.array([point.payload["key"].split("_")[0] for point in points])
    return np.stack([point.vector for point in points if point.vector is not None]), truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("ids", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--synthetic", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "clustering.json")
    asked = parser.parse_args()
    identities = sorted(asked.ids.read_text().split())
    with tempfile.TemporaryDirectory() as temporary:
        vectors, truth = embedded(asked.images, set(identities), asked.work or Path(temporary))
    calibration = load_bundle(None).calibration
    assert calibration is not None
    threshold = calibration.threshold(0.01)
    rng = np.random.default_rng(0)
    half = rng.permutation(identities)[: len(identities) // 2]
    rows = np.arange(len(truth))
    subsets = {
        "all": rows,
        "chosen on (half)": rows[np.isin(truth, half)],
        "the other half": rows[~np.isin(truth, half)],
    }
    for most in (8, 4, 2):
        kept = [rng.permutation(rows[truth == one])[:most] for one in identities]
        subsets[f"at most {most} each"] = np.sort(np.concatenate(kept))
    methods = {
        "sss cluster": lambda x: cluster(x, cosine=threshold),
        "… --neighbours 10": lambda x: cluster(x, neighbours=10, cosine=threshold),
        "… without calibration": lambda x: cluster(x),
        "average linkage, cosine": lambda x: plain(x, threshold),
        "HDBSCAN, cosine": hdbscan,
    }
    results: dict[str, Any] = {}
    for subset, chosen in subsets.items():
        print(f"\n{subset}: {len(chosen)} images of {len(set(truth[chosen].tolist()))} identities")
        print(f"{'':26}" + "".join(f"{name.replace('bcubed_', 'B³ '):>13}" for name in COLUMNS))
        table = results[subset] = {"images": len(chosen), "identities": len(set(truth[chosen].tolist()))}
        for name, method in methods.items():
            found = scores(truth[chosen], method(vectors[chosen]))
            table[name] = {key: round(value, 4) for key, value in found.items()}
            print(f"{name:26}" + "".join(f"{found[key]:13.3f}" if key[:2] != "cl" and key != "larger"
                  else f"{found[key]:13}" for key in COLUMNS))  # fmt: skip
    size: dict[str, Any] = {}
    if asked.synthetic:
        count = asked.synthetic
        centres = rng.standard_normal((max(1, count // 18), vectors.shape[1])).astype(np.float32)
        drawn = centres[rng.integers(0, len(centres), count)]
        drawn += rng.normal(0, 0.9, drawn.shape).astype(np.float32)
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.process_time()
        found_count = int(cluster(drawn, cosine=threshold).max()) + 1
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        size = {
            "images": count,
            "cpu_seconds": round(time.process_time() - started, 1),
            "peak_megabytes": round(peak * 1024 / 1e6),
            "before_megabytes": round(before * 1024 / 1e6),
            "clusters": found_count,
            "identities": len(centres),
        }
        print(f"\n{count:,} synthetic vectors: {size}")
    document = {"threshold": threshold, "results": results, "size": size}
    atomic_write_text(asked.out, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

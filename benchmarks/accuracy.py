"""Accuracy on held-out identities: untrained weights beside trained bundles, through the gallery.

    python benchmarks/accuracy.py DATA --heldout IDS.txt runs/reid runs/apn

prints a table and writes benchmarks/results/accuracy.json. ``untrained`` is the network of the first bundle
with random weights (seed 0).
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path

import siamese_search as sss
from siamese_search.files import atomic_write_text

RESULTS = Path(__file__).resolve().parent / "results" / "accuracy.json"


def untrained(like: Path, directory: Path) -> Path:
    """A bundle of the same architecture with random weights."""
    import torch

    from siamese_search.model.bundle import load_bundle
    from siamese_search.model.network import APNNetwork, NetworkSpec
    from siamese_search.model.weights_file import save_bundle

    torch.manual_seed(0)
    spec = NetworkSpec.from_json(load_bundle(like).meta["network"])
    return save_bundle(APNNetwork(spec), directory, {}).path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--heldout", type=Path, required=True, help="file of identities")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        random = untrained(arguments.bundles[0], Path(scratch) / "untrained")
        for name, bundle in [("untrained", random), *((path.name, path) for path in arguments.bundles)]:
            report = sss.evaluate(arguments.data, model=bundle, identities=arguments.heldout)
            figures = report.to_json()
            meta = json.loads((bundle / "model.json").read_text(encoding="utf-8"))
            training = meta.get("training", {})
            rows.append(
                {
                    "name": name,
                    "preset": training.get("preset"),
                    "input": [meta["input"]["height"], meta["input"]["width"]],
                    "epochs": training.get("epochs"),
                    "teacher": training.get("teacher"),
                    "fingerprint": meta["fingerprint"],
                    **{key: figures[key] for key in ("queries", "gallery", "invalid_queries", "ann_recall")},
                    **{
                        key: figures[key]
                        for key in ("rank1", "rank5", "rank10", "mAP", "mAP_trapezoid", "mINP")
                    },
                    "auc": figures["verification"]["auc"],
                    "eer": figures["verification"]["eer"],
                }
            )
    print(f"{'model':<22}{'input':>9}{'epochs':>8}{'rank-1':>9}{'rank-5':>9}{'mAP':>9}{'AUC':>9}")
    for row in rows:
        size = f"{row['input'][0]}x{row['input'][1]}"
        print(
            f"{row['name']:<22}{size:>9}{row['epochs'] or 0:>8}{row['rank1']:>9.1%}{row['rank5']:>9.1%}"
            f"{row['mAP']:>9.1%}{row['auc']:>9.4f}"
        )
    result = {"device": f"CPU, {platform.machine()}", "data": arguments.data.name, "rows": rows}
    atomic_write_text(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

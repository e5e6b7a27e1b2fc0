"""Accuracy on held-out identities: untrained weights beside trained bundles, through the gallery.

    python benchmarks/accuracy.py DATA --heldout IDS.txt runs/reid runs/apn

prints a table and writes benchmarks/results/accuracy.json (``--add``: keeps the rows that are there and adds the new
ones, so that the table can be made as runs finish). ``untrained`` is the network of the first bundle
with random weights (seed 0). The last bundle is also measured with flip at test time, without and with k-reciprocal
re-ranking: of exact similarities, for the database has no part in it. ``seen`` is the images that went through
the network in the run that made the bundle (three for each triplet); a ``+`` says that it began with weights of another
bundle, whose images are not counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import siamese_search as sss
from siamese_search.evaluation.report import EvaluationReport
from siamese_search.io.files import atomic_write_text
from siamese_search.model.bundle import Bundle, load_bundle

RESULTS = Path(__file__).resolve().parent / "results" / "accuracy.json"
RANKING = ("rank1", "rank5", "rank10", "mAP", "mAP_trapezoid", "mINP")


def untrained(like: Bundle, directory: Path) -> Bundle:
    """A bundle of the same architecture with random weights."""
    import torch

    from siamese_search.model.network import APNNetwork, NetworkSpec
    from siamese_search.model.weights_file import save_bundle

    torch.manual_seed(0)
    return save_bundle(APNNetwork(NetworkSpec.from_json(like.meta["network"])), directory, {})


def images_seen(bundle: Bundle) -> int:
    """Of the run's history where it lies beside the bundle, else epochs × images of its data set."""
    training = bundle.meta.get("training", {})
    history = bundle.path / "history.jsonl"
    if not history.exists():
        return int(training.get("epochs", 0) * training.get("images", 0))
    rows = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    return sum(round(row["images_per_second"] * row["seconds"]) for row in rows)


def rows_of(name: str, bundle: Bundle, report: EvaluationReport) -> list[dict[str, Any]]:
    """The row of one evaluation, and that of its re-ranked figures where there are any."""
    figures = report.to_json()
    training = bundle.meta.get("training", {})
    model = {
        "preset": training.get("preset"),
        "input": list(bundle.input_size),
        "epochs": training.get("epochs"),
        "images_seen": images_seen(bundle),
        "init": training.get("init"),
        "teacher": training.get("teacher"),
        "fingerprint": bundle.fingerprint,
        "flip": report.flip,
        **{key: figures[key] for key in ("queries", "gallery", "invalid_queries")},
    }
    verification = figures["verification"]
    rows = [
        {
            "name": name,
            **model,
            "rerank": None,
            "ann_recall": figures["ann_recall"],
            **{key: figures[key] for key in RANKING},
            "auc": verification["auc"],
            "eer": verification["eer"],
        }
    ]
    again = figures["reranked"]
    if again is not None:
        how = {key: again[key] for key in ("k1", "k2", "lambda")}
        unknown = dict.fromkeys(("ann_recall", "auc", "eer"))  # neither database nor pairs know re-ranking
        rows.append(
            {"name": f"{name} + re-ranking", **model, "rerank": how, **unknown, **{key: again[key] for key in RANKING}}
        )
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    wide = max(len(row["name"]) for row in rows) + 2
    print(f"{'model':<{wide}}{'input':>9}{'seen':>10}{'teacher':>9}{'rank-1':>9}{'rank-5':>9}{'mAP':>9}{'AUC':>9}")
    for row in rows:
        size = "x".join(map(str, row["input"]))
        seen = f"{row['images_seen']:,}" + ("+" if row["init"] in ("bundle", "bundled") else "")
        teacher = "yes" if row["teacher"] else "no"
        auc = "" if row["auc"] is None else f"{row['auc']:.4f}"
        print(
            f"{row['name']:<{wide}}{size:>9}{seen:>10}{teacher:>9}{row['rank1']:>9.1%}{row['rank5']:>9.1%}"
            f"{row['mAP']:>9.1%}{auc:>9}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="a directory, or bundled")
    parser.add_argument("--heldout", type=Path, required=True, help="file of identities")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--add", action="store_true", help="keep the other rows of the file")
    arguments = parser.parse_args()
    bundles = [load_bundle(path) for path in arguments.bundles]
    names = [bundle.path.name if bundle.name != "bundled" else bundle.name for bundle in bundles]
    rows: list[dict[str, Any]] = []

    def measure(name: str, bundle: Bundle, extras: bool = False) -> None:
        report = sss.evaluate(
            arguments.data, model=bundle.path, identities=arguments.heldout, device="cpu", flip=extras, rerank=extras
        )
        rows.extend(rows_of(name, bundle, report))

    if not arguments.add:
        with tempfile.TemporaryDirectory() as scratch:
            measure("untrained", untrained(bundles[0], Path(scratch) / "untrained"))
    for name, bundle in zip(names, bundles, strict=True):
        measure(name, bundle)
    measure(f"{names[-1]} + flip", bundles[-1], extras=True)
    if arguments.add:
        former = json.loads(arguments.out.read_text(encoding="utf-8"))["rows"]
        again = {row["name"] for row in rows}
        rows = [row for row in former if row["name"] not in again] + rows
    print_table(rows)
    result = {"device": f"CPU, {platform.machine()}", "data": arguments.data.name, "rows": rows}
    atomic_write_text(arguments.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

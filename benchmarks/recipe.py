"""What a change of the training recipe gave, on people of the same cameras and on strangers.

    python benchmarks/recipe.py runs/plain runs/stronger --set DATA [--set DATA=IDS.txt]

Every image of a set is a query against all its others; same identity and camera excluded. ``=IDS.txt`` takes those
identities alone. Prints rank-1 / mAP of each bundle on each set and adds the rows to benchmarks/results/recipe.json,
where ``docs/recipe.md`` has them from. A trial belongs there whether it helped or not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import siamese_search as sss
from siamese_search.io.files import atomic_write_text
from siamese_search.model.bundle import Bundle, load_bundle
from siamese_search.training.config import PRESETS

RESULTS = Path(__file__).resolve().parent / "results" / "recipe.json"


def recipe_of(bundle: Bundle) -> dict[str, Any]:
    """What the run did otherwise than its preset, and what it started from."""
    training = bundle.meta.get("training", {})
    config = training.get("config", {})
    preset = PRESETS.get(str(training.get("preset")))
    changed = {k: v for k, v in config.items() if preset is None or getattr(preset, k, None) != v}
    return {
        "preset": training.get("preset"), "init": training.get("init"), "teacher": training.get("teacher"),
        "backbone": bundle.meta.get("backbone"), "input": list(bundle.input_size), "changed": changed,
    }  # fmt: skip


def measure(bundle: Bundle, data: Path, identities: Path | None) -> dict[str, float]:
    """Rank-1, mAP and the area under the ROC curve of all pairs."""
    figures = sss.evaluate(data, model=bundle.path, identities=identities, device="cpu").to_json()
    return {"rank1": figures["rank1"], "mAP": figures["mAP"], "auc": figures["verification"]["auc"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="a run's directory, or bundled")
    parser.add_argument("--set", action="append", required=True, dest="sets", metavar="DATA[=IDS]")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    former = json.loads(arguments.out.read_text(encoding="utf-8"))["rows"] if arguments.out.exists() else []
    rows = {row["name"]: row for row in former}
    for given in arguments.bundles:
        bundle = load_bundle(given)
        name = bundle.name if bundle.name == "bundled" else bundle.path.name
        row = rows.setdefault(name, {"name": name, "sets": {}})
        row |= {"fingerprint": bundle.fingerprint, **recipe_of(bundle)}
        for one in arguments.sets:
            place, _, ids = one.partition("=")
            title = Path(place).resolve()
            key = "/".join(title.parts[-2:]) + (f" {Path(ids).stem}" if ids else "")
            row["sets"][key] = found = measure(bundle, title, Path(ids) if ids else None)
            print(f"{name:<20} {key:<36} {found['rank1']:6.1%} / {found['mAP']:6.1%}", flush=True)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(arguments.out, json.dumps({"rows": list(rows.values())}, indent=1) + "\n")


if __name__ == "__main__":
    main()

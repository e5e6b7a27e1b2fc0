"""Re-index a gallery while another process searches without pause, with a ``kill -9`` in the middle.

    python benchmarks/reindex.py DATA --model NEW_BUNDLE [--former FORMER_BUNDLE]

ingests DATA with the former model (default: the bundled one), kills a first re-index after --kill-after seconds,
and lets the same command finish. Every answer of the searcher must be wholly that of the former or wholly that of
the new vectors, in that order. Prints what happened and writes benchmarks/results/reindex.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
# ruff: noqa: E402 - benchmarks/ingest.py must not hide the package of that name

import siamese_search as sss
from siamese_search.io.files import atomic_write_text

RESULTS = Path(__file__).resolve().parent / "results" / "reindex.json"
QUERIES = 8


def answer(query: Path, store: Path) -> list[tuple[str, float]]:
    """Keys and scores of the ten nearest."""
    (found,) = sss.search(query, store=store, k=10)
    return [(hit.key, round(hit.score, 4)) for hit in found.results]


def search_without_pause(data: Path, store: Path) -> None:
    """The searcher's process: one JSON line per answer, until it is terminated."""
    queries = sorted(data.glob("*.jpg"))[:: max(1, len(list(data.glob("*.jpg"))) // QUERIES)][:QUERIES]
    while True:
        for query in queries:
            started = time.monotonic()
            try:
                line: dict[str, Any] = {"query": query.name, "answer": answer(query, store)}
            except Exception as error:
                line = {"query": query.name, "error": f"{type(error).__name__}: {error}"}
            print(json.dumps({**line, "seconds": time.monotonic() - started}), flush=True)


def reindex(model: Path, store: Path) -> list[str]:
    return [
        sys.executable, "-m", "siamese_search", "reindex", "--model", str(model), "--store", str(store), "--json",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a directory of .jpg images")
    parser.add_argument("--model", type=Path, required=True, help="the new model's bundle")
    parser.add_argument("--former", default="bundled", help="the former model's bundle")
    parser.add_argument("--kill-after", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--searcher", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    data: Path = arguments.data
    if arguments.searcher:
        search_without_pause(data, arguments.searcher)
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "store"
        ingested = sss.ingest(data, store=store, model=arguments.former)
        log = Path(scratch) / "answers.jsonl"
        with log.open("w") as out:
            searcher = subprocess.Popen(
                [sys.executable, __file__, str(data), "--model", str(arguments.model), "--searcher", str(store)],
                stdout=out,
            )
            try:
                time.sleep(3)
                killed = subprocess.Popen(
                    reindex(arguments.model, store), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                time.sleep(arguments.kill_after)
                died = killed.poll() is None
                killed.send_signal(signal.SIGKILL)
                killed.wait()
                after_kill = len(log.read_text().splitlines())
                time.sleep(3)
                done = subprocess.run(reindex(arguments.model, store), capture_output=True, text=True, check=True)
                time.sleep(3)
            finally:
                searcher.terminate()
                searcher.wait()
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
        summary = json.loads(done.stdout)
    former: dict[str, Any] = {}
    latest: dict[str, Any] = {}
    for line in lines:
        former.setdefault(line["query"], line.get("answer"))
        latest[line["query"]] = line.get("answer")
    kinds = [
        "error"
        if "error" in line
        else "former"
        if line["answer"] == former[line["query"]]
        else "new"
        if line["answer"] == latest[line["query"]]
        else "mixed"
        for line in lines
    ]
    first_new = kinds.index("new") if "new" in kinds else len(kinds)
    seconds = sorted(line["seconds"] for line in lines)
    result = {
        "device": f"CPU, {platform.machine()}",
        "images": ingested.new,
        "killed_while_running": died,
        "answers": {kind: kinds.count(kind) for kind in ("former", "new", "mixed", "error")},
        "all_former_until_the_kill": set(kinds[:after_kill]) == {"former"},
        "in_order": "former" not in kinds[first_new:],
        "search_seconds": {"median": seconds[len(seconds) // 2], "longest": seconds[-1]},
        "second_run": summary,
    }
    summary.pop("store")
    summary["model"], summary["former_model"] = arguments.model.name, Path(arguments.former).name
    print(json.dumps(result, indent=1))
    atomic_write_text(arguments.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Searches by several processes at once, alone and while another process ingests: how long they take, what fails.

    python benchmarks/serve_load.py [--searchers 4] [--seconds 20] [--points 20000] [--storage float32]
                                    [--writes 260] [--pause 0.05] [--out benchmarks/results/serve_load.json]

A gallery of random unit vectors; each searcher is a process that opens it, and asks for the 10 nearest again and
again with a pause in between. After ``--seconds`` alone, the same once more while a writer adds vectors as an ingest
does: batches of 64, ``--writes`` of them a second (260 is what two CPU cores embed). Every searcher stops after
``--seconds`` or ``--most`` searches, whichever is first, and the writer with them.

The store is a directory. With QDRANT_URL it is that server as well, which must be on this machine: nothing here
puts load on another. The gallery made there has a name of its own and is dropped in the end.

Prints a table and writes JSON: per store and phase the percentiles of a search in ms, searches a second, errors by
kind. Each searcher's first search, which opens the gallery, is counted apart (``open_ms``, the median over searchers).
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

PROJECT = Path(__file__).resolve().parents[1]
sys.path[0] = os.fspath(PROJECT)

from benchmarks.million import ids_of, payloads_of, query_rows, unit  # noqa: E402
from siamese_search.gallery import open_gallery, open_store  # noqa: E402
from siamese_search.gallery.contract import ModelRef  # noqa: E402
from siamese_search.gallery.storage import QUANTISATIONS, VECTORS, Storage  # noqa: E402
from siamese_search.io.files import atomic_write_text  # noqa: E402

DIM = 512
BLOCK = 1000
MODEL = ModelRef("0" * 64, DIM, "benchmark")
#: However it is called, it stays small.
MOST_SEARCHERS, MOST_SECONDS, MOST_POINTS = 64, 300.0, 1_000_000


def search(store: str, name: str, number: int, options: argparse.Namespace) -> dict[str, Any]:
    """One searcher: the time of each search in ms, and what failed."""
    rows, times, errors = query_rows("random", DIM, 1), [], Counter[str]()
    began = time.perf_counter()
    with open_gallery(store, name, wait=60) as gallery:
        gallery.query(rows[number], 10)
        opened = 1000 * (time.perf_counter() - began)
        ends = time.monotonic() + options.seconds
        while time.monotonic() < ends and len(times) + errors.total() < options.most:
            began = time.perf_counter()
            try:
                found = gallery.query(rows[(number + len(times)) % len(rows)], 10)
                if len(found) != 10:
                    errors["short answer"] += 1
            except Exception as error:
                errors[type(error).__name__] += 1
            times.append(1000 * (time.perf_counter() - began))
            time.sleep(options.pause)
    return {"ms": times, "open_ms": opened, "errors": dict(errors)}


def write(store: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The writer: batches of 64 at the asked rate, new points each time."""
    rng, written, errors = np.random.default_rng(9), 0, Counter[str]()
    began = time.monotonic()
    with open_gallery(store, name, model=MODEL, mode="w", wait=60) as gallery:
        while (now := time.monotonic() - began) < options.seconds and written < MOST_POINTS:
            rows = unit(rng.standard_normal((64, DIM), dtype=np.float32))
            payloads = payloads_of(10_000 + written // BLOCK)[:64]
            try:
                gallery.upsert([str(uuid.UUID(bytes=rng.bytes(16))) for _ in payloads], rows, payloads)
                written += 64
            except Exception as error:
                errors[type(error).__name__] += 1
            time.sleep(max(0.0, written / options.writes - now))
        gallery.flush()
    return {"written": written, "seconds": time.monotonic() - began, "errors": dict(errors)}


def run(store: str, name: str, options: argparse.Namespace, *, ingest: bool) -> dict[str, Any]:
    """One phase: all searchers at once, with or without the writer."""
    common = [sys.executable, __file__, "--store", store, "--gallery", name]
    for key in ("seconds", "most", "pause", "writes"):
        common += [f"--{key}", str(getattr(options, key))]
    roles = [f"search:{number}" for number in range(options.searchers)] + (["write"] if ingest else [])
    children = [subprocess.Popen([*common, "--role", role], stdout=subprocess.PIPE, text=True) for role in roles]
    answers = []
    try:
        for child in children:
            text = child.communicate(timeout=10 * MOST_SECONDS)[0]
            if child.returncode != 0:
                raise SystemExit(f"a child ended with exit code {child.returncode}")
            answers.append(json.loads(text))
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
    searchers = answers[: options.searchers]
    times = np.concatenate([one["ms"] for one in searchers])
    if not len(times):
        raise SystemExit("no search was answered in time: give it more --seconds")
    errors: Counter[str] = Counter()
    for one in searchers:
        errors.update(one["errors"])
    figures: dict[str, Any] = {
        "searches": len(times),
        "searches_per_second": len(times) / options.seconds,
        **{f"p{q}_ms": float(np.percentile(times, q)) for q in (50, 95, 99)},
        "max_ms": float(times.max()),
        "open_ms": statistics.median(one["open_ms"] for one in searchers),
        "errors": dict(errors),
    }
    if ingest:
        writer = answers[-1]
        figures["written"] = writer["written"]
        figures["writes_per_second"] = writer["written"] / writer["seconds"]
        figures["write_errors"] = writer["errors"]
    return figures


def measure(store: str, options: argparse.Namespace) -> dict[str, Any]:
    name = f"serve-load-{uuid.uuid4().hex[:8]}"
    storage = Storage(options.storage, options.quantise)
    rng = np.random.default_rng(3)
    try:
        with open_gallery(store, name, model=MODEL, create=True, mode="w", storage=storage) as gallery:
            for block in range(options.points // BLOCK):
                rows = unit(rng.standard_normal((BLOCK, DIM), dtype=np.float32))
                gallery.upsert(ids_of(block), rows, payloads_of(block))
        return {
            "alone": run(store, name, options, ingest=False),
            "during_ingest": run(store, name, options, ingest=True),
        }
    finally:
        with open_store(store) as opened:
            if name in opened.names():
                opened.drop(name)


def on_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description="Searches at once, alone and during an ingest.")
    parser.add_argument("--searchers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase")
    parser.add_argument("--most", type=int, default=10_000, help="searches of one searcher in a phase")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two searches of one")
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--writes", type=float, default=260.0, help="points per second that are ingested")
    parser.add_argument("--storage", choices=VECTORS, default="float32")
    parser.add_argument("--quantise", choices=QUANTISATIONS, default="none")
    parser.add_argument("--out", type=Path, default=PROJECT / "benchmarks" / "results" / "serve_load.json")
    parser.add_argument("--note", default="", help="kept in the result: what else the machine was doing")
    for internal in ("--role", "--store", "--gallery"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        role, _, number = options.role.partition(":")
        work = search if role == "search" else write
        given = (int(number), options) if number else (options,)
        print(json.dumps(work(options.store, options.gallery, *given)))  # type: ignore[operator]
        return
    if not 1 <= options.searchers <= MOST_SEARCHERS or not 0 < options.seconds <= MOST_SECONDS:
        parser.error(f"at most {MOST_SEARCHERS} searchers, for at most {MOST_SECONDS:.0f} seconds")
    if not BLOCK <= options.points <= MOST_POINTS:
        parser.error(f"from {BLOCK} to {MOST_POINTS:,} points")
    url = os.environ.get("QDRANT_URL")
    if url and not on_this_machine(url):
        parser.error("QDRANT_URL names another machine: this puts load on a store, and only on one that is here")
    with tempfile.TemporaryDirectory() as temporary:
        stores = {"directory": os.fspath(Path(temporary) / "store"), **({"server": url} if url else {})}
        figures: dict[str, Any] = {kind: measure(store, options) for kind, store in stores.items()}
    print(f"{'':28} {'searches':>9} {'/s':>8} {'p50':>9} {'p95':>9} {'p99':>9} {'longest':>9}  errors")
    for kind, phases in figures.items():
        for phase, row in phases.items():
            print(
                f"{kind + ', ' + phase:28} {row['searches']:>9,} {row['searches_per_second']:>8.1f}"
                + "".join(f" {row[key]:>6.0f} ms" for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms"))
                + f"  {row['errors'] or 'none'}"
            )
    names = ("searchers", "seconds", "pause", "points", "writes", "storage", "quantise", "note")
    figures["options"] = {name: getattr(options, name) for name in names}
    figures["machine"] = {
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    atomic_write_text(options.out, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

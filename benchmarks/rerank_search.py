"""What ``sss search --rerank`` gains and costs: the first N of a search beside re-ranking the whole gallery.

    python benchmarks/rerank_search.py DATA [--model BUNDLE] [--every 4]

prints a table and writes benchmarks/results/rerank_search.json. The images are those of the identities that the model's
training held out; every fourth is a query against all the others, and matches of the same identity and camera do not
count. A search re-ranks its first N images, each query alone, fetched from an embedded gallery; the whole gallery is
re-ranked as ``sss evaluate --rerank`` does it. ms: processor time per query without embedding it (one number for what
the fetch and the re-ranking take together).
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.layouts import load_dataset
from siamese_search.evaluation.evaluate import embed_records
from siamese_search.evaluation.protocol import Protocol, all_vs_all
from siamese_search.evaluation.retrieval import RankingMetrics, metrics_from_hit_ranks, summarise
from siamese_search.gallery import open_gallery
from siamese_search.gallery.contract import Gallery, ModelRef
from siamese_search.io.files import atomic_write_text
from siamese_search.model.bundle import load_bundle
from siamese_search.retrieval.options import SearchOptions
from siamese_search.retrieval.query import Probe, point_probe
from siamese_search.retrieval.ranking import rerank_top
from siamese_search.vectors.k_reciprocal import rerank
from siamese_search.workspace import load

RESULTS = Path(__file__).resolve().parent / "results" / "rerank_search.json"
CANDIDATES = (25, 50, 100, 200, 400)


def measured(plan: Protocol, queries: NDArray[np.int64], orders: list[NDArray[np.int64]]) -> RankingMetrics:
    """Rank-k and mAP of full rankings: places in the gallery, without the query's own."""
    ids, cameras = np.array(plan.gallery_ids), np.array([str(record.camera) for record in plan.gallery])
    per_query = []
    for query, order in zip(queries.tolist(), orders, strict=True):
        own = plan.same_image[query]
        same = ids[order] == ids[own]
        stays = ~(same & (cameras[order] == cameras[own]))
        ranks = np.flatnonzero(same[stays]) + 1
        per_query.append(metrics_from_hit_ranks(ranks, len(ranks)) if len(ranks) else None)
    return summarise(per_query, gallery=len(plan.gallery))


def searched(gallery: Gallery, probes: list[Probe], candidates: int) -> list[NDArray[np.int64]]:
    """Full rankings whose first ``candidates`` a search has re-ranked."""
    size = gallery.count()
    plain = gallery.query_ids(np.stack([probe.vector for probe in probes]), size)
    orders = []
    for probe, found in zip(probes, plain, strict=True):
        own = uuid.UUID(probe.name).int
        orders.append(np.array([number - 1 for number in found if number != own], np.int64))
    if candidates:
        options = SearchOptions(exclude_self=True, candidates=candidates)
        for row, top in enumerate(rerank_top(gallery, probes, (), options)):
            places = np.array([uuid.UUID(one.best.id).int - 1 for one in top.groups], np.int64)
            assert set(places.tolist()) == set(orders[row][: len(places)].tolist())
            orders[row] = np.concatenate((places, orders[row][len(places) :]))
    return orders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=None, help="a bundle's directory (default: the bundled model)")
    parser.add_argument("--every", type=int, default=4, help="every so many-th image is a query")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.model)
    held = set(bundle.heldout_identities)
    plan = all_vs_all([r for r in load_dataset(arguments.data, "auto").records if r.identity in held])
    vectors = embed_records(plan.gallery, load(bundle, "cpu", arguments.threads)).vectors
    queries = np.arange(0, len(plan.queries), arguments.every)
    ids = [str(uuid.UUID(int=place + 1)) for place in range(len(plan.gallery))]
    rows: list[dict[str, Any]] = []

    def row(name: str, candidates: int | None, orders: list[NDArray[np.int64]], seconds: float) -> None:
        found = measured(plan, queries, orders)
        per_query = 1000 * seconds / len(queries)
        rows.append({"name": name, "candidates": candidates, "rank1": found.rank1, "mAP": found.mAP, "ms": per_query})
        print(f"{name:<34}{found.rank1:>8.1%}{found.mAP:>8.1%}{per_query:>9.1f}")

    print(f"{len(queries)} queries against {len(ids)} images of {len(held)} identities, model {bundle.name}")
    print(f"{'':<34}{'rank-1':>8}{'mAP':>8}{'ms':>9}")
    model = ModelRef(bundle.fingerprint, bundle.dim, bundle.name)
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_gallery(scratch + "/store", model=model, create=True, mode="w") as gallery,
    ):
        gallery.upsert(ids, vectors, [{"identity": record.identity} for record in plan.gallery])
        places = plan.same_image[queries].tolist()
        points = gallery.retrieve([ids[place] for place in places], with_vectors=True)
        probes = [replace(point_probe(gallery, one), name=one.id) for one in points if one is not None]
        began = time.process_time()
        row("by similarity", None, searched(gallery, probes, 0), time.process_time() - began)
        before = time.process_time() - began
        for candidates in CANDIDATES:
            began = time.process_time()
            orders = searched(gallery, probes, candidates)
            row(f"search, {candidates} candidates", candidates, orders, time.process_time() - began - before)
    began = time.process_time()
    own = plan.same_image[queries]
    scores = rerank(vectors[own], vectors, same_image=own)
    seconds = time.process_time() - began
    orders = [np.argsort(-line, kind="stable") for line in scores]
    orders = [order[order != place] for order, place in zip(orders, own.tolist(), strict=True)]
    row("the whole gallery, all at once", len(ids), orders, seconds)
    result = {
        "device": f"CPU, {platform.machine()}",
        "data": arguments.data.name,
        "model": bundle.fingerprint,
        "queries": len(queries),
        "gallery": len(ids),
        "rows": rows,
    }
    atomic_write_text(arguments.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What searching in fewer bits loses, through the real embedded database, against rankings worked out one by one."""

from __future__ import annotations

import numpy as np
import pytest

from siamese_search.datasets.records import ImageRecord
from siamese_search.evaluation.evaluate import evaluate
from siamese_search.evaluation.protocol import all_vs_all
from siamese_search.evaluation.retrieval import metrics_from_hit_ranks
from siamese_search.evaluation.through_gallery import measure_quantised


def planted(tmp_path, people: int = 12, each: int = 6, dim: int = 64, spread: float = 0.05, seed: int = 0):
    """Records and unit vectors [n, d] so close to one another that one bit a number cannot keep them apart."""
    rng = np.random.default_rng(seed)
    identities = np.repeat(np.arange(people), each)
    centres = rng.normal(size=dim) + spread * rng.normal(size=(people, dim))
    vectors = centres[identities] + spread * rng.normal(size=(len(identities), dim))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    records = [
        ImageRecord(f"{i}.png", tmp_path / f"{i}.png", f"id{identity}", None)
        for i, identity in enumerate(identities.tolist())
    ]
    return all_vs_all(records), vectors, identities


def test_the_exact_side_is_the_truncated_ranking_by_the_slow_way(tmp_path):
    plan, vectors, identities = planted(tmp_path)
    (found,) = measure_quantised(["int8"], plan, vectors, vectors, depth=20)
    precisions, firsts = [], []
    for query in range(len(vectors)):
        order = sorted(range(len(vectors)), key=lambda i: (-float(vectors[query] @ vectors[i]), i))
        hits = [identities[i] == identities[query] for i in order if i != query][:20]
        precisions.append(metrics_from_hit_ranks(np.flatnonzero(hits) + 1, positives=5).average_precision)
        firsts.append(hits[0])
    assert found.depth == 20
    assert found.exact_mAP == pytest.approx(np.mean(precisions), abs=1e-6)
    assert found.exact_rank1 == pytest.approx(np.mean(firsts), abs=1e-6)


def test_fewer_bits_lose_more(tmp_path):
    # 600 vectors: a search for ten in one bit a number scores 160 candidates again, far from all.
    plan, vectors, _ = planted(tmp_path, people=60, each=10)
    found = measure_quantised(["binary", "int8", "binary"], plan, vectors, vectors, depth=10)
    assert [one.quantisation for one in found] == ["binary", "int8"]
    binary, int8 = found
    assert (binary.exact_rank1, binary.exact_mAP) == (int8.exact_rank1, int8.exact_mAP)
    assert 0.1 < binary.recall < 0.98 < int8.recall <= 1.0
    assert binary.mAP < int8.mAP <= int8.exact_mAP + 1e-9


def test_nothing_asked_for_is_nothing_done(tmp_path):
    plan, vectors, _ = planted(tmp_path, people=2, each=2)
    assert measure_quantised([], plan, vectors, vectors) == []


def test_an_evaluation_has_it_beside_figures_that_stay(make_images, embedder, memory_gallery):
    records = make_images()
    plain = evaluate(records, embedder, memory_gallery())
    report = evaluate(records, embedder, memory_gallery(), quantise=["int4"])
    assert plain.quantised == ()
    (found,) = report.quantised
    assert (found.quantisation, found.depth) == ("int4", 100)
    assert found.exact_mAP == pytest.approx(report.mAP)  # twelve images: a hundred results are all
    assert (report.mAP, report.ann_recall) == (plain.mAP, plain.ann_recall)
    assert report.to_json()["quantised"] == [found.to_json()]

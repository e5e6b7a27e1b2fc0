"""evaluate() end to end: real image files, the embedded database, figures checked against the exact ranking."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from siamese_search.cli.output import clauses
from siamese_search.datasets.layouts import Dataset
from siamese_search.errors import DataError, ModelMismatchError, StoreError, UsageError
from siamese_search.evaluation.evaluate import evaluate
from siamese_search.evaluation.protocol import Labels
from siamese_search.evaluation.retrieval import metrics_from_hit_ranks, retrieval_metrics
from siamese_search.gallery.contract import ModelRef
from siamese_search.io.images import read_image
from siamese_search.model.calibration import ADAPT, Calibration
from siamese_search.model.embedder import FlipEmbedder
from siamese_search.vectors.k_reciprocal import KReciprocal, rerank

CONTRACT = {
    "protocol", "queries", "gallery", "invalid_queries", "rank1", "rank5", "rank10", "mAP", "mAP_trapezoid",
    "mINP", "verification", "ann_recall", "model", "data",
}  # fmt: skip


def test_planted_identities_are_found_through_the_embedded_database(make_images, embedder):
    records = make_images([str(i) for i in range(1, 13)], ("1", "2", "3"), each=2, noise=25)
    report = evaluate(records, embedder)
    assert report.ranking.queries == report.ranking.gallery == 72
    assert report.ranking.invalid_queries == 0
    assert report.rank1 > 0.9
    assert report.ann_recall == 1.0
    for figure in ("rank1", "rank5", "rank10", "mAP", "mAP_trapezoid", "mINP"):
        assert getattr(report.ranking, figure) == pytest.approx(getattr(report.exact, figure), abs=1e-3)
    assert report.verification.auc > 0.9
    # Six images of each identity form 15 pairs, 3 of them within a camera.
    assert report.verification.genuine == 12 * 12
    assert report.plan.excluded.same_camera == 72


def test_figures_are_those_of_the_images_by_the_slow_way(make_images, embedder, memory_gallery):
    records = make_images(["1", "2", "3", "0000", "-1", None], ("1", "2"), each=2, noise=500)
    report = evaluate(records, embedder, memory_gallery())
    kept = [r for r in records if r.identity not in (None, "-1")]
    vectors = embedder.embed(np.stack([read_image(r.path, embedder.input_size) for r in kept]))
    queries = [i for i, r in enumerate(kept) if r.identity != "0000"]
    expected = retrieval_metrics(
        vectors[queries],
        vectors,
        Labels.of(
            [kept[i].identity for i in queries],
            [r.identity for r in kept],
            [kept[i].camera for i in queries],
            [r.camera for r in kept],
            same_image=np.array(queries),
        ),
    )
    assert 0.2 < expected.mAP < 0.999  # noisy enough to tell rankings apart
    assert report.ranking.mAP == report.exact.mAP == pytest.approx(expected.mAP, abs=1e-12)
    np.testing.assert_array_equal(report.ranking.first_hit_rank, expected.first_hit_rank)
    assert (report.plan.excluded.junk, report.plan.excluded.unlabelled) == (4, 4)


def test_the_json_has_the_contract_keys_and_is_strict(make_images, embedder, memory_gallery):
    records = make_images()
    report = evaluate(Dataset(records[0].path.parent, "flat", "", records), embedder, memory_gallery())
    shape = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert shape.keys() >= CONTRACT
    assert shape["verification"].keys() >= {"auc", "eer", "tar_at_far", "threshold", "false_match_rate"}
    assert list(shape["verification"]["tar_at_far"]) == ["1e-1", "1e-2", "1e-3", "1e-4"]
    assert shape["protocol"] == "all_vs_all"
    assert shape["model"] == "colour-blocks"
    assert shape["data"] == str(records[0].path.parent)
    assert shape["failed"] == []
    assert shape["verification"]["tar_at_far"]["1e-4"] is None  # 48 impostor pairs cannot tell


def test_separate_queries_follow_the_market_protocol(make_images, embedder, memory_gallery):
    gallery = make_images(["1", "2", "0000"], ("1", "2"), each=1, folder="gallery")
    queries = make_images(["1", "2", "9"], ("3",), each=1, folder="query", seed=5)
    # The third identity of the queries has the stripes of the distractor, and no match.
    report = evaluate(gallery, embedder, memory_gallery(), queries=queries)
    assert report.to_json()["protocol"] == "market"
    assert (report.ranking.queries, report.ranking.gallery, report.ranking.invalid_queries) == (3, 6, 1)
    assert report.rank1 == report.mAP == 1.0
    assert report.verification.genuine == 4
    assert [report.plan.gallery[i].identity for i in report.top[0][:2]] == ["1", "1"]


def test_corrupt_images_are_named_and_survived(make_images, embedder, memory_gallery):
    records = make_images(["1", "2", "3", "-1"])
    records[1].path.write_bytes(b"\x89PNG nothing more")
    records[6].path.unlink()
    report = evaluate(records, embedder, memory_gallery(), batch_size=5)
    assert report.ranking.queries == report.ranking.gallery == 10
    shape = report.to_json()
    assert [entry["path"] for entry in shape["failed"]] == [str(records[1].path), str(records[6].path)]
    assert shape["failed"][1]["reason"] == "no such file"
    assert shape["excluded"]["junk"] == 4
    assert any("2 images could not be read" in line for line in report.notes())
    assert report.rank1 == 1.0


def test_corrupt_queries_are_named_and_survived(make_images, embedder, memory_gallery):
    gallery = make_images(["-1", "1", "2"], folder="gallery")
    queries = make_images(["-1", "1", "2"], ("3",), folder="query", seed=5)
    gallery[5].path.write_bytes(b"")
    queries[2].path.write_bytes(b"")
    report = evaluate(gallery, embedder, memory_gallery(), queries=queries)
    assert (report.ranking.queries, report.ranking.gallery) == (3, 7)
    assert [failure.path for failure in report.failed] == [str(gallery[5].path), str(queries[2].path)]
    assert [record.identity for record in report.plan.queries] == ["1", "2", "2"]
    assert report.rank1 == 1.0


def test_nothing_but_corrupt_images(make_images, embedder, memory_gallery):
    records = make_images()
    for record in records:
        record.path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of 12 images can be read; .*1_0_c1_0.png: not an image"):
        evaluate(records, embedder, memory_gallery())


def test_single_camera_data_fails_before_anything_is_embedded(make_images, memory_gallery):
    records = make_images(cameras=("1",))
    blind = SimpleNamespace(fingerprint="colour-blocks", dim=32, input_size=(32, 16), embed=None)
    with pytest.raises(DataError, match="every query lost its matches to the same-camera rule: use --no-cameras"):
        evaluate(records, blind, memory_gallery())


def test_single_camera_data_without_the_rule(make_images, embedder, memory_gallery):
    report = evaluate(make_images(cameras=("1",)), embedder, memory_gallery(), use_cameras=False)
    assert report.rank1 == 1.0
    assert report.to_json()["cameras"] is False
    assert report.to_json()["excluded"]["itself"] == 6


def test_a_lossy_database_shows_in_the_figures(make_images, embedder, memory_gallery):
    records = make_images(["1", "2"], ("1", "2"), each=1)
    # The second image of identity 1 (place 1, id 2) never comes back: its partner misses its only match.
    gallery = memory_gallery(forget=["00000000-0000-0000-0000-000000000002"])
    report = evaluate(records, embedder, gallery)
    assert report.exact.mAP == 1.0
    assert report.mAP == 0.75
    assert report.rank1 == 0.75
    assert report.ann_recall == 0.75  # three of four results, for each of four queries
    assert report.ranking.invalid_queries == 0


def test_a_depth_cuts_the_ranking_and_is_labelled(make_images, embedder, memory_gallery):
    records = make_images(["1", "2", "3"], ("1", "2"), each=3)
    gallery = memory_gallery()
    report = evaluate(records, embedder, gallery, depth=3)
    # Three images of the query's own camera leave its ranking, the query among them, and count for nothing.
    assert {k for _, k in gallery.asked} == {6}
    assert report.to_json()["depth"] == 3
    assert report.notes()[-1] == "rankings cut off at 3: mAP is mAP@3"
    assert report.mAP == 1.0
    cut = evaluate(records, embedder, memory_gallery(), depth=1)
    assert (cut.rank1, cut.mAP) == (1.0, pytest.approx(1 / 3))


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 5, 11, 1000])
def test_a_depth_counts_ranks_after_what_leaves_them(make_images, embedder, memory_gallery, separate, depth):
    """Against the exact ranking, cut off by the slow way; junk and the query's own camera are no ranks."""
    records = make_images(["1", "2", "3", "4", "0000", "-1"], ("1", "2", "3"), each=2, noise=500)
    asked = make_images(["1", "2", "3", "4"], ("3",), noise=500, folder="queries", seed=5) if separate else None
    report = evaluate(records, embedder, memory_gallery(), queries=asked, depth=depth)
    plan = report.plan
    queries, gallery = (
        embedder.embed(np.stack([read_image(r.path, embedder.input_size) for r in side]))
        for side in (plan.queries, plan.gallery)
    )
    precisions = []
    for query, scores in enumerate(queries @ gallery.T):
        order = np.argsort(-scores, kind="stable")
        ranked = order[~plan.left_out(query, order)][:depth]
        hits = np.flatnonzero(plan.gallery_identity[ranked] == plan.query_identity[query]) + 1
        precisions.append(metrics_from_hit_ranks(hits, plan.matches(query)).average_precision)
    assert report.mAP == pytest.approx(np.mean(precisions))


@pytest.mark.parametrize("separate", [False, True])
def test_reranked_figures_stand_beside_those_of_the_database(make_images, embedder, memory_gallery, separate):
    records = make_images(["1", "2", "3", "4", "0000", "-1"], ("1", "2", "3"), each=2, noise=500)
    asked = make_images(["1", "2", "3", "4"], ("3",), noise=500, folder="queries", seed=5) if separate else None
    how = KReciprocal(4, 2)
    plain = evaluate(records, embedder, memory_gallery(), queries=asked)
    report = evaluate(records, embedder, memory_gallery(), queries=asked, rerank=how, depth=40)
    # What it means, the direct way: junk leaves before the neighbourhoods are formed.
    plan = plain.plan
    queries, gallery = (
        embedder.embed(np.stack([read_image(r.path, embedder.input_size) for r in side]))
        for side in (plan.queries, plan.gallery)
    )
    scores = rerank(queries, gallery, how, same_image=plan.same_image)
    precisions = []
    for query, row, own in zip(plan.queries, scores, plan.same_image):
        order = [
            plan.gallery[place].identity == query.identity
            for place in np.argsort(-row, kind="stable")
            if place != own
            and (plan.gallery[place].identity, plan.gallery[place].camera) != (query.identity, query.camera)
        ]
        ranks = np.flatnonzero(order) + 1
        precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    assert report.reranked.metrics.mAP == pytest.approx(np.mean(precisions))
    assert report.reranked.metrics.mAP != plain.mAP
    # Nothing else changes.
    assert (report.mAP, report.rank1, report.ann_recall) == (plain.mAP, plain.rank1, plain.ann_recall)
    assert report.verification == plain.verification
    shape = report.to_json()
    assert {key: shape["reranked"][key] for key in ("k1", "k2", "lambda")} == {"k1": 4, "k2": 2, "lambda": 0.3}
    assert "k1 4, k2 2, lambda 0.3" in report.notes()[-1]
    assert "not from the database" in report.notes()[-1]
    assert plain.to_json()["reranked"] is None


def test_thresholds_that_let_too_much_pass_are_named_with_the_ways_out_in_short_lines(make_images, embedder):
    report = evaluate(make_images([str(n) for n in range(1, 61)], ("1", "2")), embedder)
    assert report.pairs.impostor_pairs > 2000
    assert not report._misfit()
    loose = Calibration((1.0, 0.01), (-1.0, -0.9), 10.0, 5.0, 50, 100)
    (note,) = replace(report, kept=loose)._misfit()
    lines = clauses(f"- {note}").splitlines()
    assert lines[0].startswith("- the calibration does not hold here: ")
    assert lines[1:] == ["--calibrate measures it anew;", f"better scores: {ADAPT}"]
    assert max(map(len, lines)) <= 80


def test_few_pairs_are_enough_to_tell_where_far_too_many_pass(make_images, embedder):
    report = evaluate(make_images([str(n) for n in range(1, 7)], ("1", "2")), embedder)
    assert 20 < report.pairs.impostor_pairs < 200
    loose = Calibration((1.0, 0.01), (-1.0, -0.9), 10.0, 5.0, 50, 100)
    assert replace(report, kept=loose)._misfit()
    strict = replace(loose, thresholds=(-1.0, 0.9999))
    assert not replace(report, kept=strict)._misfit()


def test_flip_holds_for_every_figure_and_is_named(make_images, embedder, memory_gallery):
    records = make_images(["1", "2", "3"], ("1", "2"), noise=500)
    plain = evaluate(records, embedder, memory_gallery())
    report = evaluate(records, embedder, flip=True)
    by_hand = evaluate(records, FlipEmbedder(embedder))
    assert report.flip
    assert report.to_json()["flip"] is True
    assert report.model == embedder.fingerprint
    assert any("mirror image" in note for note in report.notes())
    assert report.mAP == by_hand.mAP != plain.mAP
    assert report.exact.mAP == pytest.approx(report.mAP)
    assert report.verification == by_hand.verification != plain.verification
    with pytest.raises(ModelMismatchError, match=r"by model colour-blocks, not colour-blocks\+flip"):
        evaluate(records, embedder, memory_gallery(), flip=True)


def test_queries_are_asked_in_bounded_groups(make_images, embedder, memory_gallery, monkeypatch):
    monkeypatch.setattr("siamese_search.retrieval.ranking.HITS_AT_ONCE", 30)
    gallery = memory_gallery()
    report = evaluate(make_images(), embedder, gallery)
    assert gallery.asked == [(2, 12)] * 6
    assert report.rank1 == 1.0


@pytest.mark.parametrize("noise", [10, 500])
def test_fetching_in_steps_gives_the_figures_of_full_rankings(
    make_images, embedder, memory_gallery, monkeypatch, noise
):
    records = make_images(["1", "2", "3", "0000", "-1", "4", "5"], ("1", "2", "3"), each=2, noise=noise)
    whole = evaluate(records, embedder, memory_gallery())
    monkeypatch.setattr("siamese_search.evaluation.through_gallery._FIRST_FETCH", 2)
    monkeypatch.setattr("siamese_search.evaluation.through_gallery.GROWTH", 2)
    # A forecast that is always too short, as with an index that loses points.
    monkeypatch.setattr("siamese_search.evaluation.through_gallery._depths", lambda _, rows, *__: np.zeros(len(rows)))
    gallery = memory_gallery()
    steps = evaluate(records, embedder, gallery)
    assert [k for _, k in gallery.asked][:4] == [2, 4, 8, 16]
    assert max(k for _, k in gallery.asked) <= 36
    for figure in ("average_precision", "average_precision_trapezoid", "inverse_negative_penalty"):
        np.testing.assert_array_equal(getattr(steps.ranking, figure), getattr(whole.ranking, figure))
    np.testing.assert_array_equal(steps.ranking.first_hit_rank, whole.ranking.first_hit_rank)
    np.testing.assert_array_equal(np.stack(steps.top), np.stack(whole.top))
    assert steps.ann_recall == whole.ann_recall == 1.0


def test_no_query_is_asked_twice_where_the_database_is_exact(make_images, embedder, memory_gallery, monkeypatch):
    records = make_images(["1", "2", "3", "0000", "-1", "4", "5"], ("1", "2", "3"), each=2, noise=500)
    monkeypatch.setattr("siamese_search.evaluation.through_gallery._FIRST_FETCH", 1)
    gallery = memory_gallery()
    report = evaluate(records, embedder, gallery)
    assert sum(queries for queries, _ in gallery.asked) == report.ranking.queries == 30
    assert report.mAP == pytest.approx(report.exact.mAP)


def test_progress_covers_both_stages(make_images, embedder, memory_gallery):
    seen = []
    evaluate(make_images(), embedder, memory_gallery(), batch_size=5, progress=lambda *step: seen.append(step))
    assert seen == [("embed", 5, 12), ("embed", 10, 12), ("embed", 12, 12), ("rank", 12, 12)]


def test_a_gallery_that_holds_something_is_left_alone(make_images, embedder, memory_gallery):
    gallery = memory_gallery()
    gallery.upsert(["x"], np.ones((1, 32), np.float32), [{}])
    with pytest.raises(StoreError, match="needs an empty gallery"):
        evaluate(make_images(), embedder, gallery)
    assert gallery.count() == 1


def test_a_gallery_of_another_model_is_refused(make_images, embedder, memory_gallery):
    gallery = memory_gallery()
    gallery.model = ModelRef("another", 32)
    with pytest.raises(ModelMismatchError, match="by model another, not colour-blocks"):
        evaluate(make_images(), embedder, gallery)


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"false_match_rate": 0}, {"false_match_rate": 1.5}])
def test_options_that_cannot_work(make_images, embedder, memory_gallery, wrong):
    with pytest.raises(UsageError):
        evaluate([], embedder, memory_gallery(), **wrong)


def test_nan_becomes_null(make_images, embedder, memory_gallery):
    report = evaluate(make_images(["1"], ("1", "2"), each=1), embedder, memory_gallery())
    shape = report.to_json()
    assert shape["verification"]["auc"] is None  # no impostor pair
    assert "nobody could be mistaken" in report.notes()[0]
    assert math.isfinite(shape["mAP"])


def test_copies_of_an_image_are_no_right_answers(make_images, embedder, tmp_path):
    """A picture of each identity and its byte copy: without the copy there is nothing to find."""
    records = make_images(["1", "2", "3"], (None,), each=2, noise=400)
    alone = evaluate(records, embedder)
    copies = []
    for number, record in enumerate(records[::2]):
        path = tmp_path / f"copy{number}.png"
        path.write_bytes(record.path.read_bytes())
        copies.append(replace(record, key=path.name, path=path))
    without = evaluate([*records, *copies], embedder)
    assert (without.plan.excluded.copied, without.plan.excluded.copies) == (6, 3)
    assert (without.ranking.mAP, without.verification.auc) == (alone.ranking.mAP, alone.verification.auc)
    assert "6 queries have a copy (the same bytes) among the others, left out" in " ".join(without.notes())
    counted = evaluate([*records, *copies], embedder, copies=True)
    assert (counted.ranking.gallery, counted.plan.excluded.copied, counted.plan.excluded.copies) == (9, 6, 0)
    assert "6 queries have a copy (the same bytes) among the others, which counts" in " ".join(counted.notes())
    # As queries of their own: what they are copies of leaves their ranking, and no other's.
    asked = evaluate(records, embedder, queries=copies)
    assert (asked.plan.excluded.copied, asked.plan.excluded.copies, asked.plan.excluded.itself) == (3, 0, 3)
    assert asked.ranking.gallery == 6
    # Under another name it is no copy, and says something about the labels.
    wrong = [replace(copy, identity="9") for copy in copies]
    assert evaluate([*records, *wrong], embedder).plan.excluded.copied == 0
    with pytest.raises(DataError, match="3 copies of the same bytes left out"):
        evaluate([*records[::2], *copies], embedder)

"""Ranking metrics against values worked out by hand and against a slow, obvious oracle."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from siamese_search.datasets import records
from siamese_search.evaluation.protocol import DISTRACTOR, JUNK, Labels
from siamese_search.evaluation.retrieval import metrics_from_hit_ranks, metrics_from_scores, retrieval_metrics


def metrics_from_ranked_hits(hits, positives=None):
    """The figures of a ranking of which each item is known to match or not."""
    return metrics_from_hit_ranks(np.flatnonzero(hits).astype(np.int64) + 1, positives)


def ranked(*hit_ranks: int, length: int = 10) -> list[bool]:
    return [rank in hit_ranks for rank in range(1, length + 1)]


def oracle(queries, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras, same_image):
    """Everything by definition, one query and one item at a time. Returns one tuple (or None) per query."""
    figures = []
    for q, vector in enumerate(queries):
        kept = []
        for g, item in enumerate(gallery):
            same_identity = gallery_ids[g] == query_ids[q]
            known = query_cameras is not None and None not in (query_cameras[q], gallery_cameras[g])
            if gallery_ids[g] == "-1" or g == same_image[q]:
                continue
            if same_identity and known and query_cameras[q] == gallery_cameras[g]:
                continue
            score = sum(float(a) * float(b) for a, b in zip(vector, item))
            kept.append((-score, g, same_identity and query_ids[q] not in ("-1", "0000")))
        hits = [hit for _, _, hit in sorted(kept)]
        if not any(hits):
            figures.append(None)
            continue
        precisions, trapezoids, found, before = [], [], 0, 1.0
        for rank, hit in enumerate(hits, start=1):
            found += hit
            precision = found / rank
            if hit:
                precisions.append(precision)
                trapezoids.append((before + precision) / 2)
                last = rank
            before = precision
        figures.append((sum(precisions) / found, sum(trapezoids) / found, found / last, hits.index(True) + 1, found))
    return figures


def random_case(rng: np.random.Generator):
    """A small case full of trouble: ties (small integers are exact in float32), junk, distractors, few cameras."""
    q, g, d = int(rng.integers(1, 8)), int(rng.integers(1, 25)), int(rng.integers(1, 4))
    labels = ["-1", "0000", *(str(i) for i in range(1, int(rng.integers(2, 6))))]
    cameras = [None, *(str(i) for i in range(1, int(rng.integers(2, 5))))]
    gallery = rng.integers(-2, 3, size=(g, d)).astype(np.float32)
    queries = rng.integers(-2, 3, size=(q, d)).astype(np.float32)
    gallery_ids = [str(rng.choice(labels)) for _ in range(g)]
    query_ids = [str(rng.choice(labels)) for _ in range(q)]
    gallery_cameras = [cameras[int(rng.integers(len(cameras)))] for _ in range(g)]
    query_cameras = [cameras[int(rng.integers(len(cameras)))] for _ in range(q)]
    same_image = np.full(q, -1)
    for query in range(q):
        if rng.random() < 0.5:  # the query is part of the gallery, labels and all
            own = same_image[query] = int(rng.integers(g))
            queries[query] = gallery[own]
            query_ids[query], query_cameras[query] = gallery_ids[own], gallery_cameras[own]
    if rng.random() < 0.3:
        query_cameras = gallery_cameras = None
    return queries, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras, same_image


@pytest.mark.parametrize(
    ("ranks", "precision", "trapezoid", "penalty"),
    [
        ((1, 2, 4, 7), 0.830357, 0.811012, 0.571429),
        ((2,), 0.5, 0.25, 0.5),
        ((1, 3), 0.833333, 0.791667, 0.666667),
        ((1,), 1.0, 1.0, 1.0),
        ((10,), 0.1, 0.05, 0.1),
    ],
)
def test_golden_values(ranks, precision, trapezoid, penalty):
    figures = metrics_from_ranked_hits(ranked(*ranks))
    assert figures.average_precision == pytest.approx(precision, abs=1e-6)
    assert figures.average_precision_trapezoid == pytest.approx(trapezoid, abs=1e-6)
    assert figures.inverse_negative_penalty == pytest.approx(penalty, abs=1e-6)
    assert figures.first_hit_rank == ranks[0]


def test_golden_values_come_out_of_a_whole_ranking():
    # Scores fall with the index, so gallery item i has rank i + 1.
    gallery = np.linspace(1, 0.1, 10, dtype=np.float32)[:, None]
    identities = ["7" if hit else f"other{i}" for i, hit in enumerate(ranked(1, 2, 4, 7))]
    result = retrieval_metrics(np.ones((1, 1), np.float32), gallery, Labels.of(["7"], identities))
    assert result.mAP == pytest.approx(0.830357, abs=1e-6)
    assert result.mAP_trapezoid == pytest.approx(0.811012, abs=1e-6)
    assert result.mINP == pytest.approx(0.571429, abs=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_oracle_agrees_on_random_cases(seed):
    rng = np.random.default_rng(seed)
    valid = 0
    for _ in range(60):
        *labelled, same_image = random_case(rng)
        expected = oracle(*labelled, same_image)
        chunk = int(rng.integers(1, 9))
        labels = Labels.of(*labelled[2:], same_image=same_image)
        result = retrieval_metrics(*labelled[:2], labels, chunk=chunk)
        known = [figures for figures in expected if figures is not None]
        valid += len(known)
        assert result.queries == len(expected)
        assert result.gallery == len(labelled[1])
        assert result.invalid_queries == len(expected) - len(known)
        per_query = zip(
            result.average_precision,
            result.average_precision_trapezoid,
            result.inverse_negative_penalty,
            result.first_hit_rank,
            map(labels.matches, range(len(expected))),
        )
        for got, want in zip(per_query, expected):
            want = (np.nan, np.nan, np.nan, 0, 0) if want is None else want
            np.testing.assert_allclose(got, want, rtol=1e-12)
        if not known:
            assert np.isnan([result.rank1, result.mAP, result.mINP]).all()
            continue
        means = np.mean([figures[:3] for figures in known], axis=0)
        np.testing.assert_allclose([result.mAP, result.mAP_trapezoid, result.mINP], means, rtol=1e-12)
        curve = [np.mean([figures[3] <= k for figures in known]) for k in range(1, 51)]
        np.testing.assert_allclose(result.cmc_curve(50), curve)
        np.testing.assert_allclose([result.rank1, result.rank5, result.rank10], [curve[0], curve[4], curve[9]])
    assert valid > 50  # otherwise the cases tested nothing


def one_query(gallery_scores, gallery_ids, gallery_cameras=None, *, camera=None, same_image=-1):
    """Identity ``A`` against a gallery with the given scores."""
    return retrieval_metrics(
        np.ones((1, 1), np.float32),
        np.array(gallery_scores, np.float32)[:, None],
        Labels.of(
            ["A"],
            gallery_ids,
            [camera],
            gallery_cameras or [None] * len(gallery_ids),
            same_image=np.array([same_image]),
        ),
    )


def test_junk_leaves_the_ranking_and_a_distractor_stays():
    assert one_query([0.9, 0.8], ["-1", "A"]).mAP == 1.0
    assert one_query([0.9, 0.8], ["0000", "A"]).mAP == 0.5


def test_same_identity_and_camera_is_left_out_but_another_identity_of_that_camera_is_not():
    # By score: A at the query's camera (out), B at that camera (a negative), A elsewhere (the match).
    result = one_query([0.9, 0.8, 0.7], ["A", "B", "A"], ["1", "1", "2"], camera="1")
    assert result.mAP == 0.5  # of one match
    assert result.first_hit_rank.tolist() == [2]


def test_an_unknown_camera_excludes_nothing():
    assert one_query([0.9], ["A"], [None], camera="1").rank1 == 1.0
    assert one_query([0.9], ["A"], ["1"], camera=None).rank1 == 1.0
    assert one_query([0.9], ["A"], [None], camera=None).rank1 == 1.0


def test_the_query_itself_is_left_out_and_its_duplicate_is_not():
    assert one_query([1.0, 0.5], ["A", "B"], same_image=0).invalid_queries == 1
    assert one_query([1.0, 1.0, 0.5], ["A", "A", "B"], same_image=0).rank1 == 1.0


def test_ties_are_ordered_by_gallery_index():
    assert one_query([0.5, 0.5, 0.5], ["B", "A", "B"]).first_hit_rank.tolist() == [2]
    assert one_query([0.5, 0.5, 0.5], ["A", "B", "B"]).first_hit_rank.tolist() == [1]
    # An excluded item takes no part in a tie.
    assert one_query([0.5, 0.5], ["-1", "A"]).first_hit_rank.tolist() == [1]


def test_a_gallery_smaller_than_k():
    result = one_query([0.9, 0.8], ["B", "A"])
    assert (result.rank1, result.rank5, result.rank10) == (0.0, 1.0, 1.0)


def test_invalid_queries_are_counted_and_take_no_part_in_the_means():
    vectors = np.eye(3, dtype=np.float32)
    result = retrieval_metrics(vectors, vectors, Labels.of(["A", "nobody", "-1"], ["A", "B", "C"]))
    assert (result.queries, result.invalid_queries, result.valid_queries) == (3, 2, 1)
    assert result.mAP == result.rank1 == 1.0


def test_without_any_valid_query_there_is_no_mean():
    result = one_query([0.9], ["B"])
    assert np.isnan([result.mAP, result.rank1, *result.cmc_curve(3)]).all()


def test_an_empty_gallery_and_no_queries():
    nothing = np.empty((0, 4), np.float32)
    assert retrieval_metrics(np.ones((2, 4)), nothing, Labels.of(["A", "B"], [])).invalid_queries == 2
    assert retrieval_metrics(nothing, np.ones((2, 4)), Labels.of([], ["A", "B"])).queries == 0


def test_a_truncated_list_counts_missing_matches_as_missed():
    # Hits at 1 and 2 of a list of 3; four matches exist: AP@3 = (1 + 1) / 4.
    figures = metrics_from_ranked_hits([True, True, False], positives=4)
    assert figures.average_precision == 0.5
    assert figures.inverse_negative_penalty == 0.0
    assert metrics_from_ranked_hits([False, False], positives=2).average_precision == 0.0
    with pytest.raises(ValueError, match="2 hits but only 1"):
        metrics_from_ranked_hits([True, True], positives=1)


def test_memory_is_bounded_by_the_chunk():
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(20_000, 4)).astype(np.float32)
    queries = rng.normal(size=(256, 4)).astype(np.float32)
    identities = [str(i % 500) for i in range(20_000)]
    tracemalloc.start()
    retrieval_metrics(queries, gallery, Labels.of(identities[:256], identities), chunk=16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6  # the whole score matrix would be 20 MB


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_embeddings": np.ones(3)}, "query_embeddings must be"),
        ({"query_embeddings": np.ones((2, 5))}, "5 dimensions, the gallery has 3"),
        ({"query_embeddings": np.full((2, 3), np.nan)}, "not finite"),
        ({"gallery_ids": ["1"]}, "gallery_ids has 1 entries, not 2"),
        ({"query_cameras": ["1"], "gallery_cameras": ["1", "1"]}, "query_cameras has 1"),
        ({"same_image": np.array([0, 2])}, "between -1 and 1"),
        ({"chunk": 0}, "chunk"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, message):
    ones = np.ones((2, 3))
    sound = {"query_embeddings": ones, "gallery_embeddings": ones, "query_ids": ["1", "2"], "gallery_ids": ["1", "2"]}
    with pytest.raises(ValueError, match=message):
        measured({**sound, **change})


def measured(given):
    labels = {name: value for name, value in given.items() if "embeddings" not in name and name != "chunk"}
    others = {name: value for name, value in given.items() if name not in labels}
    return retrieval_metrics(**others, labels=Labels.of(**labels))


def test_reserved_identities_have_codes_of_their_own():
    labels = Labels.of(
        ["a", records.JUNK_IDENTITY], [records.DISTRACTOR_IDENTITY, "b", "a"], [None, "1"], ["1", None, "2"]
    )
    assert (labels.query_identity.tolist(), labels.gallery_identity.tolist()) == ([0, JUNK], [DISTRACTOR, 1, 0])
    assert (labels.query_camera.tolist(), labels.gallery_camera.tolist()) == ([-1, 0], [0, -1, 1])
    assert [labels.members(query).tolist() for query in (0, 1)] == [[2], []]
    assert labels.matches(0) == 1


def test_scores_that_are_there_give_the_figures_of_their_embeddings():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(30, 4)).astype(np.float32)
    ids = [str(i) for i in rng.integers(1, 6, size=30)]
    cameras = [str(i) for i in rng.integers(1, 3, size=30)]
    whole = retrieval_metrics(vectors, vectors, Labels.within(ids, cameras))
    blocks = np.split(vectors @ vectors.T, [7, 21])
    split = metrics_from_scores(blocks, Labels.within(ids, cameras))
    np.testing.assert_array_equal(split.average_precision, whole.average_precision)
    np.testing.assert_array_equal(split.first_hit_rank, whole.first_hit_rank)
    assert split.invalid_queries == whole.invalid_queries


@pytest.mark.parametrize("shapes", [[(2, 4)], [(2, 4), (2, 4)], [(3, 5)]])
def test_scores_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match="scores"):
        metrics_from_scores([np.zeros(shape, np.float32) for shape in shapes], Labels.of(list("abc"), list("abcd")))

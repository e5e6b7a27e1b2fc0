"""Clusters and the identities proposed for them: against plain average linkage, and through a review and back."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from fakes import write_image
from PIL import Image
from vectors import units

from siamese_search.curation import identities
from siamese_search.curation.identities import Proposal, Proposals, propose, write_review
from siamese_search.curation.labels import check_plan, plan_labels, write_changes
from siamese_search.datasets.records import point_id
from siamese_search.errors import UsageError
from siamese_search.gallery.filters import Condition
from siamese_search.model.calibration import Calibration
from siamese_search.render.canvas import COLOURS, Canvas
from siamese_search.render.sheets import draw_clusters
from siamese_search.vectors.clustering import cluster
from siamese_search.vectors.k_reciprocal import KReciprocal, jaccard_rows, rerank


def groups(rng, sizes, noise=0.25, dim=16):
    """Unit vectors around a centre per group, and the group of each."""
    centres = units(rng, len(sizes), dim)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    vectors = centres[truth] + noise * rng.standard_normal((len(truth), dim)).astype(np.float32)
    order = rng.permutation(len(truth))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return vectors[order], truth[order]


def similarity(vectors, neighbours):
    """The dense matrix of Jaccard similarities, from sparse rows."""
    k2 = max(1, min(6, round(neighbours * 0.3)))
    matrix = np.zeros((len(vectors), len(vectors)))
    for i, (places, values) in enumerate(jaccard_rows(vectors, KReciprocal(neighbours, k2))):
        matrix[i, places] = values
    return matrix


def plain_linkage(vectors, neighbours, least, cosine):
    """Merge the pair of clusters of the highest mean similarity, again and again: slow and obvious."""
    matrix, cosines = similarity(vectors, neighbours), vectors.astype(np.float64) @ vectors.T
    clusters = [[i] for i in range(len(vectors))]
    while True:
        best = None
        for a in range(len(clusters)):
            for b in range(a):
                block = np.ix_(clusters[a], clusters[b])
                mean = matrix[block].mean()
                if mean >= least and (cosine is None or cosines[block].mean() >= cosine):
                    best = max(best, (mean, a, b)) if best else (mean, a, b)
        if best is None:
            return {frozenset(one) for one in clusters}
        _, a, b = best
        clusters[b] += clusters.pop(a)


def as_sets(labels):
    return {frozenset(np.flatnonzero(labels == one).tolist()) for one in set(labels.tolist())}


def test_sparse_similarities_are_those_of_re_ranking():
    vectors, _ = groups(np.random.default_rng(0), [5, 7, 3, 6])
    matrix = similarity(vectors, 6)
    np.fill_diagonal(matrix, 1)
    places = np.arange(len(vectors))
    whole = rerank(vectors, vectors, KReciprocal(6, 2, weight=0), same_image=places)
    assert np.abs(np.where(whole >= 0.02, whole, 0) - matrix).max() < 1e-5
    assert np.allclose(matrix, matrix.T, atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cosine", [None, 0.5])
def test_clusters_are_those_of_average_linkage(seed, cosine):
    rng = np.random.default_rng(seed)
    vectors, _ = groups(rng, rng.integers(1, 8, 7), noise=0.3)
    for neighbours in (3, 8):
        found = cluster(vectors, neighbours=neighbours, least=0.2, cosine=cosine)
        assert as_sets(found) == plain_linkage(vectors, neighbours, 0.2, cosine)


def test_clear_groups_are_found_and_numbered_by_their_first_member():
    vectors, truth = groups(np.random.default_rng(3), [8, 9, 1, 7, 1], noise=0.05)
    found = cluster(vectors, neighbours=6, cosine=0.5)
    assert as_sets(found) == as_sets(truth)
    firsts = [int(np.argmax(found == one)) for one in range(found.max() + 1)]
    assert firsts == sorted(firsts)
    assert np.array_equal(found, cluster(vectors, neighbours=6, cosine=0.5))
    assert cluster(vectors[:0]).shape == (0,)
    assert cluster(vectors[:1]).tolist() == [0]
    assert cluster(np.repeat(vectors[:1], 30, axis=0)).max() == 0  # thirty copies


CALIBRATION = Calibration((1.0, 0.01), (-1.0, 0.5), 10.0, -4.0, 100, 1000)


@pytest.fixture
def people(gallery):
    """Four people of 8, 7, 6 and 5 images and two single ones; some have labels."""
    vectors, truth = groups(np.random.default_rng(1), [8, 7, 6, 5, 1, 1], noise=0.05)
    payloads = [
        {"source": "s", "key": f"{t}-{i}.jpg", "path": f"/photos/{t}-{i}.jpg", "camera": str(i % 2)}
        for i, t in enumerate(truth.tolist())
    ]
    of = {t: [p for p in payloads if p["key"].startswith(f"{t}-")] for t in range(6)}
    of[1][0]["identity"] = of[1][1]["identity"] = "ann"
    of[2][0]["identity"], of[2][1]["identity"] = "bob", "eve"
    of[3][0]["identity"] = "new-0007"
    of[0][0] |= {"identity": "0000", "key": "0000_c1_1.jpg"}  # a distractor is nobody
    gallery.upsert([point_id("s", p["key"]) for p in payloads], vectors, payloads)
    return gallery


def test_labelled_images_lend_their_identity_or_conflict(people):
    found = propose(people, labelled=True, calibration=CALIBRATION, neighbours=6)
    assert found.cosine == 0.5
    shown = list(dict.fromkeys((one.status, one.proposed, one.size) for one in found.images))
    assert shown == [
        ("conflict", "", 6),
        ("known", "ann", 7),
        ("known", "new-0007", 5),
        ("new", "new-0008", 8),
        ("single", "", 1),
    ]
    for one in found.images:
        assert {other.key[0] for other in found.images if other.cluster == one.cluster} == {one.key[0]}
        assert (one.confidence is None) == (one.status == "single")
        assert one.confidence is None or 0.99 < one.confidence <= 1
    sure = [one.confidence for one in found.images if one.cluster == 1]
    assert sure == sorted(sure, reverse=True)
    assert (found.count("conflict"), found.count("known"), found.count("single")) == (1, 2, 2)


def test_by_default_only_images_without_identity(people):
    found = propose(people, calibration=CALIBRATION, neighbours=5)
    assert {one.existing for one in found.images} == {None, "0000"}
    assert len(found.images) == 28 - 5
    assert {one.proposed for one in found.images} == {"", "new-0008", "new-0009", "new-0010", "new-0011"}
    part = propose(people, [Condition("camera", "=", ("1",))], neighbours=5)
    assert {one.camera for one in part.images} == {"1"}
    assert part.cosine is None


def test_a_review_is_applied_as_it_stands_and_a_second_run_agrees(people, tmp_path):
    found = propose(people, labelled=True, calibration=CALIBRATION, neighbours=6)
    out = tmp_path / "review.csv"
    write_review(found, out)
    with out.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["key"] for row in rows] == [one.key for one in found.images]
    plan = plan_labels(people, out)
    check_plan(plan)
    write_changes(people, plan.changes)
    stored = {p.payload["key"]: p.payload.get("identity") for p in people.scroll()}
    before = {one.key: one.existing for one in found.images}
    assert stored == {one.key: one.proposed or before[one.key] for one in found.images}
    again = propose(people, labelled=True, calibration=CALIBRATION, neighbours=6)
    assert (again.count("new"), again.count("known"), again.count("conflict")) == (0, 3, 1)
    assert plan_labels(people, out).changes == []


def test_the_sheet_draws_clusters(people, tmp_path):
    found = propose(people, labelled=True, neighbours=6, cosine=0.5)
    picture = Image.open(draw_clusters(found, tmp_path / "sheet.png"))
    assert picture.height > 4 * 160
    with pytest.raises(UsageError, match="no clusters"):
        draw_clusters(propose(people, [Condition("key", "=", ("4-0.jpg",))]), tmp_path / "none.png")


def test_the_sheet_counts_what_it_leaves_out_and_scores_no_given_identity(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(Canvas, "text", lambda _self, _at, text, *_more: said.append(text))
    path = write_image(tmp_path / "wide.png", size=(40, 20))
    images = tuple(
        Proposal(str(n), str(path), f"{n}.jpg", "s", "1", "ann" if n == 2 else None, 0, 51, "new-1", "new", 1.0)
        for n in range(51)
    )
    picture = Image.open(draw_clusters(Proposals(images, 20, 0.5, 0.25), tmp_path / "sheet.png"))
    assert "+39" in said
    assert said.count("1.00") == 11
    assert said.count("is ann") == 1
    left = 28 + 96 // 2  # the middle of the first tile: as wide as the images, so nothing is empty
    column = [picture.convert("RGB").getpixel((left, y)) for y in range(28 + 60 + 26, 28 + 60 + 26 + 53)]
    assert (255, 255, 255) not in column[5:-5]


def test_too_many_images_are_refused_kindly(people, monkeypatch):
    monkeypatch.setattr(identities, "MOST_IMAGES", 20)
    with pytest.raises(UsageError, match=r"28 images are more than the 20.*--where"):
        propose(people, labelled=True)
    with pytest.raises(UsageError, match=r"--where"):
        propose(people)
    assert len(propose(people, [Condition("camera", "=", ("1",))]).images) < 20


def test_frames_of_the_sheet_say_the_truth_where_it_is_known(tmp_path):
    path = write_image(tmp_path / "a.png", size=(64, 32))

    def row(cluster, status, proposed, *given):
        return [
            Proposal(f"{cluster}{n}", str(path), "k", "s", "1", name, cluster, len(given), proposed, status, 0.9)
            for n, name in enumerate(given)
        ]

    images = (
        *row(0, "conflict", "", "bob", "bob", "ann"),
        *row(1, "known", "ann", "0000", "ann", None),
        *row(2, "new", "new-1", None, None, "-1"),
    )
    with Image.open(draw_clusters(Proposals(images, 20, 0.5, 0.25), tmp_path / "sheet.png")) as drawn:
        picture = drawn.convert("RGB")
    good, bad, unknown = (COLOURS[kind] for kind in ("good", "bad", "unknown"))
    tile = 96 * 2 - 10
    found = [
        [
            picture.getpixel((28 + column * 106 + 2, 28 + 60 + 26 + number * (tile + 70) + tile // 2))
            for column in range(3)
        ]
        for number in range(3)
    ]
    assert found == [[good, good, bad], [bad, good, unknown], [unknown] * 3]

"""Re-ranking against the paper's formulas, written out over sets and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from siamese_search.errors import UsageError
from siamese_search.vectors import k_reciprocal as module
from siamese_search.vectors.clustering import cluster
from siamese_search.vectors.k_reciprocal import KReciprocal, rerank

PAPER = KReciprocal()


def by_the_book(queries, gallery, how=PAPER, same_image=None):
    """1 - d* of Zhong et al., image by image, in Python floats."""
    own = [-1] * len(queries) if same_image is None else list(same_image)
    images = [list(map(float, row)) for row in gallery]
    where = []
    for query, place in zip(queries, own):
        if place < 0:
            images.append(list(map(float, query)))
        where.append(len(images) - 1 if place < 0 else place)
    everyone = range(len(images))
    squared = [[2 - 2 * sum(a * b for a, b in zip(images[p], images[g])) for g in everyone] for p in everyone]
    d = []
    for p in everyone:
        largest = max(squared[p])
        largest = largest if largest > 1e-6 else 1.0
        d.append([max(0.0, squared[p][g]) / largest for g in everyone])

    def nearest(p, k):  # itself, then k others
        others = sorted((g for g in everyone if g != p), key=lambda g: (squared[p][g], g))
        return [p, *others[:k]]

    def reciprocal(p, k):
        return {g for g in nearest(p, k) if p in nearest(g, k)}

    def encoding(p):
        core = reciprocal(p, how.k1)
        robust = set(core)
        for c in core:
            theirs = reciprocal(c, math.ceil(how.k1 / 2))
            if len(core & theirs) * 3 >= 2 * len(theirs):
                robust |= theirs
        total = sum(math.exp(-d[p][g]) for g in robust)
        return [math.exp(-d[p][g]) / total if g in robust else 0.0 for g in everyone]

    plain = [encoding(p) for p in everyone]
    v = []
    for p in everyone:
        group = nearest(p, how.k2 - 1)
        v.append([sum(plain[g][c] for g in group) / len(group) for c in everyone])

    def jaccard(p, g):
        return 1 - sum(map(min, zip(v[p], v[g]))) / sum(map(max, zip(v[p], v[g])))

    return [[1 - ((1 - how.weight) * jaccard(p, g) + how.weight * d[p][g]) for g in range(len(gallery))] for p in where]


def scaled(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def unit(rng, count, dim=8):
    return scaled(rng.normal(size=(count, dim)))


def clustered(rng, count, dim=8, clusters=4, spread=0.4):
    vectors = rng.normal(size=(clusters, dim))[rng.integers(clusters, size=count)]
    vectors = vectors + spread * rng.normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("how", [KReciprocal(), KReciprocal(4, 2), KReciprocal(5, 3, 0.0), KReciprocal(3, 1, 0.7)])
def test_random_vectors_by_the_formulas(how, seed):
    rng = np.random.default_rng(seed)
    vectors = clustered(rng, 36) if seed % 2 else unit(rng, 36)
    queries, gallery = vectors[:7], vectors[7:]
    got = rerank(queries, gallery, how)
    assert got.shape == (7, 29)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, by_the_book(queries, gallery, how), atol=2e-6)
    assert -1e-6 <= got.min() <= got.max() <= 1 + 1e-6


@pytest.mark.parametrize("seed", range(6))
def test_many_ties_and_duplicates_are_ordered_by_place(seed):
    # Sixteen signs of a quarter: unit rows whose products are exact, so that equal distances are equal.
    rng = np.random.default_rng(seed)
    kinds = rng.choice([-0.25, 0.25], size=(6, 16)).astype(np.float32)
    vectors = kinds[rng.integers(6, size=30)]
    vectors[:, 0] = rng.choice([-0.25, 0.25], size=30)
    queries, gallery = vectors[:6], vectors[6:]
    for how in (KReciprocal(), KReciprocal(3, 3), KReciprocal(6, 2, 0.5)):
        np.testing.assert_allclose(rerank(queries, gallery, how), by_the_book(queries, gallery, how), atol=2e-6)


@pytest.mark.parametrize("seed", range(3))
def test_queries_that_are_part_of_the_gallery_are_one_image(seed):
    vectors = clustered(np.random.default_rng(seed), 25)
    stranger = unit(np.random.default_rng(99), 1)
    queries = np.concatenate((vectors[[3, 20, 0]], stranger))
    same = np.array([3, 20, 0, -1])
    got = rerank(queries, vectors, KReciprocal(5, 3), same_image=same)
    np.testing.assert_allclose(got, by_the_book(queries, vectors, KReciprocal(5, 3), same), atol=2e-6)
    assert (got[:3].argmax(axis=1) == same[:3]).all()
    # Taken for two images, each query would be its own reciprocal neighbour.
    assert not np.allclose(got, rerank(queries, vectors, KReciprocal(5, 3)), atol=1e-3)


@pytest.mark.parametrize(("queries", "gallery"), [(1, 1), (1, 5), (5, 1), (2, 2)])
def test_fewer_images_than_neighbours(queries, gallery):
    vectors = unit(np.random.default_rng(4), queries + gallery)
    got = rerank(vectors[:queries], vectors[queries:])
    np.testing.assert_allclose(got, by_the_book(vectors[:queries], vectors[queries:]), atol=2e-6)


def test_copies_of_one_image_are_all_at_the_top():
    one = np.tile(unit(np.random.default_rng(0), 1), (5, 1))
    np.testing.assert_allclose(rerank(one[:2], one[2:]), np.ones((2, 3)), atol=1e-5)
    alone = one[:1]
    np.testing.assert_allclose(rerank(alone, alone, same_image=np.array([0])), [[1.0]], atol=1e-6)


def test_nothing_to_rank():
    vectors = unit(np.random.default_rng(0), 3)
    assert rerank(vectors[:0], vectors).shape == (0, 3)
    assert rerank(vectors, vectors[:0]).shape == (3, 0)


def test_blocks_change_nothing(monkeypatch):
    vectors = clustered(np.random.default_rng(1), 60)
    whole = rerank(vectors[:20], vectors[20:], KReciprocal(6, 3))
    monkeypatch.setattr(module, "_SCORES_AT_ONCE", 200)
    blocks = list(module.reranked_blocks(vectors[:20], vectors[20:], KReciprocal(6, 3)))
    assert [len(block) for block in blocks] == [5, 5, 5, 5]
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=2e-6)


def test_a_chain_of_mutual_neighbours_beats_a_lone_near_image():
    """What it is for: an image of another crowd is nearer, but none of that crowd knows the query."""
    angles = np.deg2rad([0, 9, 12, 15, -8, -7, -9, -10, -11, -6, -6.5])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    plain = vectors[:1] @ vectors[1:].T
    assert plain.argmax() == 8  # -6 degrees: of the crowd
    assert rerank(vectors[:1], vectors[1:], KReciprocal(3, 1, 0.0)).argmax() == 0  # 9 degrees


@pytest.mark.parametrize("wrong", [{"k1": 0}, {"k2": 0}, {"weight": -0.1}, {"weight": 1.1}, {"weight": math.nan}])
def test_parameters_that_cannot_work(wrong):
    with pytest.raises(UsageError):
        KReciprocal(**wrong)


def test_inputs_that_do_not_fit():
    vectors = unit(np.random.default_rng(0), 4)
    with pytest.raises(ValueError, match="unit length"):
        rerank(vectors, 2 * vectors)
    with pytest.raises(ValueError, match="unit length"):
        rerank(vectors * np.float32(np.nan), vectors)
    with pytest.raises(ValueError, match="dimensions"):
        rerank(unit(np.random.default_rng(0), 4, dim=3), vectors)
    with pytest.raises(ValueError, match="float32"):
        rerank(vectors.astype(np.float64), vectors)
    for places in ([0], [0, 1, 2, 4], [-2, 0, 1, 2]):
        with pytest.raises(ValueError, match="same_image"):
            rerank(vectors, vectors, same_image=np.array(places))


@pytest.mark.parametrize("seed", range(4))
def test_half_of_what_a_pair_of_cameras_has_in_common_counts_for_no_neighbour(seed, monkeypatch):
    monkeypatch.setattr(module, "_LEAST_BY_CAMERA", 1)
    rng = np.random.default_rng(seed)
    cameras = np.array([0] * 9 + [1] * 6 + [2] * 2 + [3])  # few images, and one alone, too
    images = scaled(rng.normal(size=(18, 5)) + 2 * rng.normal(size=(4, 5))[cameras])
    cosines = images.astype(np.float64) @ images.T

    def nearest_three(one: int, other: int) -> float:
        rows = [sorted(cosines[i, j] for j in range(18) if cameras[j] == other and j != i)[-3:]
                for i in range(18) if cameras[i] == one]  # fmt: skip
        return float(np.mean(rows)) if rows[0] else 0.0

    wanted = np.array([[(nearest_three(a, b) + nearest_three(b, a)) / 4 for b in range(4)] for a in range(4)])
    fair = cosines - wanted[cameras][:, cameras]
    np.fill_diagonal(fair, np.inf)
    nearest, farthest = module._nearest(images, 7, cameras)
    assert nearest.tolist() == np.argsort(-fair, axis=1)[:, :7].tolist()
    np.testing.assert_allclose(farthest, 2 - 2 * cosines.min(axis=1), rtol=1e-5)
    plain = module.jaccard_rows(images, KReciprocal(4, 2))
    for one, other in zip(plain, module.jaccard_rows(images, KReciprocal(4, 2), cameras=0 * cameras)):
        assert one[0].tolist() == other[0].tolist()


def test_cameras_of_few_images_are_not_measured():
    """They are tracks rather, and thousands of them would take minutes."""
    rng = np.random.default_rng(3)
    images, cameras = scaled(rng.normal(size=(40, 6))), np.arange(40) // 4
    plain = module._nearest(images, 7)
    assert all(np.array_equal(a, b) for a, b in zip(plain, module._nearest(images, 7, cameras)))
    assert not np.array_equal(plain[0], module._nearest(images, 7, cameras // 5)[0])


def test_one_seen_by_two_cameras_is_one_cluster_all_the_same():
    rng = np.random.default_rng(0)
    people, places = scaled(rng.normal(size=(6, 32))), scaled(rng.normal(size=(2, 32)))
    who, cameras = np.repeat(np.arange(6), 8), np.tile(np.repeat([0, 1], 4), 6)
    images = scaled(people[who] + 0.8 * places[cameras] + 0.06 * rng.normal(size=(48, 32)))
    apart, together = (cluster(images, neighbours=7, cameras=one) for one in (None, cameras))
    assert apart.max() + 1 > 6
    assert together.tolist() == who.tolist()

import importlib.util
import sys

import numpy as np
import pytest

from siamese_search.errors import MissingExtraError, UsageError
from siamese_search.vectors.projection import FEWEST, best_method, project


def groups(each=12, count=3, dim=16, seed=0):
    """Unit vectors in groups, far from each other and close within."""
    rng = np.random.default_rng(seed)
    middles = np.eye(dim)[:count]
    rows = np.repeat(middles, each, axis=0) + rng.normal(0, 0.05, (each * count, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), np.repeat(np.arange(count), each)


@pytest.mark.parametrize(
    "method",
    ["pca", "tsne", pytest.param("umap", marks=pytest.mark.slow)],  # it is compiled at its first use
)
def test_groups_stay_together_and_maps_repeat(method):
    if method == "umap":
        pytest.importorskip("umap")
    if method == "tsne":
        pytest.importorskip("sklearn")
    vectors, labels = groups()
    places = project(vectors, method, 3)
    assert places.shape == (len(vectors), 2)
    assert np.isfinite(places).all()
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(axis=1)] == labels).all()
    if method != "umap":  # a second run costs seconds
        np.testing.assert_array_equal(places, project(vectors, method, 3))


@pytest.mark.parametrize("count", [1, 2])
def test_pca_of_hardly_anything(count):
    assert project(groups()[0][:count], "pca").shape == (count, 2)
    assert project(np.ones((count, 1), np.float32), "pca").shape == (count, 2)


@pytest.mark.parametrize("copies", [1, 8])
def test_images_that_are_the_same(copies):
    """scikit-learn ends the process where all are."""
    pytest.importorskip("sklearn")
    vectors = np.repeat(groups(each=1, count=8 // copies)[0], copies, axis=0)
    assert np.isfinite(project(vectors, "tsne")).all()


def test_what_cannot_be():
    vectors, _ = groups()
    with pytest.raises(UsageError, match="at least 5 images, not 4"):
        project(vectors[: FEWEST - 1], "tsne")
    with pytest.raises(UsageError, match="pca, tsne, umap"):
        project(vectors, "som")


@pytest.mark.parametrize(("method", "module", "extra"), [("umap", "umap", "umap"), ("tsne", "sklearn", "analysis")])
def test_what_is_not_installed_is_named(monkeypatch, method, module, extra):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"\[{extra}\]"):
        project(groups()[0], method)


def test_the_method_where_none_is_named(monkeypatch):
    if importlib.util.find_spec("sklearn") is not None:
        assert best_method(100) == "tsne"
    assert best_method(4) == "pca"
    monkeypatch.setattr("siamese_search.vectors.projection.find_spec", lambda _: None)
    assert best_method(100) == "pca"

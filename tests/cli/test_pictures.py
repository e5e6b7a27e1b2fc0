"""``sss plot``: a gallery as a map, and its coordinates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image

from siamese_search.api.retrieval import map_gallery
from siamese_search.errors import DataError, UsageError
from siamese_search.gallery import open_gallery

Run = Callable[..., CompletedProcess[str]]


def test_without_options_a_page_is_written_beside_you(sss: Run, demo_store: Path, tmp_path: Path) -> None:
    done = sss("plot", "--store", demo_store, "--method", "pca", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "laying out 26 images by PCA\n"
    assert done.stdout.splitlines()[-1].split() == ["map", "map-default.html"]
    assert (tmp_path / "map-default.html").read_text().count('<img src="data:image/jpeg') == 26


def test_coordinates_and_a_picture(sss: Run, demo_store: Path, tmp_path: Path) -> None:
    options = ("--store", demo_store, "--method", "pca", "--json")
    made = json.loads(sss("plot", *options, "--color", "camera", "--save", "m.png", cwd=tmp_path).stdout)
    assert (made["saved"], made["total"], len(made["points"])) == ("m.png", 26, 26)
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.width > picture.height > 900
    assert {point["value"] for point in made["points"]} == {point["camera"] for point in made["points"]}
    # The places are those of the stored vectors: variances along both axes are the two largest there are.
    with open_gallery(demo_store) as gallery:
        vectors = np.stack([p.vector for p in gallery.scroll(with_vectors=True) if p.vector is not None])
    largest = np.linalg.eigvalsh(np.cov(vectors.astype(np.float64).T))[::-1][:2]
    places = np.array([[point["x"], point["y"]] for point in made["points"]])
    np.testing.assert_allclose(places.var(axis=0, ddof=1), largest, rtol=1e-3)
    sampled = json.loads(sss("plot", *options, "--limit", "7", "--where", "camera=1", cwd=tmp_path).stdout)
    assert sampled["saved"] is None
    assert (len(sampled["points"]), {point["camera"] for point in sampled["points"]}) == (7, {"1"})
    assert sampled["total"] > 7
    assert [path.name for path in tmp_path.iterdir()] == ["m.png"]


def test_what_cannot_be_plotted(refused: Callable[..., str], demo_store: Path) -> None:
    assert ".html or .png" in refused("plot", "--store", demo_store, "--save", "x.svg", code=2)
    with pytest.raises(UsageError, match="known fields: camera"):
        map_gallery(store=demo_store, color="colour")
    with pytest.raises(DataError, match="nothing to plot: no image has "):
        map_gallery(store=demo_store, where="camera=99")
    with pytest.raises(UsageError, match="at least 5 images, not 1"):
        map_gallery(store=demo_store, limit=1, method="tsne")
    assert map_gallery(store=demo_store, limit=1).method == "pca"

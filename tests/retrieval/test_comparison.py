from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_search.datasets.records import Failure
from siamese_search.errors import DataError, ImageError, UsageError
from siamese_search.io.images import read_image
from siamese_search.model.bundle import Bundle
from siamese_search.model.calibration import Calibration
from siamese_search.model.embedder import Embedder, load_embedder
from siamese_search.render.matrix import shade
from siamese_search.render.sheets import draw_comparison
from siamese_search.retrieval.comparison import compare
from siamese_search.retrieval.judging import Judge

KNOWN = Calibration((0.5, 0.01), (-0.5, 0.9999), slope=10.0, offset=-5.0, genuine=50, impostor=100)
#: Two images are as likely the same as not at a score of 0.99995, which noise does not reach.
PRIOR = 1 / (1 + math.exp(4.9995))


def judged(_vectors: object) -> Judge:
    return Judge(KNOWN, prior=PRIOR)


@pytest.fixture(scope="module")
def embedder(tiny_bundle: Bundle) -> Embedder:
    return load_embedder(tiny_bundle, threads=1)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{name}.png" for name in "abcd"]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (60, 30, 3), np.uint8)).save(path)
    return paths


def test_scores_are_those_of_each_pair_alone(embedder: Embedder, images: list[Path]) -> None:
    found = compare(images[:2], images, embedder)
    assert found.scores.shape == (2, 4)
    for i, a in enumerate(found.left):
        for j, b in enumerate(found.right):
            one, other = (embedder.embed(read_image(p, embedder.input_size)[None])[0] for p in (a, b))
            assert found.scores[i, j] == pytest.approx(float(one @ other), abs=1e-5)
    assert found.scores[0, 0] == pytest.approx(1.0, abs=1e-6)
    assert (found.threshold, found.same, found.any_same, found.probabilities) == (None, None, None, None)


def test_a_calibrated_model_decides(embedder: Embedder, images: list[Path]) -> None:
    usual = compare(images[:1], images, embedder, judged)
    assert usual.threshold == pytest.approx(0.99995)  # where the probability is one half, as in a search
    found = compare(images[:1], images, embedder, judged, false_match_rate=0.01)
    assert (found.threshold, found.false_match_rate) == (0.9999, 0.01)
    assert found.same is not None
    assert found.same.tolist() == [[True, False, False, False]]
    assert found.any_same is True
    assert found.probabilities is not None
    assert found.probabilities[0, 0] == pytest.approx(KNOWN.probability(1.0, PRIOR), abs=1e-4)
    assert compare(images[:1], images[1:], embedder, judged).any_same is False
    given = compare(images[:1], images[1:], embedder, judged, threshold=-1.0)
    assert (given.any_same, given.false_match_rate) == (True, None)
    with pytest.raises(UsageError, match="below what"):
        compare(images, images, embedder, judged, false_match_rate=1e-3)


def test_images_that_cannot_be_read_are_named(embedder: Embedder, images: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    found = compare([images[0], broken], images[1:], embedder)
    assert found.left == images[:1]
    assert found.failed == [Failure(str(broken), "empty file")]
    with pytest.raises(ImageError, match="empty file"):
        compare([broken], images, embedder)
    with pytest.raises(DataError, match="none of the 2 images"):
        compare(images, [broken, tmp_path / "gone.png"], embedder)


def test_too_many_pairs_are_refused_unread(embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ingest one side"):
        compare([tmp_path / "a"] * 3_000, [tmp_path / "b"] * 3_000, embedder)


def test_json_names_every_pair(embedder: Embedder, images: list[Path]) -> None:
    answer = compare(images[:2], images[2:], embedder, judged).to_json()
    assert [(Path(p["a"]).name, Path(p["b"]).name) for p in answer["pairs"]] == [
        ("a.png", "c.png"), ("a.png", "d.png"), ("b.png", "c.png"), ("b.png", "d.png")
    ]  # fmt: skip
    assert answer["same"] is False


def test_where_not_all_can_be_shown_it_is_the_nearest(embedder: Embedder, images: list[Path]) -> None:
    many = images[1:] * 5 + images[:1] + images[1:] * 5
    shown = compare(images[:1], many, embedder, judged).nearest(6, 12)
    assert (len(shown.left), len(shown.right), shown.right[0]) == (1, 12, images[0])
    assert shown.scores[0].tolist() == sorted(shown.scores[0], reverse=True)
    assert shown.any_same is True
    assert compare(images[:2], images, embedder).nearest(6, 12).right == images  # all of them: in their own order


def test_pictures(embedder: Embedder, images: list[Path], tmp_path: Path) -> None:
    """A pair has its verdict between the images, and grey frames where nobody knows; a table has a cell per pair."""
    same = draw_comparison(compare(images[:1], images[:1], embedder, judged), tmp_path / "same.png")
    different = draw_comparison(compare(images[:1], images[1:2], embedder, judged), tmp_path / "different.png")
    open_ = draw_comparison(compare(images[:1], images[1:2], embedder), tmp_path / "open.png")
    green, red = (0, 146, 94), (205, 62, 38)
    for path, shown in ((same, {green}), (different, {red}), (open_, set())):
        with Image.open(path) as picture:
            assert picture.getpixel((130, 30)) == (160, 165, 172)
            words = picture.crop((28 + 208, 28, 28 + 208 + 190, picture.height - 60))
            assert {colour for _, colour in words.getcolors(1 << 20) or []} & {green, red} == shown
    every = compare(images, images, embedder, judged)
    table = draw_comparison(every, tmp_path / "table.png")
    with Image.open(table) as picture:
        colours = [colour for _, colour in picture.getcolors(1 << 20) or []]
        assert {shade(every, i, j)[0] for i in range(4) for j in range(4)} <= set(colours)
        assert picture.width > 128 + 4 * 96

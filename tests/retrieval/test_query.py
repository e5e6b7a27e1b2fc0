"""Better queries: several images of one target, items of the gallery, images to stay away from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes import ColourEmbedder, MemoryGallery, write_image
from searching import Searcher

from ingest.pipeline import run_ingest
from siamese_search.errors import ImageError, UsageError
from siamese_search.io.images import read_image
from siamese_search.model.calibration import figures_of
from siamese_search.retrieval.query import AWAY, Probe, SameImage, embed_each, fuse, push_away


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """30 images of 6 people in folders; root, gallery, and the vector of every key."""
    root = tmp_path_factory.mktemp("people")
    for identity in range(6):
        for shot in range(5):
            write_image(root / f"p{identity}" / f"{shot}.png", seed=f"{identity}-{shot}")
    gallery = MemoryGallery()
    run_ingest([root], gallery, ColourEmbedder())
    vectors = {payload["key"]: vector for vector, payload in gallery.points.values()}
    return root, gallery, vectors


def vector_of(path: Path) -> np.ndarray:
    embedder = ColourEmbedder()
    return embedder.embed(read_image(path, embedder.input_size)[None])[0]


def ranking(vectors, score):
    """Keys by a score of their vector, highest first, with the scores."""
    scored = sorted(((score(vector), key) for key, vector in vectors.items()), key=lambda one: -one[0])
    return [key for _, key in scored], [value for value, _ in scored]


def test_together_ranks_by_the_mean_similarity(people) -> None:
    root, gallery, vectors = people
    queries = [root / "p0" / "0.png", root / "p0" / "1.png", root / "p4" / "2.png"]
    asked = [vector_of(path) for path in queries]
    (answer,) = Searcher(gallery, ColourEmbedder()).search(queries, 30, together=True)
    keys, scores = ranking(vectors, lambda v: float(np.mean([v @ q for q in asked])))
    assert [hit.score for hit in answer.results] == pytest.approx(scores, abs=1e-5)
    assert {hit.key for hit in answer.results[:5]} == set(keys[:5])
    assert answer.query == f"{queries[0]} and 2 more"
    assert answer.pairwise


def test_one_image_together_is_that_image(people) -> None:
    root, gallery, _ = people
    searcher = Searcher(gallery, ColourEmbedder())
    assert searcher.search([root / "p0" / "0.png"], 5, together=True) == searcher.search([root / "p0" / "0.png"], 5)


def test_all_images_of_the_target_can_be_left_out(people, tmp_path: Path) -> None:
    root, gallery, _ = people
    shutil.copy(root / "p1" / "0.png", tmp_path / "copy.png")
    queries = [tmp_path / "copy.png", root / "p1" / "1.png"]
    (answer,) = Searcher(gallery, ColourEmbedder()).search(queries, 30, together=True, exclude_self=True)
    assert len(answer.results) == 28
    assert not {"p1/0.png", "p1/1.png"} & {hit.key for hit in answer.results}
    assert answer.identity == "p1"


def test_unreadable_images_of_a_target_cost_the_others_nothing(people, tmp_path: Path) -> None:
    root, gallery, _ = people
    (tmp_path / "broken.png").write_bytes(b"")
    queries = [root / "p1" / "0.png", tmp_path / "broken.png", root / "p1" / "1.png"]
    answer, bad = Searcher(gallery, ColourEmbedder()).search(queries, 3, together=True)
    assert len(answer.results) == 3
    assert (bad.query, bad.error) == (str(tmp_path / "broken.png"), "empty file")


def test_not_takes_half_the_similarity_to_others_off(people) -> None:
    root, gallery, vectors = people
    query, away = root / "p0" / "0.png", [root / "p3" / "0.png", root / "p3" / "1.png"]
    q, others = vector_of(query), [vector_of(path) for path in away]
    (answer,) = Searcher(gallery, ColourEmbedder()).search([query], 30, unlike=away)
    _, scores = ranking(vectors, lambda v: float(v @ q - AWAY * np.mean([v @ o for o in others])))
    assert [hit.score for hit in answer.results] == pytest.approx(scores, abs=1e-5)
    assert not answer.pairwise
    floor = scores[10]
    (cut,) = Searcher(gallery, ColourEmbedder()).search([query], 30, unlike=away, min_score=floor - 1e-6)
    assert len(cut.results) == 11  # the lowest score is that of the answer, not of the vector inside


def test_an_item_of_the_gallery_finds_others_like_it(people) -> None:
    root, gallery, _ = people
    searcher = Searcher(gallery, ColourEmbedder())
    (by_key,) = searcher.search([], 29, like=["p2/3.png"])
    assert by_key.from_gallery  # nobody may say that it is not there
    (by_file,) = searcher.search([root / "p2" / "3.png"], 29, exclude_self=True)
    assert [hit.key for hit in by_key.results] == [hit.key for hit in by_file.results]
    assert (by_key.query, by_key.identity) == ("p2/3.png", "p2")
    (grouped,) = searcher.search([], 6, like=["p2/3.png"], group_by="identity")
    assert next(hit.sightings for hit in grouped.results if hit.identity == "p2") == 4


def test_flip_is_the_mean_with_the_mirror_image(people) -> None:
    root, gallery, vectors = people
    query = root / "p5" / "0.png"
    embedder = ColourEmbedder()
    pixels = read_image(query, embedder.input_size)
    both = embedder.embed(np.stack([pixels, pixels[:, ::-1]])).mean(axis=0)
    both /= np.linalg.norm(both)
    (answer,) = Searcher(gallery, embedder).search([query], 30, flip=True)
    assert [hit.score for hit in answer.results] == pytest.approx(
        ranking(vectors, lambda v: float(v @ both))[1], abs=1e-5
    )


def test_what_cannot_be_asked_is_said(people, tmp_path: Path) -> None:
    root, gallery, _ = people
    searcher = Searcher(gallery, ColourEmbedder())
    with pytest.raises(UsageError, match="there is none"):
        searcher.search([], 5, like=["p9/0.png"])
    with pytest.raises(ImageError, match="no such file"):
        searcher.search([root / "p0" / "0.png", root / "p0" / "1.png"], 5, unlike=[tmp_path / "gone.png"])


def test_keys_of_several_sources_are_not_guessed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / name / "p" / "0.png", seed=name)
    gallery = MemoryGallery()
    run_ingest([tmp_path / "a", tmp_path / "b"], gallery, ColourEmbedder())
    with pytest.raises(UsageError, match="there are 2, of"):
        Searcher(gallery, ColourEmbedder()).search([], 5, like=["p/0.png"])


def test_opposite_vectors_leave_nothing() -> None:
    one = Probe("a", None, np.array([1.0, 0.0], np.float32), SameImage(None))
    other = Probe("b", None, np.array([-1.0, 0.0], np.float32), SameImage(None))
    with pytest.raises(UsageError, match="cancel each other out"):
        fuse([one, other])
    with pytest.raises(UsageError, match="unlike"):
        push_away(one, np.array([[2.0, 0.0]], np.float32))


def test_copies_of_the_query_are_known_whatever_is_done_to_the_scores(people, tmp_path: Path) -> None:
    """A copy elsewhere scores far below 1 when pushed away from something, or fused with an item of the gallery."""
    root, gallery, _ = people
    shutil.copy(root / "p1" / "0.png", tmp_path / "copy.png")
    searcher = Searcher(gallery, ColourEmbedder())
    away = [root / "p3" / "0.png"]
    (pushed,) = searcher.search([tmp_path / "copy.png"], 30, unlike=away, exclude_self=True)
    assert "p1/0.png" not in {hit.key for hit in pushed.results}
    assert (len(pushed.results), pushed.identity) == (29, "p1")
    (kept,) = searcher.search([tmp_path / "copy.png"], 30, unlike=away)
    assert [hit.key for hit in kept.results if hit.itself] == ["p1/0.png"]
    (fused,) = searcher.search([tmp_path / "copy.png"], 30, like=["p4/0.png"], together=True, exclude_self=True)
    assert not {"p1/0.png", "p4/0.png"} & {hit.key for hit in fused.results}


def test_a_query_is_who_its_own_file_says_not_who_a_copy_says(tmp_path):
    for name in ("alice", "bob"):
        write_image(tmp_path / "g" / name / "0.png", seed=name)
    for who in ("alice", "carol"):
        (tmp_path / "g" / who).mkdir(exist_ok=True)
        (tmp_path / "g" / who / "copy.png").write_bytes((tmp_path / "g" / "bob" / "0.png").read_bytes())
    gallery = MemoryGallery()
    run_ingest([tmp_path / "g"], gallery, ColourEmbedder())
    searcher = Searcher(gallery, ColourEmbedder())
    for name, folder in (("bob", "0.png"), ("alice", "copy.png"), ("carol", "copy.png")):
        (answer,) = searcher.search([tmp_path / "g" / name / folder])
        assert answer.identity == name
        assert sum(hit.itself for hit in answer.results) == 3
    outside = tmp_path / "q.png"
    outside.write_bytes((tmp_path / "g" / "bob" / "0.png").read_bytes())
    assert searcher.search([outside])[0].identity is None  # its copies do not agree


class Device(ColourEmbedder):
    """Computes by itself; ``events`` tells when it was started and when it was waited for."""

    def __init__(self):
        super().__init__()
        self.events = []

    def begin(self, images):
        vectors = self.embed(images)
        self.events.append("begun")

        def finish():
            self.events.append("finished")
            return vectors

        return finish


def test_a_device_works_on_the_next_queries_before_it_is_waited_for_and_each_keeps_its_own_looks(tmp_path):
    images = [write_image(tmp_path / f"{number}.png", seed=str(number)) for number in range(130)]
    (tmp_path / "70.png").write_bytes(b"no image")
    device = Device()
    found = embed_each(images, device)
    assert device.events == ["begun", "begun", "finished", "begun", "finished", "finished"]
    assert isinstance(found[70], ImageError)
    for path, one in zip(images, found, strict=True):
        if path.name != "70.png":
            pixels = read_image(path, device.input_size)[None]
            np.testing.assert_array_equal(one[0], ColourEmbedder().embed(pixels)[0])
            np.testing.assert_allclose(one[1], figures_of(pixels)[0], rtol=1e-5)

"""Re-ranked searches against k-reciprocal re-ranking of the whole gallery, and what else they have to keep."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes import MODEL, ColourEmbedder, MemoryGallery, write_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from searching import Searcher

from ingest.pipeline import run_ingest
from siamese_search.errors import UsageError
from siamese_search.gallery import open_gallery
from siamese_search.gallery.filters import Condition
from siamese_search.gallery.storage import Storage
from siamese_search.io.images import read_image
from siamese_search.retrieval import ranking as reranking
from siamese_search.vectors.k_reciprocal import rerank

from ..gallery import memory


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """60 images of 10 people, two shots alike in pairs, before 2 cameras, and 3 copies of one: root and gallery."""
    root = tmp_path_factory.mktemp("crowd")
    rows = ["path,identity,camera"]
    for identity in range(10):
        for shot in range(6):
            path = write_image(root / f"p{identity}" / f"{shot}.png", seed=f"{identity}-{shot // 2}")
            if shot % 2:  # of the pair the second one differs a little
                pixels = np.asarray(read_image(path)).copy()
                pixels[: 4 + identity, :3] //= 2
                Image.fromarray(pixels).save(path)
            rows.append(f"p{identity}/{shot}.png,p{identity},{shot % 2 + 1}")
    for copy in range(3):
        shutil.copy(root / "p3" / "0.png", root / "p3" / f"copy{copy}.png")
        rows.append(f"p3/copy{copy}.png,p3,1")
    (root / "all.csv").write_text("\n".join(rows) + "\n")
    gallery = MemoryGallery()
    run_ingest([root / "all.csv"], gallery, ColourEmbedder())
    assert len(gallery.points) == 63
    return root, gallery


def vector_of(path: Path) -> np.ndarray:
    embedder = ColourEmbedder()
    return embedder.embed(read_image(path, embedder.input_size)[None])[0]


def oracle(gallery, query, where=(), leave_out=()):
    """Ids by evaluation's re-ranking of everything that meets the filters and is not left out."""
    vector = vector_of(query)
    hits = [hit for hit in gallery.query(vector, 1000, where) if hit.id not in leave_out]
    vectors = np.stack([gallery.points[hit.id][0] for hit in hits])
    own = next((n for n, hit in enumerate(hits) if Path(hit.payload["path"]) == query), -1)
    scores = rerank(vector[None], vectors, same_image=np.array([own]))[0]
    order = np.argsort(-scores, kind="stable")
    return [hits[n].id for n in order], [float(scores[n]) for n in order]


WHERE = st.sampled_from([(), (Condition("camera", "=", ("2",)),), (Condition("identity", "!=", ("p3",)),)])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 59), WHERE, st.sampled_from([63, 64, 200, 10_000]), st.integers(1, 70))
def test_where_the_candidates_cover_the_gallery_it_is_evaluations_order(crowd, number, where, candidates, k):
    root, gallery = crowd
    query = root / f"p{number % 10}" / f"{number // 10}.png"
    if query == root / "p3" / "0.png":  # four copies: which of them is the query is not said
        return
    (answer,) = Searcher(gallery, ColourEmbedder()).search([query], k, where, rerank=True, candidates=candidates)
    ids, scores = oracle(gallery, query, where)
    assert [hit.id for hit in answer.results] == ids[:k]
    assert [hit.reranked for hit in answer.results] == pytest.approx(scores[:k], abs=1e-5)
    assert [hit.score for hit in answer.results] == pytest.approx(
        [float(gallery.points[i][0] @ vector_of(query)) for i in ids[:k]], abs=1e-5
    )
    assert answer.candidates == candidates


def test_only_the_candidates_change_places(crowd):
    root, gallery = crowd
    searcher = Searcher(gallery, ColourEmbedder())
    query = root / "p5" / "2.png"
    (plain,) = searcher.search([query], 63)
    (answer,) = searcher.search([query], 63, rerank=True, candidates=20)
    assert [hit.id for hit in answer.results[20:]] == [hit.id for hit in plain.results[20:]]
    assert {hit.id for hit in answer.results[:20]} == {hit.id for hit in plain.results[:20]}
    assert [hit.id for hit in answer.results] != [hit.id for hit in plain.results]
    assert [hit.reranked is None for hit in answer.results] == [False] * 20 + [True] * 43
    assert [hit.rank for hit in answer.results] == list(range(1, 64))
    (short,) = searcher.search([query], 5, rerank=True, candidates=20)
    assert short.results == answer.results[:5]
    (one,) = searcher.search([query], 63, rerank=True, candidates=1)
    assert [hit.id for hit in one.results] == [hit.id for hit in plain.results]


def test_what_is_left_out_takes_no_part(crowd):
    root, gallery = crowd
    query = root / "p3" / "0.png"
    copies = {
        i for i, (_, payload) in gallery.points.items() if "copy" in payload["key"] or payload["key"] == "p3/0.png"
    }
    (answer,) = Searcher(gallery, ColourEmbedder()).search([query], 63, exclude_self=True, rerank=True)
    ids, scores = oracle(gallery, query, leave_out=copies)
    assert len(ids) == 59
    assert [hit.id for hit in answer.results] == ids
    assert [hit.reranked for hit in answer.results] == pytest.approx(scores, abs=1e-5)
    # With so few wanted that the copies fill the first fetch.
    (few,) = Searcher(gallery, ColourEmbedder()).search([query], 4, exclude_self=True, rerank=True, candidates=5)
    assert len(few.results) == 4
    assert not {hit.id for hit in few.results} & copies
    assert all(hit.reranked is not None for hit in few.results)


def test_the_least_score_is_a_cosine_similarity_and_costs_no_place(crowd):
    root, gallery = crowd
    searcher = Searcher(gallery, ColourEmbedder())
    query = root / "p7" / "1.png"
    (everything,) = searcher.search([query], 63, rerank=True)
    floor = sorted(hit.score for hit in everything.results)[30]
    (cut,) = searcher.search([query], 10, rerank=True, min_score=floor)
    assert [hit.id for hit in cut.results] == [hit.id for hit in everything.results if hit.score >= floor][:10]
    for how in ({}, {"rerank": True}, {"group_by": "identity"}):
        (shown,) = searcher.search([query], 3, exclude_self=True, **how)
        (hidden,) = searcher.search([query], 3, exclude_self=True, min_score=1.0, **how)
        assert (hidden.results, hidden.best_score) == ((), shown.best_score)


def test_grouped_it_is_the_first_image_of_each_identity(crowd):
    root, gallery = crowd
    searcher = Searcher(gallery, ColourEmbedder())
    query = root / "p1" / "3.png"
    (single,) = searcher.search([query], 63, rerank=True)
    (grouped,) = searcher.search([query], 10, rerank=True, group_by="identity")
    first: dict[str | None, str] = {}
    for hit in single.results:
        first.setdefault(hit.identity, hit.id)
    assert [(hit.identity, hit.id) for hit in grouped.results] == list(first.items())
    assert {hit.identity: hit.sightings for hit in grouped.results} == {f"p{n}": 9 if n == 3 else 6 for n in range(10)}
    # Fewer candidates than identities wanted: the rest follow in the order of their scores.
    (few,) = searcher.search([query], 10, rerank=True, candidates=4, group_by="identity")
    assert len({hit.identity for hit in few.results}) == 10
    rest = [hit for hit in few.results if hit.reranked is None]
    assert len(rest) >= 6
    assert [hit.score for hit in rest] == sorted((hit.score for hit in rest), reverse=True)


def test_several_queries_get_what_each_gets_alone(crowd, monkeypatch):
    root, gallery = crowd
    queries = sorted(root.rglob("*.png"))[::7]
    searcher = Searcher(gallery, ColourEmbedder())
    alone = [searcher.search([query], 9, rerank=True)[0] for query in queries]
    assert searcher.search(queries, 9, rerank=True) == alone
    monkeypatch.setattr(reranking, "_VALUES_AT_ONCE", 63 * 48 * 2)
    assert searcher.search(queries, 9, rerank=True) == alone


def test_probes_that_are_no_single_image_are_reranked_too(crowd):
    root, gallery = crowd
    searcher = Searcher(gallery, ColourEmbedder())
    queries = [root / "p2" / "0.png", root / "p2" / "2.png"]
    for how in ({"together": True}, {"unlike": [root / "p9" / "0.png"]}, {"flip": True}):
        plain = searcher.search(queries, 63, **how)
        answers = searcher.search(queries, 63, rerank=True, **how)
        for before, after in zip(plain, answers, strict=True):
            assert {hit.id: hit.score for hit in before.results} == {hit.id: hit.score for hit in after.results}
            assert after.best_score == before.results[0].score
    (liked,) = searcher.search([], 63, like=["p2/0.png"], rerank=True)
    (by_file,) = searcher.search([queries[0]], 63, exclude_self=True, rerank=True)
    assert [hit.id for hit in liked.results] == [hit.id for hit in by_file.results]


def test_a_gallery_of_one_image(tmp_path):
    path = write_image(tmp_path / "only.png")
    gallery = MemoryGallery()
    run_ingest([tmp_path], gallery, ColourEmbedder())
    searcher = Searcher(gallery, ColourEmbedder())
    (answer,) = searcher.search([path], rerank=True)
    assert [(hit.key, hit.rank) for hit in answer.results] == [("only.png", 1)]
    (nobody,) = searcher.search([path], rerank=True, exclude_self=True)
    assert (nobody.results, nobody.best_score) == ((), None)


def test_copies_tie_and_keep_the_rankings_order(tmp_path):
    for number in range(12):
        write_image(tmp_path / f"{number}.png", seed="all the same")
    gallery = MemoryGallery()
    run_ingest([tmp_path], gallery, ColourEmbedder())
    array = read_image(tmp_path / "0.png", (16, 8))
    (answer,) = Searcher(gallery, ColourEmbedder()).search([array], 12, rerank=True)
    assert [hit.id for hit in answer.results] == sorted(gallery.points)


@pytest.mark.parametrize("candidates", [0, -1, 10_001])
def test_numbers_of_candidates_that_cannot_be(crowd, candidates):
    root, gallery = crowd
    with pytest.raises(UsageError, match="1 to 10,000 candidates"):
        Searcher(gallery, ColourEmbedder()).search([root / "p0" / "0.png"], rerank=True, candidates=candidates)


@pytest.mark.filterwarnings("ignore:Payload indexes")
@pytest.mark.parametrize("engine", ["embedded", "embedded in float16", "server"])
def test_every_engine_gives_the_same_order(crowd, tmp_path, engine):
    root, oracle_gallery = crowd
    if engine == "server":
        opened = memory.memory_store().open("people", model=MODEL, create=True, mode="w")
    else:
        how = {"storage": Storage(vectors="float16")} if "16" in engine else {}
        opened = open_gallery(tmp_path / "store", model=MODEL, create=True, mode="w", **how)
    with opened as gallery:
        run_ingest([root / "all.csv"], gallery, ColourEmbedder())
        for number, options in enumerate(({}, {"exclude_self": True}, {"group_by": "identity"})):
            query = root / f"p{number + 5}" / "1.png"
            (answer,) = Searcher(gallery, ColourEmbedder()).search([query], 12, rerank=True, candidates=30, **options)
            (wanted,) = Searcher(oracle_gallery, ColourEmbedder()).search(
                [query], 12, rerank=True, candidates=30, **options
            )
            close = 2e-3 if "16" in engine else 1e-5
            assert [hit.reranked for hit in answer.results] == pytest.approx(
                [hit.reranked for hit in wanted.results], abs=close
            )
            if "16" not in engine:
                assert [hit.id for hit in answer.results] == [hit.id for hit in wanted.results]

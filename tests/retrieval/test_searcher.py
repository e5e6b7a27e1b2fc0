"""Searcher against ranking the whole gallery, slowly and obviously."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes import ColourEmbedder, MemoryGallery, meets, write_image, write_market
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from searching import Searcher

from ingest.pipeline import run_ingest
from siamese_search.errors import ImageError, ModelMismatchError, StoreError, UsageError
from siamese_search.gallery.contract import ModelRef
from siamese_search.gallery.filters import Condition
from siamese_search.io.images import read_image
from siamese_search.retrieval import searcher as module
from siamese_search.retrieval.judging import identities_in
from siamese_search.retrieval.ranking import people_of
from siamese_search.retrieval.results import SearchResult


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """40 labelled images of 8 identities on 2 cameras, 6 without labels, 3 copies of one: root and gallery."""
    root = tmp_path_factory.mktemp("crowd")
    for identity in range(8):
        for camera in (1, 2):
            for shot in range(2 if camera == 1 else 3):
                # Colours close within an identity, so that groups are spread over the ranking.
                write_image(root / f"p{identity}" / f"{camera}-{shot}.png", seed=f"{identity}-{shot % 2}-{camera}")
    for number in range(6):
        write_image(root / f"loose{number}.png")
    for number in range(3):
        shutil.copy(root / "p3" / "1-0.png", root / "p3" / f"copy{number}.png")
    rows = ["path,identity,camera,shot"]
    for path in sorted(root.rglob("*.png")):
        relative = path.relative_to(root).as_posix()
        if path.parent == root:
            rows.append(f"{relative},,,")
        else:
            camera, _, shot = path.stem.partition("-") if "-" in path.stem else ("1", "", "9")
            rows.append(f"{relative},{path.parent.name},{camera},{shot}")
    (root / "all.csv").write_text("\n".join(rows) + "\n")
    gallery = MemoryGallery()
    run_ingest([root / "all.csv"], gallery, ColourEmbedder())
    assert len(gallery.points) == 49
    return root, gallery


def oracle(gallery, query, k, where, exclude_self, min_score, grouped):
    """[(id, sightings, cameras)] by ranking every point in turn."""
    embedder = ColourEmbedder()
    vector = embedder.embed(read_image(query, embedder.input_size)[None])[0]
    candidates = []
    for identifier, (stored, payload) in gallery.points.items():
        if not all(meets(payload, condition) for condition in where):
            continue
        if exclude_self and Path(payload["path"]).read_bytes() == query.read_bytes():
            continue
        candidates.append((-float(np.dot(stored, vector)), identifier, payload))
    candidates.sort(key=lambda item: item[:2])
    ranked = []
    taken = set()
    for score, identifier, payload in candidates:
        identity = payload.get("identity")
        same = [payload] if identity is None else [p for *_, p in candidates if p.get("identity") == identity]
        if grouped and identity is not None:
            if identity in taken:
                continue
            taken.add(identity)
        cameras = tuple(sorted({p["camera"] for p in same if "camera" in p}))
        if min_score is None or -score >= min_score:
            ranked.append((identifier, len(same) if grouped else None, cameras if grouped else ()))
    return ranked[:k]


WHERE = st.sampled_from([
    (),
    (Condition("camera", "=", ("1",)),),
    (Condition("identity", "!=", ("p3",)),),
    (Condition("identity", "present"), Condition("shot", ">=", (1,))),
    (Condition("shot", "=", (77,)),),
])  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 48), st.integers(1, 60), WHERE, st.booleans(),
    st.sampled_from([None, -1.0, 0.0, 0.3, 0.999]), st.booleans(),
)  # fmt: skip
def test_search_is_the_ranking_of_the_whole_gallery(crowd, number, k, where, exclude, min_score, grouped):
    root, gallery = crowd
    query = sorted(root.rglob("*.png"))[number]
    searcher = Searcher(gallery, ColourEmbedder())
    (answer,) = searcher.search(
        [query], k, where, exclude_self=exclude, min_score=min_score, group_by="identity" if grouped else None
    )
    expected = oracle(gallery, query, k, where, exclude, min_score, grouped)
    assert [(r.id, r.sightings, r.cameras) for r in answer.results] == expected
    assert [r.rank for r in answer.results] == list(range(1, len(expected) + 1))
    assert answer.error is None


def test_several_queries_get_what_each_gets_alone(crowd):
    root, gallery = crowd
    queries = sorted(root.rglob("*.png"))[::5]
    searcher = Searcher(gallery, ColourEmbedder())
    options = {"k": 7, "exclude_self": True, "group_by": "identity"}
    together = searcher.search(queries, **options)
    assert together == [searcher.search([query], **options)[0] for query in queries]


def test_queries_are_embedded_a_few_at_a_time(crowd):
    root, gallery = crowd
    query = next(root.rglob("*.png"))
    embedder = ColourEmbedder()
    answers = Searcher(gallery, embedder).search([query] * 150, 1)
    assert len(answers) == 150
    assert all(answer.results == answers[0].results != () for answer in answers)
    assert sum(embedder.batches) == 150
    assert max(embedder.batches) <= 64


def test_a_result_carries_what_is_stored(crowd):
    root, gallery = crowd
    (answer,) = Searcher(gallery, ColourEmbedder()).search([root / "p5" / "2-1.png"], k=1)
    (result,) = answer.results
    assert result.score == pytest.approx(1.0, abs=1e-6)
    assert (result.identity, result.camera, result.key) == ("p5", "2", "p5/2-1.png")
    assert result.path == root / "p5" / "2-1.png"
    assert result.metadata == {"shot": 1}
    assert answer.to_json() == {
        "query": str(root / "p5" / "2-1.png"),
        "results": [
            {
                "rank": 1, "score": 1.0, "identity": "p5", "camera": "2", "path": str(result.path),
                "key": "p5/2-1.png", "metadata": {"shot": 1}, "match": None,
            }
        ],
    }  # fmt: skip


def test_the_query_knows_its_identity_from_the_gallery(crowd, tmp_path):
    root, gallery = crowd
    searcher = Searcher(gallery, ColourEmbedder())
    stranger = write_image(tmp_path / "stranger.png")
    shutil.copy(root / "p2" / "1-1.png", tmp_path / "copy.png")
    queries = [root / "p2" / "1-1.png", stranger, tmp_path / "copy.png"]
    for exclude in (False, True):
        answers = searcher.search(queries, exclude_self=exclude)
        assert [answer.identity for answer in answers] == ["p2", None, "p2"]


def test_an_image_under_another_name_is_the_same_file(crowd, tmp_path):
    root, gallery = crowd
    original = root / "p6" / "1-0.png"
    (tmp_path / "link.png").symlink_to(original)
    (tmp_path / "hard.png").hardlink_to(original)
    searcher = Searcher(gallery, ColourEmbedder())
    for name in ("link.png", "hard.png"):
        (answer,) = searcher.search([tmp_path / name], k=49, exclude_self=True)
        assert str(original) not in {str(result.path) for result in answer.results}
        assert len(answer.results) == 48


def test_a_look_alike_that_is_another_file_stays(crowd, tmp_path):
    """The same pixels saved anew are another image: similarity alone never excludes a file."""
    _, gallery = crowd
    write_image(tmp_path / "again.png", seed="6-0-1", size=(48, 24))
    (answer,) = Searcher(gallery, ColourEmbedder()).search([tmp_path / "again.png"], k=1, exclude_self=True)
    assert answer.results[0].score > 0.9999


def test_a_file_changed_since_its_ingest_is_still_the_query_itself(tmp_path, gallery, embedder):
    paths = write_market(tmp_path)
    run_ingest([tmp_path], gallery, embedder)
    write_image(paths[0], seed="new picture")
    (answer,) = Searcher(gallery, embedder).search([paths[0]], k=12, exclude_self=True)
    assert len(answer.results) == 11
    assert paths[0] not in {result.path for result in answer.results}


def test_arrays_are_queries_too(crowd):
    root, gallery = crowd
    path = root / "p1" / "2-0.png"
    searcher = Searcher(gallery, ColourEmbedder())
    pixels = read_image(path)
    (by_path,), (by_array,) = searcher.search([path], k=5), searcher.search([pixels], k=5)
    assert by_array.results == by_path.results
    assert (by_array.query, by_array.path) == ("image 1", None)
    (alone,) = searcher.search([pixels], k=49, exclude_self=True)
    assert by_path.results[0].id not in {result.id for result in alone.results}
    for bad in (pixels.astype(np.float32), pixels[:, :, 0], pixels[:0]):
        with pytest.raises(UsageError, match="uint8"):
            searcher.search([bad])


def test_many_copies_of_the_query_do_not_cost_results(tmp_path, gallery, embedder):
    original = write_image(tmp_path / "q.png")
    for number in range(150):
        shutil.copy(original, tmp_path / f"copy{number}.png")
    for number in range(7):
        write_image(tmp_path / f"other{number}.png")
    run_ingest([tmp_path], gallery, embedder)
    (answer,) = Searcher(gallery, embedder).search([original], k=5, exclude_self=True)
    assert len(answer.results) == 5
    assert all(result.key.startswith("other") for result in answer.results)


def test_one_crowded_identity_does_not_hide_the_others_nor_fetch_the_gallery(tmp_path, gallery, embedder):
    rng = np.random.default_rng(0)
    base, far = rng.normal(size=(2, 48))
    vectors = np.concatenate([base + 0.01 * rng.normal(size=(3000, 48)), far + 0.5 * rng.normal(size=(30, 48))])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    ids = [f"{n:08x}-0000-4000-8000-000000000000" for n in range(3030)]
    names = ["crowd"] * 3000 + [f"rare{n % 10}" for n in range(30)]
    gallery.upsert(ids, vectors, [{"identity": name, "path": "/x", "key": "x"} for name in names])
    searcher = Searcher(gallery, embedder)
    embedder.embed = lambda _: vectors[:1]
    (answer,) = searcher.search([write_image(tmp_path / "q.png")], k=5, group_by="identity")
    assert [r.identity == "crowd" for r in answer.results] == [True] + [False] * 4
    assert len({r.identity for r in answer.results}) == 5
    assert [r.sightings for r in answer.results] == [3000, 3, 3, 3, 3]
    assert sum(gallery.asked) < 200


def test_a_gallery_without_identities_can_be_grouped(tmp_path, gallery, embedder):
    for number in range(5):
        write_image(tmp_path / f"{number}.png")
    run_ingest([tmp_path], gallery, embedder)
    (answer,) = Searcher(gallery, embedder).search([tmp_path / "0.png"], k=9, group_by="identity")
    assert [(r.sightings, r.cameras) for r in answer.results] == [(1, ())] * 5


def test_distractors_are_many_people(tmp_path, gallery, embedder):
    paths = write_market(tmp_path, identities=2)
    paths += [write_image(tmp_path / f"0000_c1s1_{n:06d}_01.jpg", seed=f"stranger {n}") for n in range(5)]
    paths += [write_image(tmp_path / f"-1_c1s1_{n:06d}_01.jpg", seed=f"junk {n}") for n in range(2)]
    run_ingest([tmp_path], gallery, embedder)
    (answer,) = Searcher(gallery, embedder).search([paths[0]], k=20, group_by="identity")
    assert sorted((r.identity, r.sightings) for r in answer.results) == [
        *[("-1", 1)] * 2, *[("0000", 1)] * 5, ("0001", 4), ("0002", 4),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["0000", "-1"])
def test_a_person_whose_folder_is_called_as_distractors_are_is_one(tmp_path, gallery, embedder, name):
    paths = [write_image(tmp_path / "p" / who / f"{n}.jpg", seed=f"{who} {n}") for who in (name, "a") for n in range(3)]
    write_market(tmp_path / "m", identities=1)
    write_image(tmp_path / "m" / f"{name}_c1s1_000001_01.jpg", seed="stranger")
    run_ingest([tmp_path / "p"], gallery, embedder)
    assert people_of(gallery, [name, "a"]) == [name, "a"]
    assert identities_in(gallery) == 2
    run_ingest([tmp_path / "m"], gallery, embedder)  # of which it is nobody
    (answer,) = Searcher(gallery, embedder).search([paths[0]], k=20, group_by="identity")
    found = sorted((r.identity, r.sightings) for r in answer.results)
    assert found == [(name, 3), ("0001", 4), ("a", 3)] or found == [(name, 1), (name, 3), ("0001", 4), ("a", 3)]


def test_a_bad_query_among_several_is_named_and_the_others_answered(crowd, tmp_path):
    root, gallery = crowd
    (tmp_path / "text.jpg").write_text("no picture")
    good = root / "p0" / "1-0.png"
    searcher = Searcher(gallery, ColourEmbedder())
    answers = searcher.search([tmp_path / "text.jpg", good, tmp_path / "gone.jpg"], k=3)
    assert [answer.error is None for answer in answers] == [False, True, False]
    assert "not an image" in answers[0].error
    assert answers[2].to_json() == {
        "query": str(tmp_path / "gone.jpg"), "results": [], "error": "no such file"
    }  # fmt: skip
    assert answers[1].results == searcher.search([good], k=3)[0].results
    assert all(a.error for a in searcher.search([tmp_path / "text.jpg", tmp_path / "gone.jpg"]))
    with pytest.raises(ImageError, match="not an image"):
        searcher.search([tmp_path / "text.jpg"])
    assert searcher.search([]) == []


def test_values_that_cannot_work(crowd, gallery):
    root, filled = crowd
    query = root / "p0" / "1-0.png"
    searcher = Searcher(filled, ColourEmbedder())
    with pytest.raises(UsageError, match="k must be at least 1, not 0"):
        searcher.search([query], k=0)
    with pytest.raises(UsageError, match=r"from -1 to 1, not 1\.5"):
        searcher.search([query], min_score=1.5)
    with pytest.raises(UsageError, match="by 'identity' only"):
        searcher.search([query], group_by="camera")
    with pytest.raises(StoreError, match="is empty; fill it with: sss ingest DIR"):
        Searcher(gallery, ColourEmbedder()).search([query])
    with pytest.raises(ModelMismatchError, match="sss reindex"):
        Searcher(MemoryGallery(model=ModelRef("b" * 64, 48)), ColourEmbedder())


def test_many_queries_are_answered_a_few_at_a_time_and_share_what_is_known_of_a_point(crowd, monkeypatch):
    root, gallery = crowd
    searcher = Searcher(gallery, ColourEmbedder())
    queries = sorted(root.glob("p*/1-*.png"))
    whole = searcher.search(queries, 20)
    monkeypatch.setattr(module, "_HITS_AT_ONCE", 40)
    gallery.asked.clear()
    parts = searcher.search(queries, 20)
    assert parts == whole
    assert len(gallery.asked) > 1
    of: dict[str, list[SearchResult]] = {}
    for answer in parts:
        for hit in answer.results:
            of.setdefault(hit.id, []).append(hit)
    assert max(map(len, of.values())) > 3
    assert all(len({(id(hit.metadata), id(hit.path)) for hit in hits}) == 1 for hits in of.values())

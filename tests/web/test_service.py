"""GalleryService over a real gallery: what it answers against the functions and against slow, obvious ways."""

from __future__ import annotations

import io
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the [web] extra is not installed")

import siamese_search as sss
from siamese_search.errors import ImageError, NotThereError, RefusedError, UsageError
from siamese_search.gallery import open_gallery
from siamese_search.gallery.edge.store import EmbeddedStore
from siamese_search.retrieval.options import SearchOptions
from siamese_search.web.answers import Crop, Question, Upload
from siamese_search.web.options import Limits, ServeOptions
from siamese_search.web.service import GalleryService


def points_of(store):
    """Everything in the gallery: point id → (payload, vector)."""
    with open_gallery(store) as gallery:
        return {one.id: (dict(one.payload), one.vector) for one in gallery.scroll(with_vectors=True)}


def labels_of(store):
    return {key: dict(payload.items()) for key, (payload, _) in points_of(store).items()}


@pytest.fixture(scope="module")
def stored(drawn):
    return points_of(drawn.store)


@pytest.fixture(scope="module")
def reads(drawn):
    service = GalleryService(ServeOptions(store=str(drawn.store)))
    yield service
    service.close()


@pytest.fixture
def writes(copied):
    service = GalleryService(ServeOptions(store=str(copied)))
    service.store_path = copied
    yield service
    service.close()


def photo(drawn):
    return Path(next(iter(drawn.queries.values()))[0])


def upload(path):
    return Upload(path.read_bytes(), path.name)


def same(answer, other):
    return [(r.id, round(r.score, 6), r.match) for r in answer.results] == [
        (r.id, round(r.score, 6), r.match) for r in other.results
    ]


@pytest.mark.parametrize("how", [
    {}, {"group_by": "identity"}, {"where": ("camera=1",)}, {"rerank": True, "candidates": 30}, {"flip": True},
])  # fmt: skip
def test_an_upload_finds_what_its_file_finds(drawn, reads, how):
    path = photo(drawn)
    (found,) = reads.searching.search(Question(uploads=(upload(path),)), SearchOptions(k=5, **how))
    (expected,) = sss.search(path, store=drawn.store, k=5, **how)
    assert same(found, expected)
    assert found.verdict == expected.verdict
    assert found.no_verdict == expected.no_verdict
    assert ("--flip" in found.no_verdict) == ("flip" in how)
    assert found.results[0].id
    (token,) = reads.searching.keep([upload(path)])
    assert same(reads.searching.search(Question(kept=(token,)), SearchOptions(k=5, **how))[0], expected)


class Former:
    """A network that a search may still know: of another input, or one that tells when it is asked."""

    dim, fingerprint, centres = 512, "former", None

    def __init__(self, input_size=(64, 32)):
        self.input_size, self.asked = input_size, threading.Event()

    def embed(self, images):
        self.asked.set()
        return np.full((len(images), 512), 512**-0.5, np.float32)


def test_an_upload_is_embedded_anew_once_the_gallery_has_another_model(drawn, reads):
    """Uploads are embedded before the server's turn, by the last network."""
    question = Question(uploads=(upload(photo(drawn)),))
    (expected,) = sss.search(photo(drawn), store=drawn.store, k=5)
    reads.searching._embedder = Former()
    for _ in range(2):
        assert same(reads.searching.search(question, SearchOptions(k=5))[0], expected)
    assert list(reads.searching._embedder.input_size) == list(reads.overview.info().model["input_size"])


def test_an_upload_is_embedded_while_another_search_has_the_turn(drawn, reads):
    former = reads.searching._embedder = Former()
    search = threading.Thread(
        target=reads.searching.search, args=(Question(uploads=(upload(photo(drawn)),)), SearchOptions(k=5))
    )

    def turn(*_):
        search.start()
        assert former.asked.wait(60)

    reads.searching._handle.reading(turn)
    search.join(60)
    assert not search.is_alive()


def test_several_fuse_and_others_push_away(drawn, reads):
    one, two, other = (Path(paths[0]) for paths in list(drawn.queries.values())[:3])
    fused = reads.searching.search(Question(uploads=(upload(one), upload(two))), SearchOptions(k=5, together=True))
    assert same(fused[0], sss.search(one, two, store=drawn.store, k=5, together=True)[0])
    away = reads.searching.search(Question(uploads=(upload(one),), away_uploads=(upload(other),)), SearchOptions(k=5))
    assert same(away[0], sss.search(one, store=drawn.store, k=5, unlike=other)[0])
    assert away[0].verdict is None


def test_an_image_of_the_gallery_is_a_query_but_no_answer(drawn, reads, stored):
    point, (payload, vector) = sorted(stored.items())[0]
    (found,) = reads.searching.search(Question(points=(point,)), SearchOptions(k=5))
    (expected,) = sss.search(like=payload["key"], store=drawn.store, k=5)
    assert same(found, expected)
    assert point not in [one.id for one in found.results]
    (nearest,) = reads.searching.search(Question(vectors=(tuple(3 * vector.astype(float)),)), SearchOptions(k=1))
    assert nearest.results[0].id == point
    assert nearest.results[0].score == pytest.approx(1, abs=1e-4)


def test_a_crop_is_a_search_for_that_part(drawn, reads, tmp_path):
    path = photo(drawn)
    image = Image.open(path)
    width, height = image.size
    part = tmp_path / "part.png"
    image.crop((0, 0, width, height // 2)).save(part)
    crop = Crop(0, 0, 1, (height // 2) / height)
    (found,) = reads.searching.search(Question(uploads=(upload(path),), crop=crop), SearchOptions(k=3))
    assert same(found, sss.search(part, store=drawn.store, k=3)[0])
    (whole,) = reads.searching.keep([upload(path)])
    cut = reads.searching.recrop(whole, crop)
    assert reads.searching.kept(cut).crop == crop
    assert reads.searching.kept(whole).crop is None
    again = reads.searching.search(Question(kept=(cut,)), SearchOptions(k=3))[0]
    assert again.results[0].score == pytest.approx(found.results[0].score, abs=0.02)
    for box in (Crop(0.5, 0, 0.5, 1), Crop(0, 0, 2, 1), Crop(0, float("nan"), 1, 1), Crop(-0.1, 0, 1, 1)):
        with pytest.raises(UsageError, match="a crop is"):
            reads.searching.search(Question(uploads=(upload(path),), crop=box), SearchOptions(k=3))


def test_what_cannot_be_asked(drawn, reads, stored):
    some = next(iter(stored))
    for question, error, text in [
        (Question(), UsageError, "nothing to search for"),
        (Question(points=("nobody",)), NotThereError, "not the id"),
        (Question(points=("00000000-0000-0000-0000-000000000000",)), NotThereError, "no image"),
        (Question(kept=("gone",)), NotThereError, "no longer kept"),
        (Question(vectors=((1.0, 2.0),)), UsageError, "finite numbers"),
        (Question(vectors=((float("nan"),) * 128,)), UsageError, "finite numbers"),
        (Question(points=(some,) * 17), UsageError, "at most 16"),
        (Question(uploads=(Upload(b"no image", "a.jpg"),)), ImageError, "not an image"),
        (Question(uploads=(Upload(b"", "a.jpg"),)), ImageError, "empty"),
    ]:
        with pytest.raises(error, match=text):
            reads.searching.search(question, SearchOptions(k=3))
    with pytest.raises(UsageError, match="1 to 200"):
        reads.searching.search(Question(points=(some,)), SearchOptions(k=201))


def test_uploads_are_bounded_in_pixels(drawn):
    small = GalleryService(ServeOptions(store=str(drawn.store)), Limits(pixels=1000))
    try:
        with pytest.raises(ImageError, match="over the limit"):
            small.searching.search(Question(uploads=(upload(photo(drawn)),)), SearchOptions(k=1))
    finally:
        small.close()


def test_kept_uploads_are_the_latest(drawn, monkeypatch):
    from siamese_search.web import searching

    monkeypatch.setattr(searching, "_KEPT", 2)
    service = GalleryService(ServeOptions(store=str(drawn.store)))
    try:
        first, second, third = (service.searching.keep([upload(photo(drawn))])[0] for _ in range(3))
        with pytest.raises(NotThereError):
            service.searching.kept(first)
        assert service.searching.kept(second).picture
        assert service.searching.kept(third).picture
    finally:
        service.close()


def test_facets_count_what_is_there(reads, stored):
    facets = {one.field: one for one in reads.holdings.facets(["camera=1"], values=3)}
    there = [payload for payload, _ in stored.values() if payload["camera"] == "1"]
    assert list(facets)[:2] == ["identity", "camera"]
    assert not {"key", "path", "crc", "source", "size"} & set(facets)
    identities = Counter(p["identity"] for p in there if p.get("identity") is not None)
    assert facets["identity"].distinct == len(identities)
    assert [n for _, n in facets["identity"].values] == sorted(identities.values(), reverse=True)[:3]
    frames = [payload["frame"] for payload in there]
    assert (facets["frame"].low, facets["frame"].high) == (min(frames), max(frames))


def test_the_list_of_identities_has_all_and_pages(reads, stored):
    counts = Counter(p["identity"] for p, _ in stored.values() if p.get("identity") not in (None, "0000", "-1"))
    rows, total = reads.holdings.identities(limit=500)
    assert total == len(counts)
    assert {one.name: one.images for one in rows} == dict(counts)
    paged = [one for start in range(0, total, 4) for one in reads.holdings.identities(start=start, limit=4)[0]]
    assert paged == rows
    for one in rows:
        assert stored[one.shown][0]["identity"] == one.name
        assert set(one.cameras) == {p["camera"] for p, _ in stored.values() if p.get("identity") == one.name}
    assert {one.name for one in reads.holdings.identities("2", limit=500)[0]} == {n for n in counts if "2" in n}


def test_an_identity_with_its_best_shot_and_who_is_likely_the_same(reads, stored):
    name = reads.holdings.identities(limit=1)[0][0].name
    view = reads.holdings.identity(name)
    own = {i: v.astype(float) for i, (p, v) in stored.items() if p.get("identity") == name}
    means = {i: np.mean([v @ w for j, w in own.items() if j != i]) for i, v in own.items()}
    assert view.best == max(means, key=means.get)
    assert {one.id: pytest.approx(one.similarity, abs=1e-5) for one in view.sightings} == means
    frames = [(one.metadata["sequence"], one.metadata["frame"]) for one in view.sightings]
    assert frames == sorted(frames)
    assert view.time_field == "frame"
    others: dict[str, float] = {}
    for payload, vector in stored.values():
        who = payload.get("identity")
        if who not in (None, name, "0000", "-1"):
            mean = float(np.mean([v @ vector for v in own.values()]))
            others[who] = max(mean, others.get(who, -1))
    best = sorted(others, key=others.get, reverse=True)[:5]
    assert [one.name for one in view.suggestions] == best
    assert [one.score for one in view.suggestions] == pytest.approx([others[n] for n in best], abs=1e-4)
    assert all(0 <= one.probability <= 1 for one in view.suggestions)
    with pytest.raises(NotThereError, match="nobody in the gallery is called"):
        reads.holdings.identity("nobody at all")


def test_an_image_is_shown_without_what_else_is_in_its_file(writes, tmp_path):
    directory = tmp_path / "more"
    directory.mkdir()
    exif = Image.Exif()
    exif[0x010E] = "SECRET-WORDS"
    Image.new("RGB", (300, 600), (200, 30, 30)).save(directory / "x.jpg", exif=exif, comment=b"SECRET-WORDS")
    sss.ingest(directory, store=writes.store_path)
    (point,) = [i for i, (p, _) in points_of(writes.store_path).items() if p["key"] == "x.jpg"]
    picture = writes.holdings.picture(point, size=100)
    assert b"SECRET-WORDS" in (directory / "x.jpg").read_bytes()
    assert b"SECRET-WORDS" not in picture.data
    assert Image.open(io.BytesIO(picture.data)).size == (50, 100)
    for bad in ("../../etc/passwd", str(directory / "x.jpg"), "", "%00"):
        with pytest.raises(NotThereError):
            writes.holdings.picture(bad)
    (directory / "x.jpg").unlink()
    with pytest.raises(ImageError, match="no such file"):
        writes.holdings.picture(point)


def two(service):
    rows = service.holdings.identities(limit=2)[0]
    return rows[0].name, rows[1].name


def test_merge_and_undo_leave_all_as_it_was(writes):
    before = labels_of(writes.store_path)
    one, other = two(writes)
    edit = writes.labels.merge([other, one, other], one)
    assert edit.what == f"merged {other} into {one}"
    assert edit.changed == sum(p.get("identity") == other for p in before.values())
    after = labels_of(writes.store_path)
    assert {p.get("identity") for p in after.values()} == {p.get("identity") for p in before.values()} - {other}
    assert all('"identity"' in after[i]["labelled"] for i in before if before[i].get("identity") == other)
    writes.labels.undo(edit.undo)
    assert labels_of(writes.store_path) == before
    assert [one.undone for one in writes.labels.edits()] == [True]
    with pytest.raises(RefusedError, match="already"):
        writes.labels.undo(edit.undo)


def test_rename_split_and_assign_and_their_undo(writes):
    before = labels_of(writes.store_path)
    one, other = two(writes)
    with pytest.raises(RefusedError, match="merge the two"):
        writes.labels.rename(one, other)
    writes.labels.rename(one, "  Zoë  ")
    assert writes.holdings.identity("Zoë").total
    view = writes.holdings.identity("Zoë")
    split = writes.labels.split([view.sightings[0].id])
    assert writes.holdings.identity("new-0001").total == 1
    with pytest.raises(UsageError, match="all images of"):
        writes.labels.split([view.sightings[0].id])
    set_ = writes.labels.assign([view.sightings[1].id], {"camera": "9", "hat": True, "frame": 5})
    assert writes.holdings.sighting(view.sightings[1].id).metadata["hat"] is True
    for edit in (set_, split, writes.labels.edits()[-1]):
        writes.labels.undo(edit.undo)
    assert labels_of(writes.store_path) == before


def test_an_undo_never_takes_a_later_change_back(writes):
    one, other = two(writes)
    edit = writes.labels.merge([other], one)
    later = writes.labels.rename(one, "later")
    with pytest.raises(RefusedError, match="labelled again since"):
        writes.labels.undo(edit.undo)
    writes.labels.undo(later.undo)
    writes.labels.undo(edit.undo)
    assert writes.holdings.identity(other).total


@pytest.mark.parametrize("values", [
    {"path": "/etc/passwd"}, {"key": "x"}, {"crc": 1}, {"labelled": "[]"}, {"frame": "soon"}, {"identity": ""},
    {"identity": "a\nb"}, {"a\x00b": "x"}, {}, {"identity": "x" * 1001}, {"identity": "\udcff"},
])  # fmt: skip
def test_what_cannot_be_a_label_changes_nothing(writes, values):
    before = labels_of(writes.store_path)
    with pytest.raises(UsageError):
        writes.labels.assign([next(iter(before))], values)
    assert labels_of(writes.store_path) == before


def test_a_read_only_server_changes_nothing(drawn):
    service = GalleryService(ServeOptions(store=str(drawn.store), read_only=True))
    try:
        before = labels_of(drawn.store)
        one, other = two(service)
        point = next(iter(before))
        for call in (
            lambda: service.labels.rename(one, "x"), lambda: service.labels.merge([one], other),
            lambda: service.labels.undo("x"),
            lambda: service.labels.split([point]), lambda: service.labels.assign([point], {"identity": "x"}),
            lambda: service.review.answer("new", point), lambda: service.review.answer("skip", point),
        ):  # fmt: skip
            with pytest.raises(RefusedError, match="read-only"):
                call()
        assert labels_of(drawn.store) == before
    finally:
        service.close()


def test_the_review_asks_about_the_least_certain_first(writes, stored):
    queue = writes.review.queue(limit=200)
    unknown = {i for i, (p, _) in stored.items() if p.get("identity") is None}
    assert {one.point for one in queue.items} == unknown
    assert queue.remaining == queue.unlabelled == len(unknown)
    sure = [one.uncertainty for one in queue.items]
    assert sure == sorted(sure)
    for item in queue.items:
        assert item.uncertainty == abs(item.candidates[0].probability - 0.5)
        scores = {
            i: float(v @ stored[item.point][1]) for i, (p, v) in stored.items()
            if i != item.point and p.get("identity") not in ("0000", "-1")
        }  # fmt: skip
        assert item.candidates[0].point == max(scores, key=scores.get)
        assert item.candidates[0].identity == stored[item.candidates[0].point][0].get("identity")


def test_answers_of_the_review_and_their_undo(writes):
    before = labels_of(writes.store_path)
    first = writes.review.queue().items[0]
    asked = first.candidates[0]
    no = writes.review.answer("no", first.point, asked.point)
    item = next(one for one in writes.review.queue(limit=200).items if one.point == first.point)
    assert asked.point not in [one.point for one in item.candidates]
    assert labels_of(writes.store_path) == before
    writes.labels.undo(no.undo)
    assert writes.review.queue().items[0].candidates[0] == asked

    skip = writes.review.answer("skip", first.point)
    assert writes.review.queue(limit=200).items[-1].point == first.point
    writes.labels.undo(skip.undo)
    assert writes.review.queue().items[0].point == first.point

    count = writes.review.queue().remaining
    yes = writes.review.answer("yes", first.point, asked.point)
    now = labels_of(writes.store_path)
    assert now[first.point]["identity"] == now[asked.point]["identity"]
    assert writes.review.queue().remaining < count
    writes.labels.undo(yes.undo)
    new = writes.review.answer("new", first.point)
    assert labels_of(writes.store_path)[first.point]["identity"] == "new-0001"
    writes.labels.undo(new.undo)
    assert labels_of(writes.store_path) == before


def test_clusters_map_and_facts(drawn, reads, stored):
    clusters = reads.overview.clusters()
    assert {i for one in clusters for i, _, _ in one.images} == {
        i for i, (p, _) in stored.items() if p.get("identity") in (None, "0000", "-1")
    }
    found = reads.overview.gallery_map(color="camera")
    assert {one["id"] for one in found["points"]} == set(stored)
    assert all(0 <= one["x"] <= 1 and 0 <= one["y"] <= 1 for one in found["points"])
    assert all(one["value"] == stored[one["id"]][0]["camera"] for one in found["points"])
    assert sum(one["count"] for one in found["legend"]) == len(stored)
    info = reads.overview.info()
    assert info.facts["points"] == len(stored)
    assert info.calibration["slope"] > 0
    assert info.failures is None
    assert info.evaluation is None
    assert reads.overview.galleries()["galleries"][0]["name"] == "default"


def test_the_files_that_it_was_told_of_are_shown(drawn, tmp_path):
    failures, report = tmp_path / "failed.jsonl", tmp_path / "report.json"
    failures.write_text('{"path": "a.jpg", "reason": "empty file"}\n')
    report.write_text('{"rank1": 0.5}')
    options = ServeOptions(store=str(drawn.store), ingest_failures=str(failures), evaluation=str(report))
    service = GalleryService(options)
    try:
        info = service.overview.info()
        assert info.failures == ({"path": "a.jpg", "reason": "empty file"},)
        assert info.evaluation == {"rank1": 0.5}
        report.unlink()
        for content in ("no JSON", "[" * 100_000, "5", '{"path": 1}'):
            failures.write_text(content)
            info = service.overview.info()
            assert info.failures is None
            assert info.evaluation is None
            assert len(info.notes) == 2
    finally:
        service.close()


def test_a_look_at_all_galleries_leaves_the_one_that_is_served_open(writes, monkeypatch):
    with (
        open_gallery(str(writes.store_path)) as gallery,
        open_gallery(str(writes.store_path), "other", model=gallery.model, create=True, mode="w"),
    ):
        pass
    writes.warm()
    opened = []
    real = EmbeddedStore.open
    monkeypatch.setattr(EmbeddedStore, "open", lambda self, name, **how: opened.append(name) or real(self, name, **how))
    found = writes.overview.galleries()
    assert found == sss.api.maintenance.galleries(store=writes.store_path) | {"store": found["store"]}
    assert opened[:1] == ["other"]
    assert opened[1:] == ["default", "other"], "by the second way, which opens all"

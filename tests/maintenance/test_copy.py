"""Copying galleries: resumed, checked, and honest about what differs."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import qdrant_edge as edge

from siamese_search.errors import StoreError
from siamese_search.gallery import open_gallery
from siamese_search.gallery.checks import sample_ids, sampled_recall
from siamese_search.gallery.contract import Gallery, ModelRef
from siamese_search.gallery.edge import layout
from siamese_search.gallery.edge.gallery import EmbeddedGallery
from siamese_search.gallery.storage import Storage
from siamese_search.maintenance import copy as module
from siamese_search.maintenance.copy import copy_gallery, paired

DIM = 8
MODEL = ModelRef("f" * 64, DIM, "tests")


def point_id(i: int) -> str:
    return f"00000000-0000-0000-0000-{i:012d}"


def put(gallery: Gallery, *images: int, seed: int = 0, **extra: object) -> None:
    rows = np.stack([np.random.default_rng([seed, i]).standard_normal(DIM) for i in images])
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    gallery.upsert([point_id(i) for i in images], rows, [{"key": str(i), **extra} for i in images])


def held(gallery: Gallery) -> dict:
    return {p.id: (p.payload, p.vector.tobytes()) for p in gallery.scroll(with_vectors=True)}


@pytest.fixture
def source(scratch: Path):
    with open_gallery(scratch / "source", model=MODEL, create=True, mode="w") as gallery:
        put(gallery, *range(50), frame=3)
        yield gallery


@pytest.fixture
def target(scratch: Path):
    with open_gallery(scratch / "target", model=MODEL, create=True, mode="w") as gallery:
        yield gallery


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_BATCH", 7)


def counts(report: module.CopyReport) -> tuple[int, ...]:
    return report.points, report.copied, report.kept, report.extra, report.verified


def test_pairs_are_those_of_equal_ids_in_order(source: Gallery, target: Gallery):
    put(target, 3, 49, 50, 99)
    pairs = [
        (a and int(a.payload["key"]), b and int(b.payload["key"])) for a, b in paired(source, target, vectors=True)
    ]
    expected = {i: (i, None) for i in range(50)} | {3: (3, 3), 49: (49, 49), 50: (None, 50), 99: (None, 99)}
    assert pairs == [expected[i] for i in sorted(expected)]
    target.delete([point_id(i) for i in range(100)])
    assert list(paired(target, target, vectors=True)) == []


def test_a_copy_is_the_same_to_the_bit(source: Gallery, target: Gallery):
    assert counts(copy_gallery(source, target)) == (50, 50, 0, 0, 50)
    assert held(target) == held(source)
    assert counts(copy_gallery(source, target)) == (50, 0, 50, 0, 50)


def test_only_what_differs_is_sent_and_nothing_is_deleted(source: Gallery, target: Gallery):
    copy_gallery(source, target)
    put(source, 4, seed=1, frame=3)  # another vector
    put(source, 5, frame=4)  # another label
    source.delete([point_id(6)])
    put(target, 70)
    before = held(target)
    assert counts(copy_gallery(source, target)) == (49, 2, 47, 2, 49)
    expected = held(source) | {i: before[i] for i in (point_id(6), point_id(70))}
    assert held(target) == expected


def test_interrupted_it_goes_on(source: Gallery, target: Gallery):
    stop = threading.Event()
    moments: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        moments.append((done, total))
        if done >= 21:
            stop.set()

    with pytest.raises(KeyboardInterrupt):
        copy_gallery(source, target, progress=progress, stop=stop)
    assert moments == [(7, 50), (14, 50), (21, 50)]
    assert target.count() == 21
    moments.clear()
    stop.clear()
    assert counts(copy_gallery(source, target, progress=lambda *m: moments.append(m))) == (50, 29, 21, 0, 50)
    assert moments[-1] == (50, 50)
    assert held(target) == held(source)


def test_a_field_that_is_wider_there_is_the_same_all_the_same(source: Gallery, target: Gallery):
    put(target, 70, frame="three")  # makes the field text
    assert counts(copy_gallery(source, target)) == (50, 50, 0, 1, 50)
    assert target.retrieve([point_id(1)])[0].payload["frame"] == "3"
    assert counts(copy_gallery(source, target)) == (50, 0, 50, 1, 50)


def test_what_is_ingested_meanwhile_comes_along(source: Gallery, target: Gallery):
    def progress(done: int, total: int) -> None:
        if done == 14:
            put(source, 0, frame=9)  # behind the cursor
            put(source, 200, frame=3)

    assert counts(copy_gallery(source, target, progress=progress))[:1] == (51,)
    assert held(target) == held(source)


def test_a_source_that_never_rests_is_an_error(source: Gallery, target: Gallery, monkeypatch):
    send = module._send
    frames = iter(range(10, 1000))

    def send_and_change(*args):
        sent = send(*args)
        put(source, 0, frame=next(frames))
        return sent

    monkeypatch.setattr(module, "_send", send_and_change)
    with pytest.raises(StoreError, match=r"changes faster.*run the command again"):
        copy_gallery(source, target)


def test_a_damaged_vector_is_not_copied_as_if_it_were_sound(source: Gallery, target: Gallery, scratch: Path):
    with open_gallery(scratch / "source") as other:
        vector = other.retrieve([point_id(7)], with_vectors=True)[0].vector
    source.close()
    shard = layout.current_generation(scratch / "source" / "galleries" / "default") / "shard"
    opened = edge.EdgeShard.load(str(shard))
    opened.update(edge.UpdateOperation.update_vectors([edge.PointVectors(point_id(7), (-vector).tolist())]))
    opened.close()
    with open_gallery(scratch / "source") as damaged, pytest.raises(StoreError, match=r"'7' is damaged.*--reembed"):
        copy_gallery(damaged, target)
    assert target.retrieve([point_id(7)]) == [None]


def test_a_target_that_loses_or_alters_is_found_out(source: Gallery, target: Gallery, monkeypatch):
    count = EmbeddedGallery.count
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedGallery, "count", lambda self, *a: count(self, *a) - (self is target))
        with pytest.raises(StoreError, match=r"49 points.*fewer than the 50"):
            copy_gallery(source, target)
    retrieve = EmbeddedGallery.retrieve

    def without_one(self, ids, **how):
        found = retrieve(self, ids, **how)
        return [None, *found[1:]] if self is target else found

    monkeypatch.setattr(EmbeddedGallery, "retrieve", without_one)
    with pytest.raises(StoreError, match="the vector of '0' is not the one in"):
        copy_gallery(source, target)


def test_galleries_of_different_models_are_refused(source: Gallery, scratch: Path):
    with (
        open_gallery(scratch / "x", model=ModelRef("e" * 64, DIM), create=True, mode="w") as other,
        pytest.raises(ValueError, match="different models"),
    ):
        copy_gallery(source, other)


def test_a_sample_is_any_of_all_points_alike(source: Gallery):
    everything = [point_id(i) for i in range(50)]
    assert sample_ids(source, 50) == sample_ids(source, 99) == everything
    drawn = [sample_ids(source, 10, seed) for seed in range(60)]
    assert all(len(set(one)) == 10 and one == sorted(one) for one in drawn)
    often = np.array([sum(i in one for one in drawn) for i in everything])
    assert often.sum() == 600
    assert often.min() >= 2  # 12 expected of each
    assert often.max() <= 26


def test_the_recall_of_an_exact_gallery_is_one_copies_and_all(source: Gallery, target: Gallery):
    assert sampled_recall(source) == 1.0
    assert sampled_recall(target) is None
    # Thirty copies of one image: most are not among the first ten of their own query.
    row = np.eye(1, DIM, dtype=np.float32)
    target.upsert([point_id(i) for i in range(30)], np.repeat(row, 30, axis=0), [{}] * 30)
    assert sampled_recall(target) == 1.0


def test_an_index_that_finds_the_wrong_ones_has_a_low_recall(source: Gallery, monkeypatch):
    query = EmbeddedGallery.query_batch

    def poor(self, rows, k, *, exact=False, **how):
        found = query(self, rows, 2 * k, exact=exact, **how)
        return [hits[:k] if exact else [*hits[: k // 2], *hits[k : k + k // 2]] for hits in found]

    monkeypatch.setattr(EmbeddedGallery, "query_batch", poor)
    assert sampled_recall(source) == pytest.approx(0.5, abs=0.01)


def test_a_copy_into_float16_is_made_once_and_verified(scratch: Path, source: Gallery):
    """The checksums there are those of the rounded vectors: they must not pass for other vectors every time."""
    storage = Storage("float16", "int4")
    with open_gallery(scratch / "half", model=MODEL, create=True, mode="w", storage=storage) as half:
        assert counts(copy_gallery(source, half)) == (50, 50, 0, 0, 50)
        assert counts(copy_gallery(source, half)) == (50, 0, 50, 0, 50)
        for point in source.scroll(with_vectors=True):
            there = half.retrieve([point.id], with_vectors=True)[0]
            assert there is not None
            assert np.array_equal(there.vector, storage.rounded(point.vector))
        put(source, 3, seed=1)
        assert counts(copy_gallery(source, half))[:3] == (50, 1, 49)
        # And from there into a gallery that could hold more.
        with open_gallery(scratch / "wide", model=MODEL, create=True, mode="w") as wide:
            assert counts(copy_gallery(half, wide)) == (50, 50, 0, 0, 50)
            assert counts(copy_gallery(half, wide)) == (50, 0, 50, 0, 50)


def test_labels_set_by_hand_in_the_target_alone_stay(source: Gallery, target: Gallery):
    """A backup that is pulled, or a push after a review there, takes nothing away that a person has said."""
    copy_gallery(source, target)
    both = {"identity": "ann", "labelled": '["identity"]'}
    target.set_payload([point_id(1)], [both])
    target.set_payload([point_id(2)], [both])
    source.set_payload([point_id(2)], [{"identity": "bob", "camera": "1", "labelled": '["camera", "identity"]'}])
    target.set_payload([point_id(3)], [{"frame": None, "labelled": '["frame"]'}])
    source.set_payload([point_id(3)], [{"camera": "7", "labelled": '["camera"]'}])
    assert counts(copy_gallery(source, target))[:3] == (50, 2, 48)
    assert counts(copy_gallery(source, target))[:3] == (50, 0, 50)
    found = {int(p.payload["key"]): p.payload for p in target.scroll()}
    assert (found[1]["identity"], found[1]["frame"]) == ("ann", 3)
    assert found[2]["identity"] == "bob"  # said in the source, too, and that is what is copied
    assert (found[3].get("frame"), found[3]["camera"]) == (None, "7")
    assert found[3]["labelled"] == '["camera", "frame"]'

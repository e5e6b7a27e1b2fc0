"""Labels set by hand outlive the disk's: an unchanged file, a changed one, one that moves, one under a new table."""

from __future__ import annotations

import pytest
from fakes import write_image

from ingest.pipeline import run_ingest
from siamese_search.curation.labels import plan_labels, write_changes
from siamese_search.gallery.payload import read_labelled


@pytest.fixture
def photos(tmp_path, gallery, embedder):
    """Two identities by folder; by hand, one image gets another identity, and a field that no disk states."""
    root = tmp_path / "photos"
    for name in ("ann/1.jpg", "ann/2.jpg", "bob/1.jpg"):
        write_image(root / name, seed=name)  # files of one content could not be told apart when they move
    run_ingest([root], gallery, embedder, checksum=True)
    table = tmp_path / "labels.csv"
    table.write_text("key,identity,weather\nann/1.jpg,eve,sun\nbob/1.jpg,<none>,\n")
    write_changes(gallery, plan_labels(gallery, table).changes)
    return root


def labels(gallery):
    return {payload["key"]: (payload.get("identity"), payload.get("weather")) for _, payload in gallery.points.values()}


SET = {"ann/1.jpg": ("eve", "sun"), "ann/2.jpg": ("ann", None), "bob/1.jpg": (None, None)}


@pytest.mark.parametrize("checksum", [False, True])
def test_unchanged_touched_and_changed_files_keep_them(photos, gallery, embedder, checksum):
    embedded = len(embedder.batches)
    again = run_ingest([photos], gallery, embedder, checksum=checksum)
    assert (again.unchanged, len(embedder.batches)) == (3, embedded)
    assert labels(gallery) == SET
    write_image(photos / "ann" / "1.jpg", seed="edited")
    write_image(photos / "bob" / "1.jpg", seed="edited too")
    assert run_ingest([photos], gallery, embedder, checksum=checksum).changed == 2
    assert labels(gallery) == SET
    assert run_ingest([photos], gallery, embedder, reembed=True).changed == 3
    assert labels(gallery) == SET
    assert run_ingest([photos], gallery, embedder).unchanged == 3
    names = {p["key"]: read_labelled(p) for _, p in gallery.points.values()}
    assert names == {"ann/1.jpg": ("identity", "weather"), "ann/2.jpg": (), "bob/1.jpg": ("identity",)}


def test_a_moved_file_takes_them_along_whatever_its_new_place_says(photos, gallery, embedder):
    (photos / "carl").mkdir()
    (photos / "ann" / "1.jpg").rename(photos / "carl" / "9.jpg")
    (photos / "bob" / "1.jpg").rename(photos / "carl" / "8.jpg")
    for _ in range(2):
        run_ingest([photos], gallery, embedder, checksum=True)
        moved = {"carl/9.jpg": ("eve", "sun"), "carl/8.jpg": (None, None), "ann/2.jpg": ("ann", None)}
        assert labels(gallery) == moved


def test_what_was_not_set_by_hand_still_follows_the_disk(photos, gallery, embedder):
    (photos / "ann").rename(photos / "anna")
    run_ingest([photos], gallery, embedder, checksum=True)
    assert labels(gallery) == {"anna/1.jpg": ("eve", "sun"), "anna/2.jpg": ("anna", None), "bob/1.jpg": (None, None)}

"""Embedding records: what is read, and the fingerprint of what was read."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace

import numpy as np

from siamese_search.evaluation.evaluate import data_fingerprint, embed_records, evaluate


def test_rows_and_digests_are_those_of_the_images_that_can_be_read(make_images, embedder):
    records = make_images()
    records[2].path.write_bytes(b"no image")
    found = embed_records(records, embedder, batch_size=3)
    assert found.rows.tolist() == [row for row in range(len(records)) if row != 2]
    assert found.digests == [
        hashlib.sha256(record.path.read_bytes()).digest() for row, record in enumerate(records) if row != 2
    ]
    assert [failure.path for failure in found.failed] == [str(records[2].path)]
    alone = embed_records([records[4]], embedder)
    np.testing.assert_array_equal(alone.vectors[0], found.vectors[3])


def test_a_fingerprint_knows_content_labels_and_sides_but_no_place_and_no_order(make_images, embedder, tmp_path):
    records = make_images()
    report = evaluate(records, embedder)
    parts = [("gallery", r, hashlib.sha256(r.path.read_bytes()).digest()) for r in records]
    whole = data_fingerprint(parts)
    assert report.data_fingerprint == whole
    assert len(bytes.fromhex(whole)) == 32
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(records[0].path.parent, elsewhere)
    moved = [(side, replace(r, path=elsewhere / r.path.name), digest) for side, r, digest in reversed(parts)]
    assert data_fingerprint(moved) == whole
    assert evaluate([record for _, record, _ in moved], embedder).data_fingerprint == whole
    side, first, digest = parts[0]
    others = [
        ("queries", first, digest),
        (side, replace(first, identity="other"), digest),
        (side, replace(first, identity=None), digest),
        (side, replace(first, camera=None), digest),
        (side, replace(first, camera="unknown"), digest),
        (side, replace(first, key="other.png"), digest),
        (side, first, hashlib.sha256(b"").digest()),
    ]
    found = {data_fingerprint([other, *parts[1:]]) for other in others}
    assert len(found | {whole}) == 8
    assert data_fingerprint(parts[1:]) != whole

"""The gallery contract, third part: number formats and quantised search. See contract.py.

``open_engine`` takes ``storage=`` besides what contract.py says.
"""

from __future__ import annotations

import numpy as np
import pytest
from soundness import verify_vectors

from siamese_search.gallery.checks import sampled_recall, vector_crc
from siamese_search.gallery.filters import Condition
from siamese_search.gallery.storage import Storage

from .contract import MODEL, OpenEngine, brute_force, fill, make_ids, unit

STORAGES = [
    Storage("float32", "int8"),
    Storage("float16", "none"),
    Storage("float16", "int8"),
    Storage("float16", "int4"),
    Storage("float16", "binary"),
]
every_storage = pytest.mark.parametrize("storage", STORAGES, ids=str)


class StorageContract:
    """Subclass it in a test module that provides ``open_engine``."""

    @every_storage
    def test_the_storage_is_remembered_and_reopened_without_a_word(self, open_engine: OpenEngine, storage: Storage):
        with open_engine(MODEL, storage=storage) as gallery:
            assert gallery.storage == gallery.info().storage == storage
        with open_engine(MODEL, mode="r") as gallery:
            assert gallery.storage == storage
        other = Storage("float32" if storage.vectors == "float16" else "float16")
        with open_engine(MODEL, storage=other) as gallery:  # one that exists keeps its own
            assert gallery.storage == storage

    @every_storage
    def test_what_is_read_back_is_the_rounding_and_has_its_checksum(self, open_engine: OpenEngine, storage: Storage):
        with open_engine(MODEL, storage=storage) as gallery:
            ids, vectors, _ = fill(gallery)
            rounded = storage.rounded(vectors)
            assert np.array_equal(rounded, vectors) == (storage.vectors == "float32")
        with open_engine(MODEL) as gallery:
            for i, point in enumerate(gallery.retrieve(ids, with_vectors=True)):
                assert point is not None
                assert point.vector is not None
                assert point.vector.tobytes() == rounded[i].tobytes()
                assert point.payload["crc"] == vector_crc(rounded[i])
            # Written back, nothing changes any more: rounding twice is rounding once.
            again = gallery.retrieve(ids[:5], with_vectors=True)
            gallery.upsert(ids[:5], np.stack([p.vector for p in again]), [{"size": 1}] * 5)
            for point, before in zip(gallery.retrieve(ids[:5], with_vectors=True), again, strict=True):
                assert np.array_equal(point.vector, before.vector)
                assert point.payload["crc"] == before.payload["crc"]
            assert verify_vectors(gallery).damaged == ()

    @every_storage
    def test_every_search_scores_the_stored_vectors(self, open_engine: OpenEngine, storage: Storage):
        """Sixteen dimensions leave a binary copy little to tell by, but so few points are all candidates."""
        with open_engine(MODEL, storage=storage) as gallery:
            ids, vectors, payloads = fill(gallery, 60)
            stored = storage.rounded(vectors)
            where = [Condition("camera", "=", ("1",))]
            for query in unit(np.random.default_rng(3), 3):
                for conditions in ([], where):
                    wanted = brute_force(query, ids, stored, payloads, 20, conditions)
                    for exact in (True, False):
                        hits = gallery.query(query, 20, conditions, exact=exact)
                        assert [hit.id for hit in hits] == [one for one, _ in wanted]
                        # A server of float16 compares with a rounded query.
                        np.testing.assert_allclose(
                            [hit.score for hit in hits], [score for _, score in wanted], atol=2e-3
                        )

    @every_storage
    def test_copies_tie_and_a_deep_search_finds_everything(self, open_engine: OpenEngine, storage: Storage):
        with open_engine(MODEL, storage=storage) as gallery:
            twin = unit(np.random.default_rng(1), 1)
            ids = make_ids(300)
            others = unit(np.random.default_rng(2), 260)
            gallery.upsert(ids, np.concatenate([np.repeat(twin, 40, 0), others]), [{}] * 300)
            hits = gallery.query(twin[0], 10)
            assert [hit.id for hit in hits] == sorted(ids[:40])[:10]
            assert {hit.id for hit in gallery.query(twin[0], 5000)} == set(ids)

    @every_storage
    def test_the_check_of_a_sample_passes(self, open_engine: OpenEngine, storage: Storage):
        with open_engine(MODEL, storage=storage) as gallery:
            fill(gallery, 200)
            gallery.optimise()
            recall = sampled_recall(gallery)
            assert recall is not None
            assert recall >= (0.5 if storage.quantisation == "binary" else 0.99)

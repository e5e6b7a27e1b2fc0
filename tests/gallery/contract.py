"""The gallery contract as tests: any engine must pass them word for word.

A test module runs an engine through the suite by subclassing :class:`GalleryContract`, ``FilterContract``
(contract_filters.py), ``PayloadContract`` (contract_payload.py) and ``StorageContract`` (contract_storage.py), and
giving it one fixture, ``open_engine``: a function ``(model, mode="w") -> Gallery`` that opens the same gallery on
every call and makes it on the first. See test_contract.py.

The oracle is brute force in numpy and the reference semantics of filters.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

import numpy as np
import pytest
from filter_oracle import matches_all
from soundness import verify_vectors

from siamese_search.errors import StoreError, UsageError
from siamese_search.gallery.checks import vector_crc
from siamese_search.gallery.contract import Gallery, ModelRef
from siamese_search.gallery.filters import Condition

OpenEngine = Callable[..., Gallery]

DIM = 16
MODEL = ModelRef("f" * 64, DIM, "tests")


def unit(rng: np.random.Generator, n: int, dim: int = DIM) -> np.ndarray:
    rows = rng.standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_ids(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [str(uuid.UUID(bytes=rng.bytes(16))) for _ in range(n)]


def make_payloads(n: int) -> list[dict]:
    """Every type of field, with gaps."""
    out = []
    for i in range(n):
        payload = {"identity": f"{i % 7:04d}", "camera": str(i % 3), "size": i * 10, "key": f"dir/{i}.jpg"}
        if i % 2:
            payload["sharpness"] = i / 4
        if i % 5:
            payload["night"] = i % 4 == 0
        out.append(payload)
    return out


def brute_force(query, ids, vectors, payloads, k, where=()):
    """[(id, score)] by score descending, id ascending, over the points that meet the conditions."""
    scored = [(i, float(np.dot(query, v))) for i, v, p in zip(ids, vectors, payloads) if matches_all(p, where)]
    return sorted(scored, key=lambda one: (-one[1], one[0]))[:k]


def fill(gallery: Gallery, n: int = 60, seed: int = 0):
    rng = np.random.default_rng(seed)
    ids, vectors, payloads = make_ids(n, seed), unit(rng, n), make_payloads(n)
    gallery.upsert(ids, vectors, payloads)
    return ids, vectors, payloads


class GalleryContract:
    """Subclass it in a test module that provides ``open_engine``."""

    def test_an_empty_gallery_answers_everything(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            assert gallery.model == MODEL
            assert gallery.dim == DIM
            assert gallery.count() == 0
            assert gallery.fields() == {}
            assert list(gallery.scroll()) == []
            assert gallery.query(unit(np.random.default_rng(0), 1)[0], 5) == []
            assert gallery.query_batch(np.empty((0, DIM), np.float32), 5) == []
            assert gallery.retrieve(make_ids(2)) == [None, None]
            assert gallery.info().points == 0
            gallery.delete(make_ids(2))
            gallery.upsert([], np.empty((0, DIM), np.float32), [])
            gallery.flush()
            assert gallery.count() == 0

    def test_points_come_back_as_they_were_sent(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            ids, vectors, payloads = fill(gallery)
        with open_engine(MODEL, mode="r") as gallery:
            stored = gallery.retrieve(ids, with_vectors=True)
            for i, point in enumerate(stored):
                assert point is not None
                assert point.id == ids[i]
                assert point.payload == {**payloads[i], "crc": vector_crc(vectors[i])}
                assert {k: type(v) for k, v in payloads[i].items()} == {k: type(point.payload[k]) for k in payloads[i]}
                assert point.vector is not None
                assert point.vector.dtype == np.float32
                assert point.vector.tobytes() == vectors[i].tobytes()  # to the bit
            assert verify_vectors(gallery).points == len(ids)
            assert verify_vectors(gallery).damaged == ()

    def test_retrieve_keeps_the_order_and_marks_what_is_missing(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            ids, _, _ = fill(gallery, 5)
            missing = make_ids(1, seed=9)[0]
            got = gallery.retrieve([ids[3], missing, ids[0], ids[3]])
            assert [None if p is None else p.id for p in got] == [ids[3], None, ids[0], ids[3]]
            assert got[0] is not None
            assert got[0].vector is None

    def test_ids_are_uuids_in_any_spelling(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            vector = unit(np.random.default_rng(0), 1)
            plain = make_ids(1)[0]
            gallery.upsert([plain.upper()], vector, [{}])
            assert gallery.query(vector[0], 1)[0].id == plain
            gallery.delete(["{" + plain + "}"])
            assert gallery.count() == 0
            with pytest.raises(ValueError, match="not-an-id"):
                gallery.upsert(["not-an-id"], vector, [{}])

    def test_upsert_replaces_vector_and_whole_payload(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            ids, _, _ = fill(gallery, 6)
            new = unit(np.random.default_rng(5), 1)
            gallery.upsert([ids[2]], new, [{"camera": "9"}])
            point = gallery.retrieve([ids[2]], with_vectors=True)[0]
            assert point is not None
            assert point.payload == {"camera": "9", "crc": vector_crc(new[0])}
            assert np.array_equal(point.vector, new[0])
            assert gallery.count() == 6

    def test_the_last_of_a_repeated_id_wins(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            vectors = unit(np.random.default_rng(0), 2)
            one = make_ids(1)[0]
            gallery.upsert([one, one], vectors, [{"size": 1}, {"size": 2}])
            assert gallery.count() == 1
            assert gallery.query(vectors[1], 1)[0].payload["size"] == 2

    def test_delete(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            ids, vectors, _ = fill(gallery, 10)
            gallery.delete([ids[0], ids[0], ids[4], *make_ids(1, seed=77)])
            assert gallery.count() == 8
            assert gallery.retrieve([ids[0], ids[4]]) == [None, None]
            assert ids[0] not in {hit.id for hit in gallery.query(vectors[0], 10)}

    def test_query_agrees_with_brute_force(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            ids, vectors, payloads = fill(gallery, 200)
            queries = unit(np.random.default_rng(3), 5)
            for k in (1, 10, 200, 1000):
                batch = gallery.query_batch(queries, k)
                for query, hits in zip(queries, batch):
                    wanted = brute_force(query, ids, vectors, payloads, k)
                    assert [hit.id for hit in hits] == [i for i, _ in wanted]
                    np.testing.assert_allclose([hit.score for hit in hits], [s for _, s in wanted], atol=1e-5)
                    assert gallery.query(query, k, exact=True) == hits

    def test_a_point_finds_itself_with_payload_and_vector(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            ids, vectors, payloads = fill(gallery)
            hit = gallery.query(vectors[7], 1, with_vectors=True)[0]
            assert hit.id == ids[7]
            assert hit.score == pytest.approx(1.0, abs=1e-6)
            assert hit.score <= 1.0
            assert hit.payload == {**payloads[7], "crc": vector_crc(vectors[7])}
            assert np.array_equal(hit.vector, vectors[7])
            assert gallery.query(-vectors[7], 60)[-1].score >= -1.0

    @pytest.mark.parametrize("k", [1, 3, 8, 39, 40, 41, 100])
    def test_ties_are_broken_by_id_even_at_the_last_place(self, open_engine: OpenEngine, k: int):
        with open_engine(MODEL) as gallery:
            rng = np.random.default_rng(1)
            twin = unit(rng, 1)
            ids = make_ids(60, seed=4)
            others = unit(rng, 20) * 0.0 + np.roll(twin, 1)  # twenty more, all equal, farther away
            rows = np.concatenate([np.repeat(twin, 40, 0), others])
            gallery.upsert(ids, rows, [{"size": i, "camera": "1"} for i in range(60)])
            wanted = (sorted(ids[:40]) + sorted(ids[40:]))[:k]
            hits = gallery.query(twin[0], k, with_vectors=True)
            assert [hit.id for hit in hits] == wanted
            for hit in hits:  # payload and vector belong to the id
                assert hit.payload["size"] == ids.index(hit.id)
                assert np.array_equal(hit.vector, rows[ids.index(hit.id)])
            where = [Condition("size", "<", (40,))]
            assert [hit.id for hit in gallery.query(twin[0], k, where)] == sorted(ids[:40])[:k]

            assert gallery.query_ids(twin, k) == [[uuid.UUID(one).int for one in wanted]]

    def test_ids_alone_are_those_of_the_hits(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            fill(gallery, 200)
            queries = unit(np.random.default_rng(5), 70)
            where = [Condition("camera", "=", ("1",))]
            for conditions in ((), where):
                for k in (1, 10, 500):
                    hits = gallery.query_batch(queries, k, conditions)
                    wanted = [[uuid.UUID(hit.id).int for hit in answer] for answer in hits]
                    assert gallery.query_ids(queries, k, conditions) == wanted
            assert gallery.query_ids(np.empty((0, DIM), np.float32), 5) == []
            with pytest.raises(UsageError):
                gallery.query_ids(queries, 0)

    @pytest.mark.parametrize("k", [0, -1])
    def test_k_below_one_is_a_usage_error(self, open_engine: OpenEngine, k: int):
        with open_engine(MODEL) as gallery, pytest.raises(UsageError, match=str(k)):
            gallery.query(unit(np.random.default_rng(0), 1)[0], k)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, 2.0, 1e30])
    def test_vectors_that_are_not_unit_are_refused(self, open_engine: OpenEngine, bad: float):
        with open_engine(MODEL) as gallery:
            rows = unit(np.random.default_rng(0), 3)
            rows[1] = rows[1] * bad if np.isfinite(bad) else np.where(np.arange(DIM) == 3, bad, rows[1])
            with pytest.raises(ValueError, match="vector 1"):
                gallery.upsert(make_ids(3), rows, [{}] * 3)
            assert gallery.count() == 0  # nothing of the call is stored
            with pytest.raises(ValueError, match="query vector 1"):
                gallery.query_batch(rows, 1)

    def test_shapes_and_lengths_are_checked(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            rows = unit(np.random.default_rng(0), 2)
            with pytest.raises(ValueError, match="shape"):
                gallery.upsert(make_ids(2), rows[:, :-1], [{}, {}])
            with pytest.raises(ValueError, match="match"):
                gallery.upsert(make_ids(2), rows, [{}])
            with pytest.raises(ValueError, match="shape"):
                gallery.query_batch(rows[0], 1)
            with pytest.raises(ValueError, match="floating"):
                gallery.query_batch(np.eye(1, DIM, dtype=np.int64), 1)
            # float64 and non-contiguous rows are fine
            wide = np.asfortranarray(rows.astype(np.float64))
            gallery.upsert(make_ids(2), wide, [{}, {}])
            assert gallery.query(rows[1], 1)[0].id == make_ids(2)[1]

    @pytest.mark.parametrize("batch", [1, 7, 25, 1000])
    def test_scroll_is_ordered_and_complete(self, open_engine: OpenEngine, batch: int):
        with open_engine(MODEL) as gallery:
            ids, vectors, payloads = fill(gallery, 25)
            by_id = {i: (v, p) for i, v, p in zip(ids, vectors, payloads)}
            points = list(gallery.scroll(batch=batch, with_vectors=True))
            assert [p.id for p in points] == sorted(ids)
            for point in points:
                assert np.array_equal(point.vector, by_id[point.id][0])
            slim = list(gallery.scroll(batch=batch, fields=["camera", "sharpness", "no such field", 'q"']))
            for point in slim:
                full = by_id[point.id][1]
                assert point.vector is None
                assert point.payload == {k: full[k] for k in ("camera", "sharpness") if k in full}
            assert {len(p.payload) for p in gallery.scroll(fields=[])} == {0}

    def test_writing_during_a_scroll(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            ids, _, _ = fill(gallery, 30)
            seen = []
            for point in gallery.scroll(batch=4):
                seen.append(point.id)
                gallery.delete([point.id])
            assert seen == sorted(ids)
            assert gallery.count() == 0

    def test_crc_is_the_engines_own(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            rows = unit(np.random.default_rng(0), 1)
            gallery.upsert(make_ids(1), rows, [{"crc": 1}])
            point = gallery.retrieve(make_ids(1))[0]
            assert point is not None
            assert point.payload["crc"] == vector_crc(rows[0])

    def test_optimise_changes_no_answer(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            ids, vectors, payloads = fill(gallery, 100)
            gallery.delete(ids[:30])
            gallery.optimise()
            assert gallery.count() == 70
            query = unit(np.random.default_rng(2), 1)[0]
            wanted = brute_force(query, ids[30:], vectors[30:], payloads[30:], 10)
            assert [hit.id for hit in gallery.query(query, 10)] == [i for i, _ in wanted]

    def test_reading_mode_refuses_writes(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            ids, vectors, _ = fill(gallery, 3)
        with open_engine(MODEL, mode="r") as gallery:
            for write in (
                lambda: gallery.upsert(ids, vectors, [{}] * 3),
                lambda: gallery.delete(ids),
                gallery.optimise,
            ):
                with pytest.raises(StoreError, match="reading"):
                    write()
            assert gallery.count() == 3

    def test_notes_stay_with_the_generation(self, open_engine: OpenEngine):
        kept = {"calibration": [{"rates": [1.0, 0.25, 1e-7], "data": "drei Männer"}, None]}
        with open_engine(MODEL) as gallery:
            assert gallery.notes() == {}
            fill(gallery, 3)
            gallery.annotate({"other": 1})
            gallery.annotate(kept)
            assert gallery.notes() == kept
        with open_engine(MODEL, mode="r") as gallery:
            assert gallery.notes() == kept
            with pytest.raises(StoreError, match="reading"):
                gallery.annotate({})
            assert gallery.count() == 3
        with open_engine(MODEL) as gallery:
            gallery.annotate({})
            assert gallery.notes() == {}

    def test_close_twice_and_use_after_close(self, open_engine: OpenEngine):
        gallery = open_engine(MODEL)
        fill(gallery, 3)
        gallery.close()
        gallery.close()
        with pytest.raises(StoreError, match="closed"):
            gallery.count()

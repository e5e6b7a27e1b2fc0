"""The part of the gallery contract about changing payload fields in place."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from soundness import verify_vectors

from siamese_search.errors import StoreError
from siamese_search.gallery.filters import Condition

from .contract import DIM, MODEL, OpenEngine, fill, make_ids, unit

VALUES = {
    "identity": st.text(max_size=3),
    "a.b": st.integers(-3, 3),
    "a[0]": st.booleans(),
    "größe": st.sampled_from([0.5, -1.0, 2.0]),
}
CHANGE = st.fixed_dictionaries({}, optional={name: st.none() | values for name, values in VALUES.items()})
CHANGES = st.lists(st.tuples(st.integers(0, 5), CHANGE), max_size=6)


class PayloadContract:
    """Subclass it together with GalleryContract."""

    def test_fields_change_in_place_and_the_vector_stays(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            ids, vectors, payloads = fill(gallery)
            gallery.set_payload(
                ids[:3],
                [{"identity": "ann"}, {"identity": None, "weather": "rain"}, {"identity": "ann", "night": True}],
            )
            gallery.flush()
        with open_engine(MODEL, mode="r") as gallery:
            found = [point.payload for point in gallery.retrieve(ids) if point is not None]
            for payload in found:
                payload.pop("crc")
            assert found[0] == {**payloads[0], "identity": "ann"}
            assert found[1] == {k: v for k, v in payloads[1].items() if k != "identity"} | {"weather": "rain"}
            assert found[2] == {**payloads[2], "identity": "ann", "night": True}
            assert found[3:] == payloads[3:]
            assert verify_vectors(gallery).damaged == ()
            stored = gallery.retrieve(ids, with_vectors=True)
            assert all(p is not None and np.array_equal(p.vector, v) for p, v in zip(stored, vectors))
            # What was changed is found by filters, and what was taken away is not.
            assert gallery.count([Condition("identity", "=", ("ann",))]) == 2
            assert gallery.count([Condition("weather", "=", ("rain",))]) == 1
            assert gallery.count([Condition("identity", "present")]) == len(ids) - 1

    def test_ids_that_are_not_there_change_nothing(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            ids, _, _ = fill(gallery, 3)
            missing = make_ids(1, seed=9)[0]
            gallery.set_payload([missing, ids[0].upper()], [{"identity": "x"}, {"identity": "y"}])
            gallery.set_payload([], [])
            assert gallery.retrieve([missing]) == [None]
            assert gallery.count() == 3
            (first,) = gallery.retrieve([ids[0]])
            assert first is not None
            assert first.payload["identity"] == "y"

    def test_another_type_widens_the_field_for_all(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            ids, _, _ = fill(gallery, 4)
            gallery.set_payload([ids[0]], [{"size": 2.5}])
            assert gallery.fields()["size"] == "float"
            assert [p.payload["size"] for p in gallery.retrieve(ids) if p] == [2.5, 10.0, 20.0, 30.0]
            gallery.set_payload([ids[1]], [{"night": "yes"}])
            assert [p.payload.get("night") for p in gallery.retrieve(ids) if p][1:] == ["yes", "false", "false"]

    def test_what_cannot_be_stored_is_refused(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            ids, _, payloads = fill(gallery, 2)
            for bad in ({"crc": 1}, {"crc": None}, {"x": float("nan")}, {'a"b': 1}, {"x": 2**70}, {"x": []}):
                with pytest.raises(ValueError, match=r"crc|'x'|field"):
                    gallery.set_payload([ids[0]], [bad])
            with pytest.raises(ValueError, match="match"):
                gallery.set_payload(ids, [{}])
            with pytest.raises(ValueError, match="UUID"):
                gallery.set_payload(["1"], [{"x": 1}])
            assert {k: v for k, v in gallery.retrieve(ids)[0].payload.items() if k != "crc"} == payloads[0]
        with open_engine(MODEL, mode="r") as gallery, pytest.raises(StoreError):
            gallery.set_payload([ids[0]], [{"identity": "x"}])

    @settings(max_examples=8, suppress_health_check=list(HealthCheck))
    @given(CHANGES)
    def test_any_changes_are_those_of_a_dict(self, open_engine: OpenEngine, changes):
        ids = [str(uuid.UUID(int=i)) for i in range(6)]
        before = [{"identity": str(i), "a.b": i, "a": "kept"} for i in range(6)]
        with open_engine(MODEL) as gallery:
            gallery.upsert(ids, unit(np.random.default_rng(0), 6, DIM), before)
            gallery.set_payload([ids[i] for i, _ in changes], [payload for _, payload in changes])
            after = [dict(payload) for payload in before]
            for i, payload in changes:
                after[i] |= payload
            for point, payload in zip(gallery.retrieve(ids), after):
                assert point is not None
                point.payload.pop("crc")
                wanted = {name: value for name, value in payload.items() if value is not None}
                assert point.payload == wanted
                assert {k: type(v) for k, v in point.payload.items()} == {k: type(v) for k, v in wanted.items()}

"""The gallery contract, second part: payloads, their types, and filters. See contract.py."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from filter_oracle import matches_all

from siamese_search.errors import FilterError
from siamese_search.gallery.filters import Condition, bind, parse_where
from siamese_search.gallery.times import bind_to

from .contract import MODEL, OpenEngine, brute_force, fill, make_ids, unit


class FilterContract:
    """Subclass it in a test module that provides ``open_engine``."""

    @pytest.mark.parametrize(
        "expressions",
        [
            ["camera=1"],
            ["camera=0,2"],
            ["camera!=1"],
            ["size<100"],
            ["size>=100", "size<=300"],
            ["size=10,30,31"],
            ["size!=10,20"],
            ["sharpness>2.25"],
            ["sharpness=0.25,1.25"],
            ["sharpness!=0.25"],
            ["sharpness=*"],
            ["night=true"],
            ["night=true,false"],
            ["night!=true"],
            ["key=dir/3.jpg,dir/4.jpg"],
            ["identity=0003", "camera!=0", "night=*", "size>50"],
            ["camera=77"],
        ],
    )
    def test_filters(self, open_engine: OpenEngine, expressions: list[str]):
        with open_engine(MODEL) as gallery:
            ids, vectors, payloads = fill(gallery, 80)
            where = bind(parse_where(expressions), gallery.fields())
            wanted = {i for i, p in zip(ids, payloads) if matches_all(p, where)}
            assert gallery.count(where) == len(wanted)
            assert [p.id for p in gallery.scroll(where)] == sorted(wanted)
            query = unit(np.random.default_rng(8), 1)[0]
            hits = gallery.query(query, 12, where)
            assert [h.id for h in hits] == [i for i, _ in brute_force(query, ids, vectors, payloads, 12, where)]

    @pytest.mark.parametrize("edge", [2**53, -(2**53), 2**60, -(2**60), 123456789012345675, 2**63 - 1, -(2**63)])
    def test_whole_numbers_beyond_float64(self, open_engine: OpenEngine, edge: int):
        """Exact up to the ends of 64 bits, on either side of every border at which float64 rounds."""
        near = (0, 1, 2, 3, 511, 512, 513, 1024, 1025, 2048)
        track = sorted({min(2**63 - 1, max(-(2**63), edge + sign * n)) for n in near for sign in (1, -1)} | {0})
        payloads = [{"track": value} for value in track]
        with open_engine(MODEL) as gallery:
            ids = make_ids(len(track))
            gallery.upsert(ids, unit(np.random.default_rng(0), len(track)), payloads)
            for operator in ("=", "!=", "<", "<=", ">", ">="):
                for value in track:
                    where = [Condition("track", operator, (value,))]
                    wanted = sorted(i for i, p in zip(ids, payloads) if matches_all(p, where))
                    assert [p.id for p in gallery.scroll(where)] == wanted, (operator, value)

    def test_whole_numbers_that_no_float_is_become_text(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            payloads = [{"track": 2**60 + 1}, {"track": 0.5}]
            gallery.upsert(make_ids(2), unit(np.random.default_rng(0), 2), payloads)
            assert gallery.fields()["track"] == "str"
            assert gallery.facet("track") == {"0.5": 1, str(2**60 + 1): 1}

    @pytest.mark.parametrize(
        ("odd", "good", "kind"),
        [("n/a", [20, 21, 2**60 + 1], "int"), ("?", [0.5, 3, 2.0], "float"), ("-", [True, False, True], "bool")],
    )
    def test_text_becomes_numbers_again_once_the_odd_value_has_gone(
        self, open_engine: OpenEngine, odd: str, good: list, kind: str
    ):
        ids, rows = make_ids(4), unit(np.random.default_rng(0), 4)
        with open_engine(MODEL) as gallery:
            gallery.upsert(ids, rows, [{"age": value} for value in [*good, odd]])
            assert gallery.fields()["age"] == "str"
            assert not gallery.narrow("age", kind)
            gallery.upsert(ids[3:], rows[3:], [{"age": good[0]}])
            assert not gallery.narrow("age", "int" if kind != "int" else "bool")
            assert gallery.narrow("age", kind)
            assert gallery.fields()["age"] == kind
            assert [p.payload["age"] for p in gallery.retrieve(ids) if p] == [*good, good[0]]
            assert (
                gallery.count([Condition("age", "=", (type(gallery.retrieve(ids)[0].payload["age"])(good[0]),))]) >= 2
            )
        with open_engine(MODEL, mode="w") as gallery:
            assert gallery.fields()["age"] == kind
            gallery.upsert(ids[3:], rows[3:], [{"age": odd}])
            assert gallery.fields()["age"] == "str"

    def test_times_in_order(self, open_engine: OpenEngine, caplog: pytest.LogCaptureFixture):
        times = ["2024-05-01T10:00:00+02:00", "2024-05-01T08:30:00Z", "2024-05-01T07:59:59", "2024-05-02", "soon"]
        with open_engine(MODEL) as gallery:
            payloads = [{"time": time, "day": "13/04/2024"} for time in times]
            gallery.upsert(make_ids(5), unit(np.random.default_rng(0), 5), payloads)

            def found(expression: str) -> set[str]:
                where = bind_to(gallery, parse_where([expression]))
                return {str(p.payload["time"]) for p in gallery.scroll(where)}

            assert found("time<2024-05-01T08:00:00Z") == {times[2]}
            assert found("time<=2024-05-01T08:00:00Z") == {times[0], times[2]}
            assert found("time>2024-05-01T10:00+02:00") == {times[1], times[3]}
            assert found("time<=2024-05-01") == set(times[:3])  # all of the day
            assert found("time>2024-05-01") == {times[3]}
            assert found("time>=2025-01-01") == set()
            assert "1 of 6 values cannot be read as times ('soon')" in caplog.text
            assert "name no zone and are taken as UTC" in caplog.text
            with pytest.raises(FilterError, match=r"no times \('13/04/2024'\)"):
                found("day>=2024-04-01")
            with pytest.raises(FilterError, match="or a time such as"):
                found("time>=13/04/2024")

    def test_conditions_that_cannot_be_asked(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            fill(gallery, 10)
            query = unit(np.random.default_rng(0), 1)[0]
            unknown = [Condition("colour", "=", ("red",))]
            for ask in (
                lambda: gallery.query(query, 1, unknown),
                lambda: gallery.count(unknown),
                lambda: gallery.scroll(unknown),  # at once, not at the first next()
                lambda: gallery.facet("camera", unknown),
                lambda: gallery.facet("colour"),
            ):
                with pytest.raises(FilterError, match=r"colour.*camera.*identity"):
                    ask()
            with pytest.raises(FilterError, match="camera"):
                gallery.count([Condition("camera", "=", (1,))])  # stored as text: would match nothing
            with pytest.raises(FilterError, match="order"):
                gallery.count([Condition("camera", "<", ("2",))])

    def test_facet_counts_every_type(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            _, _, payloads = fill(gallery, 60)
            where = [Condition("size", "<", (400,))]
            for name in ("identity", "camera", "size", "sharpness", "night", "key"):
                for conditions in ([], where):
                    counts = Counter(p[name] for p in payloads if name in p and matches_all(p, conditions))
                    wanted = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
                    assert list(gallery.facet(name, conditions).items()) == wanted[:100]
                    assert list(gallery.facet(name, conditions, limit=3).items()) == wanted[:3]
                    assert {type(v) for v in gallery.facet(name)} == {type(v) for v in counts}

    def test_fields_and_their_types(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            fill(gallery, 10)
            wanted = {
                "identity": "str",
                "camera": "str",
                "size": "int",
                "key": "str",
                "sharpness": "float",
                "night": "bool",
                "crc": "int",
            }
            assert gallery.fields() == wanted
        with open_engine(MODEL, mode="r") as gallery:
            assert gallery.fields() == wanted
            assert gallery.info().fields == wanted

    def test_none_is_not_stored(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            vector = unit(np.random.default_rng(0), 1)
            gallery.upsert(make_ids(1), vector, [{"camera": None, "identity": "a"}])
            assert gallery.fields() == {"identity": "str", "crc": "int"}

    @pytest.mark.parametrize(
        ("first", "second", "kind", "stored"),
        [
            (3, 2.5, "float", [3.0, 2.5]),
            (2.5, 3, "float", [2.5, 3.0]),
            (3, "x", "str", ["3", "x"]),
            ("x", 3, "str", ["x", "3"]),
            (True, 3, "str", ["true", "3"]),
            (False, "x", "str", ["false", "x"]),
            (2.5, "x", "str", ["2.5", "x"]),
        ],
    )
    @pytest.mark.parametrize("together", [True, False])
    def test_mixed_types_widen_the_field(self, open_engine: OpenEngine, first, second, kind, stored, together):
        with open_engine(MODEL) as gallery:
            ids, rows = make_ids(2), unit(np.random.default_rng(0), 2)
            payloads = [{"field": first, "other": 1}, {"field": second}]
            if together:
                gallery.upsert(ids, rows, payloads)
            else:
                gallery.upsert(ids[:1], rows[:1], payloads[:1])
                gallery.upsert(ids[1:], rows[1:], payloads[1:])
            assert gallery.fields()["field"] == kind
            got = [p.payload["field"] for p in gallery.retrieve(ids) if p is not None]
            assert got == stored
            assert {type(v).__name__ for v in got} == {kind}
            for one, value in zip(ids, stored):
                assert [p.id for p in gallery.scroll([Condition("field", "=", (value,))])] == [one]
            assert gallery.facet("field") == dict.fromkeys(stored, 1)
            assert [p.payload.get("other") for p in gallery.retrieve(ids) if p is not None] == [1, None]

    @pytest.mark.parametrize("value", [[1], {"a": 1}, b"x", float("nan"), float("inf"), 2**63, "\udcff", object(), 1j])
    def test_payload_values_that_cannot_be_stored(self, open_engine: OpenEngine, value):
        with open_engine(MODEL) as gallery:
            with pytest.raises(ValueError, match=r"row 1.*field"):
                gallery.upsert(make_ids(2), unit(np.random.default_rng(0), 2), [{}, {"field": value}])
            assert gallery.count() == 0
            assert "field" not in gallery.fields()

    def test_numpy_scalars_and_extreme_values(self, open_engine: OpenEngine):
        with open_engine(MODEL) as gallery:
            payload = {
                "a": np.int64(5),
                "b": np.float32(0.5),
                "c": np.bool_(True),
                "d": np.str_("text"),
                "big": 2**63 - 1,
                "small": -(2**63),
                "tiny": 5e-324,
                "empty": "",
                "unicode": "Zoë 北 \U0001f600\x00\n",
            }
            gallery.upsert(make_ids(1), unit(np.random.default_rng(0), 1), [payload])
            point = gallery.retrieve(make_ids(1))[0]
            assert point is not None
            del point.payload["crc"]
            assert point.payload == payload
            assert {type(v) for v in point.payload.values()} == {int, float, bool, str}
            assert gallery.count([Condition("big", "=", (2**63 - 1,))]) == 1
            assert gallery.count([Condition("big", "=", (2**63 - 2,))]) == 0
            assert gallery.count([Condition("empty", "=", ("",))]) == 1
            assert gallery.count([Condition("empty", "present")]) == 1
            assert gallery.count([Condition("empty", "absent")]) == 0  # empty text is there
            assert gallery.count([Condition("unicode", "=", (payload["unicode"],))]) == 1

    @pytest.mark.parametrize("name", ["a.b", "c[0]", "[]", "two words", "Größe", "a-b", "x:y", "1", "$"])
    def test_field_names_mean_themselves(self, open_engine: OpenEngine, name: str):
        with open_engine(MODEL) as gallery:
            ids = make_ids(2)
            gallery.upsert(ids, unit(np.random.default_rng(0), 2), [{name: "x"}, {"a": "x"}])
            assert gallery.count([Condition(name, "=", ("x",))]) == 1
            assert gallery.facet(name) == {"x": 1}
            assert [p.payload for p in gallery.scroll([Condition(name, "present")], fields=[name])] == [{name: "x"}]
            assert [p.payload for p in gallery.scroll([Condition(name, "absent")], fields=["a"])] == [{"a": "x"}]

    @pytest.mark.parametrize("name", ["", 'a"b', "a\\b", "a\nb"])
    def test_field_names_that_cannot_be(self, open_engine: OpenEngine, name: str):
        with open_engine(MODEL) as gallery, pytest.raises(ValueError, match="payload field"):
            gallery.upsert(make_ids(1), unit(np.random.default_rng(0), 1), [{name: 1}])

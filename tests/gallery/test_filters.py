"""Filters: the grammar, the binding of types, and the engine against the reference semantics."""

from __future__ import annotations

import string

import numpy as np
import pytest
from filter_oracle import matches, matches_all
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siamese_search.errors import FilterError
from siamese_search.gallery import open_gallery
from siamese_search.gallery.contract import ModelRef
from siamese_search.gallery.filters import Condition, RawCondition, bind, check, parse_where

FIELDS = {"camera": "str", "size": "int", "sharpness": "float", "night": "bool"}


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("camera=2", RawCondition("camera", "=", ("2",))),
        ("camera==2", RawCondition("camera", "=", ("2",))),
        ("camera != 2", RawCondition("camera", "!=", ("2",))),
        ("size<5", RawCondition("size", "<", ("5",))),
        ("size<=5", RawCondition("size", "<=", ("5",))),
        ("size>5", RawCondition("size", ">", ("5",))),
        ("size >= -5", RawCondition("size", ">=", ("-5",))),
        ("camera=1,3", RawCondition("camera", "=", ("1", "3"))),
        (" camera = 1 , 3 ", RawCondition("camera", "=", ("1", "3"))),
        ("camera=*", RawCondition("camera", "present")),
        ("camera = * ", RawCondition("camera", "present")),
        ("camera!=*", RawCondition("camera", "absent")),
        ("camera != * ", RawCondition("camera", "absent")),
        ('camera!="*"', RawCondition("camera", "!=", ("*",))),
        ('camera="*"', RawCondition("camera", "=", ("*",))),
        ("camera=\\*", RawCondition("camera", "=", ("*",))),
        ("camera=a*", RawCondition("camera", "=", ("a*",))),
        ('note="a, b",c', RawCondition("note", "=", ("a, b", "c"))),
        ("note=a\\, b,c", RawCondition("note", "=", ("a, b", "c"))),
        ('note=""', RawCondition("note", "=", ("",))),
        ('note=" a "', RawCondition("note", "=", (" a ",))),
        ("note=a\\ ", RawCondition("note", "=", ("a ",))),
        ('note="say \\"hi\\" \\\\"', RawCondition("note", "=", ('say "hi" \\',))),
        ("note=C:\\\\temp", RawCondition("note", "=", ("C:\\temp",))),
        ('note=5" wide', RawCondition("note", "=", ('5" wide',))),
        ("note=a=b", RawCondition("note", "=", ("a=b",))),
        ("note=trailing\\", RawCondition("note", "=", ("trailing\\",))),
        ('"a=b"=c', RawCondition("a=b", "=", ("c",))),
        ("two words=x y", RawCondition("two words", "=", ("x y",))),
    ],
)
def test_grammar(expression: str, wanted: RawCondition):
    assert parse_where([expression]) == [wanted]


@pytest.mark.parametrize(
    "expression",
    ["", "camera", "=2", "camera=", "camera=1,", "camera=,1", "camera!=*,1", "size<*", "camera=1,*",
     "camera!=1,*", "size<1,2",
     'camera="2', 'camera="2"3', '"camera=2', '"camera" 2', "camera~2", " = "],
)  # fmt: skip
def test_malformed_expressions_are_quoted_back(expression: str):
    with pytest.raises(FilterError, match="FIELD=VALUE") as caught:
        parse_where(["size>1", expression])
    assert repr(expression) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "expression",
    ["identity=a,camera=1", "identity=a, size >= 2", "identity!=a AND camera=1", "camera=1 or camera=2",
     "identity=a && camera!=1", "size<5 and size>2"],
)  # fmt: skip
def test_two_conditions_in_one_are_told_apart(expression: str):
    """A comma means any of: ``identity=a,camera=1`` would be every image of a."""
    with pytest.raises(FilterError, match=r"each condition has a --where of its own"):
        parse_where([expression])
    quoted = expression.replace("a,camera=1", 'a,"camera=1"').replace("AND", "&")
    if quoted != expression:
        assert len(parse_where([quoted])) == 1


def test_a_huge_expression_is_cut_in_the_message():
    with pytest.raises(FilterError) as caught:
        parse_where(["x" * 100_000])
    assert len(str(caught.value)) < 300


names = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1)
texts = st.text(st.characters(blacklist_categories=("Cs",)))


@given(
    name=names,
    operator=st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "present", "absent"]),
    values=st.lists(texts, min_size=1, max_size=4),
)
def test_any_condition_survives_printing_and_parsing(name, operator, values):
    if operator in ("present", "absent"):
        values = []
    elif operator not in ("=", "!="):
        values = values[:1]
    raw = RawCondition(name, operator, tuple(values))
    assert parse_where([str(raw)]) == [raw]


@given(st.text(alphabet=string.ascii_letters + ' "\\,*=!<>'))
def test_parsing_never_fails_in_another_way(expression):
    try:
        raw = parse_where([expression])
    except FilterError:
        return
    assert parse_where([str(raw[0])]) == raw


def one(expression: str) -> Condition:
    return bind(parse_where([expression]), FIELDS)[0]


def test_values_get_the_stored_type():
    assert one("camera=2,03") == Condition("camera", "=", ("2", "03"))
    assert one("size=2,-3,+4") == Condition("size", "=", (2, -3, 4))
    assert one("sharpness>=2") == Condition("sharpness", ">=", (2.0,))
    assert type(one("sharpness=2").values[0]) is float
    assert one("sharpness<1e-3") == Condition("sharpness", "<", (0.001,))
    assert one("night=True,no,1,0") == Condition("night", "=", (True, False, True, False))
    assert one("night=*") == Condition("night", "present")
    assert one("size!=*") == Condition("size", "absent")


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("size=two", "whole"),
        ("size=2.0", "whole"),
        ("size=1_000", "whole"),
        ("size=٣", "whole"),
        ("size=" + "9" * 30, "64 bits"),
        ("size=" + "9" * 100_000, "whole"),
        ("sharpness=much", "number"),
        ("sharpness<nan", "finite"),
        ("sharpness<inf", "finite"),
        ("night=maybe", "true or false"),
        ("night<true", "cannot order"),
        ("camera<2", "cannot order"),
    ],
)
def test_values_of_the_wrong_type(expression: str, words: str):
    with pytest.raises(FilterError, match=words) as caught:
        one(expression)
    assert repr(expression[:4])[1:-1] in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_unknown_field_lists_the_known_and_the_closest():
    with pytest.raises(FilterError, match=r"'cam'.*did you mean 'camera'.*camera, night, sharpness, size"):
        one("cam=2")
    with pytest.raises(FilterError, match="empty"):
        bind(parse_where(["cam=2"]), {})


def test_check_refuses_impossible_conditions():
    for bad in (
        Condition("camera", "="),
        Condition("size", "<", (1, 2)),
        Condition("size", "="  , (True,)),
        Condition("night", "=", (1,)),
        Condition("size", "=", (1.0,)),
        Condition("camera", "present", ("2",)),
        Condition("camera", "absent", ("2",)),
    ):  # fmt: skip
        with pytest.raises(FilterError):
            check(bad, FIELDS)


def test_reference_semantics():
    payload = {"camera": "2", "size": 5, "night": True, "none": None}
    for condition, wanted in [
        (Condition("camera", "=", ("1", "2")), True),
        (Condition("camera", "!=", ("1", "2")), False),
        (Condition("camera", "!=", ("1",)), True),
        (Condition("missing", "!=", ("1",)), True),
        (Condition("none", "!=", ("1",)), True),
        (Condition("missing", "=", ("1",)), False),
        (Condition("missing", "<", (1,)), False),
        (Condition("none", "present"), False),
        (Condition("missing", "present"), False),
        (Condition("night", "present"), True),
        (Condition("none", "absent"), True),
        (Condition("missing", "absent"), True),
        (Condition("night", "absent"), False),
        (Condition("size", "<", (5,)), False),
        (Condition("size", "<=", (5.0,)), True),
        (Condition("size", ">", (4,)), True),
        (Condition("size", ">=", (6,)), False),
        (Condition("size", "=", (5.0,)), True),
        (Condition("size", "=", ("5",)), False),
        (Condition("night", "=", (1,)), False),
        (Condition("night", "=", (True,)), True),
    ]:
        assert matches(payload, condition) is wanted, condition


texts_few = st.sampled_from(["", "1", "2", "03", "a,b", "*", "true", "Zoë"])
ints = st.one_of(st.integers(-3, 3), st.sampled_from([2**53, -(2**53), 10**9]))
floats = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, 1.0, -1e300, 1e-300]), st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = {"camera": texts_few, "size": ints, "sharpness": floats, "night": st.booleans()}
payloads = st.fixed_dictionaries({}, optional=VALUES)


@st.composite
def conditions(draw):
    name = draw(st.sampled_from(sorted(FIELDS)))
    orderings = ["<", "<=", ">", ">="] if FIELDS[name] in ("int", "float") else []
    operator = draw(st.sampled_from(["=", "!=", "present", "absent", *orderings]))
    if operator in ("present", "absent"):
        return Condition(name, operator)
    most = 1 if operator in orderings else 3
    return Condition(name, operator, tuple(draw(st.lists(VALUES[name], min_size=1, max_size=most))))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    stored=st.lists(payloads, min_size=1, max_size=12),
    asked=st.lists(st.lists(conditions(), max_size=3), min_size=1, max_size=8),
)
def test_the_engine_answers_as_the_reference(shared_gallery, stored, asked):
    gallery = shared_gallery
    gallery.delete([point.id for point in gallery.scroll(fields=[])])
    ids = [f"00000000-0000-0000-0000-{i:012d}" for i in range(len(stored))]
    vectors = np.tile(np.eye(1, 4, dtype=np.float32), (len(ids), 1))
    gallery.upsert(ids, vectors, stored)
    for where in asked:
        wanted = [i for i, payload in zip(ids, stored) if matches_all(payload, where)]
        assert [p.id for p in gallery.scroll(where)] == wanted
        assert gallery.count(where) == len(wanted)
        assert [hit.id for hit in gallery.query(vectors[0], len(ids), where)] == wanted


@pytest.fixture(scope="module")
def shared_gallery(tmp_path_factory):
    """A gallery that knows every field, so that any condition may be asked whatever is stored."""
    model = ModelRef("f" * 64, 4)
    with open_gallery(tmp_path_factory.mktemp("filters") / "store", model=model, create=True, mode="w") as gallery:
        every = {"camera": "x", "size": 1, "sharpness": 0.5, "night": True}
        gallery.upsert(["00000000-0000-0000-0000-ffffffffffff"], np.eye(1, 4, dtype=np.float32), [every])
        yield gallery


def test_text_is_found_in_any_form_of_unicode():
    fields = {"identity": "str", "Gr\u00f6\u00dfe": "int"}
    (who,) = bind(parse_where(["identity=Zoe\u0308"]), fields)
    assert set(who.values) == {"Zoe\u0308", "Zo\u00eb"}
    (size,) = bind(parse_where(["Gro\u0308\u00dfe>=3"]), fields)
    assert size == Condition("Gr\u00f6\u00dfe", ">=", (3,))
    assert bind(parse_where(["identity=bob"]), fields) == [Condition("identity", "=", ("bob",))]

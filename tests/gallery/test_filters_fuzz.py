"""Any ``--where`` at all: conditions of the right types, or one line that says why not."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from siamese_search.errors import FilterError
from siamese_search.gallery.filters import bind, check, parse_where

FIELDS = {"camera": "str", "size": "int", "sharpness": "float", "night": "bool", "a=b": "str"}
#: Expressions with nothing where something belongs, with quotes that do not close, and with numbers beyond all bounds.
CORPUS = [
    "", " ", "=", "camera", "camera=", "=1", "camera=,", "camera=1,", "camera=*", "camera=*,1", "camera!=*", "size<*",
    'camera="', 'camera="a" b', '"camera', '"camera"=1', '""=1', "camera=\\", "size=9" * 40, "size=" + "9" * 5000,
    "size<1,2", "size>>1", "size=<1", "size=1e3", "size=0x10", "size=-", "sharpness=nan", "sharpness<inf",
    "sharpness=1e999", "night<1", "night=maybe", "night=TRUE", "a=b=c", '"a=b"=c', "camera=\0", "camera=\n",
    "camera=\ud800", "unknown=1", "camera=" + "a," * 3000 + "a", "size=١٢", "size=1_000", "sharpness= 1 ",
]  # fmt: skip
TOKENS = [
    "camera",
    "size",
    "sharpness",
    "night",
    "=",
    "!=",
    "<",
    "<=",
    ">",
    "*",
    ",",
    '"',
    "\\",
    " ",
    "1",
    "-1.5",
    "true",
]


def reads_or_says_why(expression):
    said = ""
    try:
        for one in bind(parse_where([expression]), FIELDS):
            assert check(one, FIELDS) == one
            assert one.field in FIELDS
    except FilterError as error:
        said = str(error)
        assert len(said) < 2000
    assert said.isprintable(), said


def test_the_corpus():
    for expression in CORPUS:
        reads_or_says_why(expression)


@settings(max_examples=200)
@given(st.one_of(st.lists(st.sampled_from(TOKENS), max_size=8).map("".join), st.text(max_size=20)))
def test_any_expression_is_a_condition_or_one_line(expression):
    reads_or_says_why(expression)

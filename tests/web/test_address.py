"""A search's address says all of it, whatever it is; and what strangers write there does no harm."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="the [web] extra is not installed")

from siamese_search.errors import UsageError
from siamese_search.gallery.filters import RawCondition, parse_where
from siamese_search.web.pages.address import KS, Asked
from siamese_search.web.views import seen_other

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
#: What a filter can hold: a field and a value are trimmed, so they have no spaces around them here.
VALUE = TEXT.filter(lambda text: text == text.strip())
LISTS = st.lists(TEXT, max_size=3).map(tuple)
ASKED = st.builds(
    Asked,
    kept=LISTS,
    like=LISTS,
    away=LISTS,
    away_kept=LISTS,
    where=LISTS,
    k=st.integers(1, KS[-1]),
    group=st.booleans(),
    rerank=st.booleans(),
)


@given(ASKED)
def test_an_address_says_everything(asked):
    assert Asked.read(urlsplit(asked.url()).query) == asked
    assert Asked.read(asked.text) == asked


@given(st.text(max_size=60))
def test_whatever_a_stranger_writes_is_some_search(text):
    found = Asked.read(text)
    assert 1 <= found.k <= KS[-1]
    assert Asked.read(found.text) == found


def test_far_too_much_is_refused():
    with pytest.raises(UsageError, match="at most 200"):
        Asked.read("&".join(["like=x"] * 201))


@given(ASKED, VALUE, VALUE)
def test_a_value_chosen_twice_is_not_chosen(asked, field, value):
    asked = Asked(where=())
    once = Asked.read(urlsplit(asked.toggled(field, value)).query)
    assert once.chosen(field) == (value,)
    assert Asked.read(urlsplit(once.toggled(field, value)).query) == asked


def test_several_values_of_a_field_are_any_of_them_and_other_filters_stay():
    asked = Asked(where=("camera=1", "frame>=100"))
    both = Asked.read(urlsplit(asked.toggled("camera", "2")).query)
    assert set(both.where) == {"camera=1,2", "frame>=100"}
    assert both.where_without("camera") == ("frame>=100",)


@given(VALUE, VALUE, VALUE)
def test_a_range_is_two_filters_and_goes_when_it_is_emptied(field, low, high):
    asked = Asked().ranged(field, low, high)
    assert parse_where(asked.where) == [RawCondition(field, ">=", (low,)), RawCondition(field, "<=", (high,))]
    assert asked.bounds(field) == (low, high)
    assert asked.ranged(field, " ", "").where == ()


def test_what_is_no_filter_stays_for_the_search_to_refuse():
    asked = Asked(where=("nonsense", "camera=1"))
    assert asked.conditions() == parse_where(["camera=1"])
    assert asked.where_without("camera") == ("nonsense",)


@pytest.mark.parametrize(
    "address", ["https://example.org/", "//example.org/", "/\\example.org", "example.org", "", "javascript:1"]
)
def test_a_form_leads_nowhere_else(address):
    assert seen_other(address).headers["location"] == "/"


def test_a_form_leads_back():
    assert seen_other("/identity?name=a%20b#x").headers["location"] == "/identity?name=a%20b#x"

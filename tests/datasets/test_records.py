"""Keys and point ids: lossless for any bytes, and the same on every machine."""

from __future__ import annotations

import os
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamese_search.datasets.records import _POINT_NAMESPACE, decode_key, encode_key, point_id

# What a POSIX path can hold: any byte but NUL.
raw_names = st.binary(min_size=1).map(lambda raw: raw.replace(b"\x00", b"\x01"))
text_names = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1)


@given(raw_names)
def test_any_bytes_survive(raw):
    key = encode_key(os.fsdecode(raw))
    assert key.encode("utf-8").decode("utf-8") == key
    assert os.fsencode(decode_key(key)) == raw


@given(raw_names)
def test_keys_are_printable(raw):
    assert encode_key(os.fsdecode(raw)).isprintable()


@given(text_names)
def test_any_text_survives(name):
    assert decode_key(encode_key(name)) == name


@given(raw_names, raw_names)
def test_different_names_have_different_keys(a, b):
    assert (encode_key(os.fsdecode(a)) == encode_key(os.fsdecode(b))) == (a == b)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("s1/été 1.jpg", "s1/été 1.jpg"),
        ("100%.jpg", "100%25.jpg"),
        ("a\nb.jpg", "a%0Ab.jpg"),
        ("caf\udce9.jpg", "caf%E9.jpg"),
        ("caf%E9.jpg", "caf%25E9.jpg"),  # not the same file as the one above
    ],
)
def test_how_keys_look(name, key):
    assert encode_key(name) == key
    assert decode_key(key) == name


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_decoding_never_fails(key):
    decode_key(key)


def test_point_ids_are_stable():
    # Golden: a change here orphans every existing gallery.
    assert point_id("/data", "a/b.jpg") == "1028b9e9-d913-588b-aed2-a50f06c8de3d"
    assert uuid.UUID(point_id("", "")).version == 5
    for number in range(64):
        wanted = uuid.uuid5(_POINT_NAMESPACE, f"quelle ü\x00{number}")
        assert point_id("quelle ü", str(number)) == str(wanted)


@given(st.text(), st.text(), st.text(), st.text())
def test_point_ids_follow_source_and_key(a, b, c, d):
    if "\x00" in a + c:  # a source is a path or a name: neither holds NUL
        return
    for text in (a, b, c, d):
        if any("\ud800" <= ch <= "\udfff" for ch in text):
            return
    assert (point_id(a, b) == point_id(c, d)) == ((a, b) == (c, d))

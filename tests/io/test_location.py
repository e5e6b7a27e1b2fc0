import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamese_search.io.location import RemotePath, located, protocol_of, redacted, redacted_text


@pytest.mark.parametrize(
    ("location", "protocol"),
    [
        ("s3://bucket/a", "s3"),
        ("GS://bucket", "gs"),
        ("https://host/a.jpg", "https"),
        ("photos/", None),
        ("/a/s3://b", None),
        ("c:/photos", None),
        ("", None),
    ],
)
def test_a_url_is_told_from_a_directory(location, protocol):
    assert protocol_of(location) == protocol


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a%20b.jpg?X-Amz-Signature=secret#x", "https://host/a%20b.jpg"),
        ("https://me:secret@host:8443/a.jpg", "https://host:8443/a.jpg"),
        ("https://me:se@cret@host/a.jpg", "https://host/a.jpg"),
        ("s3://bucket/what?is#this.jpg", "s3://bucket/what?is#this.jpg"),
        ("https://[broken/?secret", "https://[broken/"),
    ],
)
def test_credentials_are_never_part_of_what_is_shown(url, shown):
    assert redacted(url) == shown
    path = RemotePath.of(url)
    assert str(path) == os.fspath(path) == shown
    assert "secret" not in repr(path)
    assert path.address == url
    assert redacted_text(f"GET {url} failed") == f"GET {shown} failed"


@given(st.text(), st.text(st.characters(exclude_characters="/")))
def test_no_query_and_no_password_survives_whatever_they_are(query, password):
    for url in (f"https://host/a.jpg?{query}", f"https://me:{password}@host/a.jpg"):
        shown = redacted(url)
        assert "?" not in shown
        assert "@" not in shown.partition("://")[2].partition("/")[0]


def test_it_stands_for_a_path_and_travels():
    path = located("s3://bucket/a/0001_c1.tar.jpg")
    assert isinstance(path, RemotePath)
    assert (path.name, path.stem, path.suffix) == ("0001_c1.tar.jpg", "0001_c1.tar", ".jpg")
    assert pickle.loads(pickle.dumps(path)) == path
    assert located("photos/a.jpg") == Path("photos/a.jpg")
    assert located("ftp://host/a.jpg") == Path("ftp://host/a.jpg")  # not ours to fetch

"""Counts and sizes as people write them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamese_search.errors import UsageError
from siamese_search.planning.figures import LARGEST, read_bytes, read_count


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 10**9),
        ("1E9", 10**9),
        ("100M", 100_000_000),
        ("1_000_000", 1_000_000),
        ("1,000,000", 1_000_000),
        ("1.5M", 1_500_000),
        ("2k", 2000),
        ("1B", 10**9),
        ("1G", 10**9),
        (" 17 ", 17),
        ("2.5e6", 2_500_000),
        ("1e15", LARGEST),
    ],
)
def test_counts(text: str, value: int) -> None:
    assert read_count(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-5",
        "1.5",
        "1e-3",
        "many",
        "1e16",
        "1e999",
        "nan",
        "inf",
        "1,5M",
        "1,00",
        "1M2",
        "0x10",
        "１０",
        "1..2",
    ],
)
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(UsageError, match="is not a count"):
        read_count(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("128GB", 128 * 10**9),
        ("128 GB", 128 * 10**9),
        ("64GiB", 64 * 2**30),
        ("64gib", 64 * 2**30),
        ("512M", 512 * 10**6),
        ("1.5T", 1_500_000_000_000),
        ("200", 200),
        ("200B", 200),
        ("1e3", 1000),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert read_bytes(text) == value


@pytest.mark.parametrize("text", ["", "0", "0.2", "-1GB", "GB", "12 parsecs", "1e300", "iB", "5iB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        read_bytes(text)


@given(st.integers(min_value=1, max_value=LARGEST))
def test_every_count_is_read_back_however_it_is_written(value: int) -> None:
    assert read_count(str(value)) == read_count(f"{value:_}") == read_count(f"{value:,}") == value


@given(st.text(max_size=30))
def test_any_text_is_a_count_or_a_usage_error(text: str) -> None:
    for read in (read_count, read_bytes):
        with suppress(UsageError):
            assert read(text) >= 1

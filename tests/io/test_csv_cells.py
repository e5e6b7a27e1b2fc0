"""Cells that come back as they were, and that no spreadsheet runs."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamese_search.io.csv_cells import NONE, CsvWriter, csv_cell, read_cell, write_cell

#: Text made of what is special here, so that it meets in every combination.
SPECIAL = st.text(st.sampled_from(list("'=+-@<>none \t\r\nä1,\"")), max_size=8)


@given(st.text(max_size=20) | SPECIAL | st.just(NONE) | st.just(f"'{NONE}"))
def test_every_text_comes_back_through_a_csv_file(text):
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerow([write_cell(text), "end"])
    buffer.seek(0)
    cell, _ = next(csv.reader(buffer))
    assert read_cell(cell) == text
    assert cell not in ("", NONE)
    assert cell[:1] not in tuple("=+@\t\r")


@given(st.lists(st.lists(st.text(max_size=8) | SPECIAL, min_size=1, max_size=3), max_size=4))
def test_rows_come_back_as_they_were_whatever_breaks_a_line_in_them(rows):
    buffer = io.StringIO(newline="")
    writer = CsvWriter(buffer)
    for row in rows:
        writer.writerow(row)
    assert list(csv.reader(io.StringIO(buffer.getvalue(), newline=""))) == rows
    assert buffer.getvalue().endswith("\n") or not rows


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, ""), (True, "true"), (-1, "-1"), (0.1, "0.1"), ("-1", "-1"), ("-1_c1.jpg", "'-1_c1.jpg"),
        ("=1+1", "'=1+1"), ("'tis", "'tis"), ("", "'"), (NONE, f"'{NONE}"), (" x", "' x"),
    ],
)  # fmt: skip
def test_what_is_written(value, cell):
    assert write_cell(value) == cell


def test_absent_values_and_cells_of_people():
    assert write_cell(None, none=NONE) == NONE
    assert read_cell("  ann ") == "ann"
    assert read_cell("") == ""
    assert read_cell(csv_cell("-1_c1.jpg")) == "-1_c1.jpg"

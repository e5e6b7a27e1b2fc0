"""Any CSV file at all: records and all of its rows, or one line that says why not."""

from __future__ import annotations

import csv
import io

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from siamese_search.datasets.layouts import survey
from siamese_search.datasets.table import read_header
from siamese_search.errors import DataError
from siamese_search.io.csv_cells import CsvWriter, read_cell, write_cell

#: Files that have gone wrong somewhere: empty, binary, of other encodings, with quotes that do not close, line ends of
#: all kinds, headers without names, with one twice, and with more columns or cells than anybody means.
CORPUS = [
    b"", b"\n", b"\xef\xbb\xbf", b"\xef\xbb\xbfpath\na.jpg\n", b"\xff\xfep\x00a\x00", b"\xfe\xff\x00p",
    b"\x00", b"path\n\x00\n", b"path\n\xff\xfe.jpg\n", b'path,identity\n"a.jpg,1\n', b"path,identity\na.jpg\n",
    b"path,identity\na.jpg,1,2\n", b"path\r\na.jpg\r\n", b"path\ra.jpg\r", b"path\n\ra.jpg\n",
    b"path,path\na,b\n", b",\n,\n", b"path,\na.jpg,\n", b"path;identity\na,b.jpg;1\n",
    b"path\tidentity\na.jpg\t1\n", b"PATH|Identity\na.jpg|x\n", b"path\n../a.jpg\n", b"path\n/etc/passwd\n",
    b"path\n.\n", b"path\n" + b"a" * 40_000 + b"\n", b"," * 300 + b"\n", b"identity,camera\n1,2\n",
    b"path,size,mtime\na.jpg,1e999,nan\n", b"path,n\na.jpg,99999999999999999999\n",
    b"anchor,positive,negative\na,b,c\n", b"anchor,positive,negative\na,,c\n",
    b"path,identity,camera\na.jpg,'=1+1,-0\n", b'path\n"a""b.jpg"\n', b'"path"\n"a\nb.jpg"\n',
    b"sep=;\npath;identity\na.jpg;1\n", b"path,identity\na.jpg,\xe9\n",
]  # fmt: skip

TOKENS = [b"path", b"identity", b"camera", b"anchor", b"a.jpg", b"b/c.png", b"..", b"/", b"1", b"-1.5", b"nan", b"true"]
TOKENS += [
    b",",
    b";",
    b"\t",
    b"|",
    b'"',
    b'""',
    b"'",
    b"=",
    b"\n",
    b"\r",
    b"\r\n",
    b" ",
    b"\0",
    b"\xff",
    b"\xe2\x80\xa8",
]
PIECES = st.lists(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=4)), max_size=40).map(b"".join)


def reads_or_says_why(path, data):
    path.write_bytes(data)
    said, root = [], str(path.parent.resolve())
    try:
        table = read_header(path)
        assert all(len(row) == len(table.columns) for _, row in table.rows())
    except DataError as error:
        said.append(str(error))
    try:
        records = list(survey(path).stream())
        assert all(str(record.path.parent.resolve()).startswith(root) for record in records)
    except DataError as error:
        said.append(str(error))
    assert all(line.isprintable() for line in said), said


def test_the_corpus(tmp_path):
    for data in CORPUS:
        reads_or_says_why(tmp_path / "data.csv", data)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(PIECES, st.tuples(st.sampled_from(CORPUS), PIECES).map(b"".join), st.binary(max_size=80)))
def test_any_file_is_a_table_or_one_line(tmp_path, data):
    reads_or_says_why(tmp_path / "data.csv", data)


CELLS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    st.sampled_from(["=1+1", "-1", "'", "''", "<none>", " a ", "a\rb", "a\r\nb", "a\nb", '"', ",", "\t", "'=x"]),
)


@settings(max_examples=100)
@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=6))
@example([["\r", "a\r"]])
def test_what_we_write_comes_back_to_the_letter(rows):
    stream = io.StringIO(newline="")
    writer = CsvWriter(stream)
    for row in rows:
        writer.writerow(map(write_cell, row))
    read = [[read_cell(cell) for cell in row] for row in csv.reader(io.StringIO(stream.getvalue(), newline=""))]
    assert read == rows

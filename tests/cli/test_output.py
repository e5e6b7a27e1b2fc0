"""What reaches the terminal, the pipe and the spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from siamese_search.cli import output
from siamese_search.cli.search import _columns
from siamese_search.retrieval.results import QueryResult, SearchResult


def test_json_has_no_nan_and_takes_numpy_and_paths(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_json(
        {"a": float("nan"), "b": [np.float32(0.5), np.int64(3)], "c": Path("x/y"), "d": (True, None), "é": "ü"}
    )
    text = capsys.readouterr().out
    assert json.loads(text) == {"a": None, "b": [0.5, 3], "c": "x/y", "d": [True, None], "é": "ü"}
    assert "ü" in text


def test_json_survives_undecodable_names() -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    assert json.loads(output.to_json({"path": name})) == {"path": name}


def test_json_lines_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_json({"a": "x\ny"}, lines=True)
    assert capsys.readouterr().out == '{"a": "x\\ny"}\n'


def test_unknown_types_have_no_place_in_json() -> None:
    with pytest.raises(TypeError, match="object"):
        output.to_json(object())


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+2", "'=1+2"),
        ("@cmd", "'@cmd"),
        ("+1-555", "'+1-555"),
        ("-x", "'-x"),
        ("-1", "-1"),
        (-0.5, "-0.5"),
        (None, ""),
        (True, "True"),
        ("plain", "plain"),
        ("\t=1", "\\t=1"),
    ],
)
def test_csv_cells_hold_no_formulas(value: object, cell: str) -> None:
    assert output.csv_cell(value) == cell


@pytest.mark.parametrize("values", [[], [1], [{"a": ["x\ny", {}]}, [], {"b": "\udcff"}]])
def test_a_list_by_elements_is_the_list(capsys: pytest.CaptureFixture[str], values: list[object]) -> None:
    output.write_json_list(iter(values))
    text = capsys.readouterr().out
    assert json.loads(text) == values
    assert text == json.dumps(values, indent=2) + "\n"


def test_no_column_of_a_csv_comes_twice(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_csv(["path", "score", "Path", "score", "score_"], [[1, 2, 3, 4, 5]])
    assert capsys.readouterr().out.splitlines()[0] == "path,score,Path_,score_,score__"


def test_csv_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_csv(["a", "b"], [['x,"y"', 1], [None, "z"]])
    text = capsys.readouterr().out
    assert list(csv.reader(io.StringIO(text))) == [["a", "b"], ['x,"y"', "1"], ["", "z"]]


def test_table_shows_markup_and_control_characters_as_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    output.write_table([("name", "text")], [["[red]x[/red]"], ["a\x1b[31mb"], [":smile:"]])
    text = capsys.readouterr().out
    assert "[red]x[/red]" in text
    assert "a\\x1b[31mb" in text
    assert ":smile:" in text


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_a_path_is_never_cut_and_has_its_own_line_where_the_table_is_too_wide(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    paths = ["/a/very/long/directory" * 8 + "/0001_c1s1_000001_00.jpg", "/b.jpg"]
    columns = [("#", "number"), ("identity", "text"), ("image", "path")]
    output.write_table(columns, [[index, f"000{index}", path] for index, path in enumerate(paths, 1)])
    lines = capsys.readouterr().out.splitlines()
    for path in paths:
        place = lines.index(f"    {path}")
        assert lines[place - 1].split() == [str(paths.index(path) + 1), f"000{paths.index(path) + 1}"]
    assert all(len(line) <= width for line in lines if line.strip() not in paths)


def test_words_at_the_end_move_below_with_their_heading_and_none_leave_no_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    columns = [("gallery", "text"), ("model", "text"), ("filter by", "words")]
    output.write_table(columns, [["one", "m" * 12, "camera frame identity"], ["two", "m" * 12, ""]])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    at = lines.index(["one", "m" * 12])
    assert lines[at + 1 :][:2] == [["filter", "by", "camera", "frame", "identity"], ["two", "m" * 12]]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 140])
def test_what_a_terminal_has_no_room_for_stands_below_its_row(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    names = ["#", "re-ranked", "score", "identity", "camera", "match", "probability", "seen", "by cameras"]
    values = ["1", "0.9297", "0.7609", "0001", "2", "no", "32.9%", "6", "1 2 4 10 11 12"]
    columns = [(name, "number" if name == "score" else "text") for name in names]
    for last in ("text", "words"):
        for image in ([], [("image", "path")]):
            kinds = [*columns[:-1], (names[-1], last), *image]
            output.write_table(kinds, [values + ["/a/b.jpg"] * len(image)])
            text = capsys.readouterr().out
            assert all(len(line) <= width or line.startswith("    ") for line in text.splitlines())
            assert all(word in text for word in [*names, *values])
            assert ("/a/b.jpg" in text) == bool(image)


@pytest.mark.parametrize("width", [0, 1, 2, 3, 10, 40, 60])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_in_a_terminal_of_any_width_and_encoding_a_table_has_all_rows(
    encoding: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their lines are of other characters where those of boxes are unknown."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout", screen := io.TextIOWrapper(io.BytesIO(), encoding, errors="backslashreplace"))
    rows = [[index, f"000{index}", "yes", f"/{'long' * 20}/{index}.jpg"] for index in range(3)]
    output.write_table([("#", "number"), ("identity", "text"), ("a─b", "words"), ("image", "path")], rows)
    screen.seek(0)
    lines = screen.read().splitlines()
    assert [line.strip() for line in lines if line.endswith(".jpg")] == [row[3] for row in rows]
    for row in rows:  # the first of its lines begins with its number
        above = lines[: lines.index(f"    {row[3]}")]
        assert str(row[0]) in next(line for line in reversed(above) if not line.startswith("    "))


def test_a_query_gives_way_so_that_its_answer_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    output.write_table(
        [("query", "words"), ("score", "number"), ("identity", "text")], [["/q" * 40 + ".jpg", "0.7609", "0001"]]
    )
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "/q" in line]
    assert row.split()[0].endswith("…")
    assert row.split()[1:] == ["0.7609", "0001"]
    assert max(map(len, lines)) <= 60


def test_a_table_that_fits_keeps_its_paths_in_their_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    output.write_table([("#", "number"), ("image", "path")], [[1, "/a/b.jpg"]])
    assert any(line.split() == ["1", "/a/b.jpg"] for line in capsys.readouterr().out.splitlines())


def test_sentences_break_between_words_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = "a match scores 0.6475 or more (likelier right than wrong among 48 identities)"
    output.write_sentence(sentence)
    assert capsys.readouterr().out == f"{sentence}\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    output.write_sentence(sentence)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1
    assert " ".join(lines) == sentence
    assert max(map(len, lines)) <= 40


def test_table_is_never_cut_in_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    path = "/long" * 60 + "/x.jpg"
    output.write_table([("image", "path")], [[path]])
    assert path in capsys.readouterr().out


def test_paths_keep_their_bytes_in_a_pipe(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    output.write_paths([os.fsdecode(b"caf\xe9.jpg"), "x.jpg"])
    assert capfdbinary.readouterr().out == b"caf\xe9.jpg\nx.jpg\n"


def test_a_path_with_a_line_break_is_left_out_and_named(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    hostile = "in/a\n/home/victim/precious.jpg"
    assert output.write_paths([hostile, "b\r.jpg", "x.jpg"]) == 2
    out, err = capfdbinary.readouterr()
    assert out == b"x.jpg\n"
    assert err.count(b"\n") == 2
    assert b"--null" in err


def test_with_null_every_path_is_whole(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    paths = ["in/a\n/home/victim/precious.jpg", os.fsdecode(b"caf\xe9.jpg"), "x.jpg"]
    assert output.write_paths(paths, null=True) == 0
    assert capfdbinary.readouterr().out.split(b"\0") == [*map(os.fsencode, paths), b""]


def test_names_of_columns_run_as_no_formula(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_csv(["path", "=cmd|'/C calc'!A0"], [["a", "b"]])
    assert capsys.readouterr().out == "path,'=cmd|'/C calc'!A0\na,b\n"


def test_pairs_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_pairs([("a", 1), ("long", "x\n"), ("none", None)])
    assert capsys.readouterr().out == "a     1\nlong  x\\n\nnone\n"


def test_pairs_are_folded_beside_their_labels_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "24")
    output.write_pairs([("long", "some words that do not fit"), ("map", Path("a b c d e f g h i j k l m n"))])
    assert capsys.readouterr().out == ("long  some words that do\n      not fit\nmap   a b c d e f g h i j k l m n\n")


def test_notes_are_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    output.warn("two\nlines\x1b")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "sss: warning: two lines\\x1b\n"


def test_a_reader_that_has_gone_is_a_broken_pipe_and_not_an_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    monkeypatch.setattr("sys.stdout", stream)
    output.write_table([("identity", "text")], [["7"]])
    with pytest.raises(BrokenPipeError):
        stream.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, writer)  # what is still buffered can leave
    os.close(null)
    stream.close()


def test_no_text_moves_a_cursor(capsys):
    output.write_text("gallery 'a\x1b]0;x\x07b\x9b2J' in s\nnext\u202e\r")
    assert capsys.readouterr().out == "gallery 'a\\x1b]0;x\\x07b\\x9b2J' in s\nnext\\u202e\\r\n"
    value = {"nam\x9be": "a\x1b[2J\x7f\u202eé日"}
    output.write_json(value, lines=True)
    shown = capsys.readouterr().out
    assert shown == '{"nam\\u009be": "a\\u001b[2J\\u007f\\u202eé日"}\n'
    assert json.loads(shown) == value


@pytest.mark.parametrize("lacking", [{"camera": None}, {"identity": None}, {"sightings": None}, {"match": None}, {}])
def test_no_column_of_results_is_empty(lacking):
    values = {"identity": "a", "camera": "1", "sightings": 2, "match": True, "probability": 0.9} | lacking
    cameras = ("1",) if values["camera"] and values["sightings"] else ()
    found = [SearchResult(n, 0.5, path=Path("a"), key="a", cameras=cameras, **values) for n in (1, 2)]
    columns = _columns([QueryResult("q", tuple(found))])
    assert not [heading for heading, _, cell in columns if not any(output.safe(cell(one)) for one in found)]

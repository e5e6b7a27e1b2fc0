"""``sss search --show``, ``--save x.html`` and ``--star``: pictures where a person would rather look."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image
from rich.text import Text

from siamese_search.cli.search_screen import Terminal, fitted, picture_room, show_pictures
from siamese_search.retrieval.results import QueryResult, SearchResult

Run = Callable[..., CompletedProcess[str]]


def on_a_terminal(
    args: list[object], size: tuple[int, int] = (100, 50), stdin: int | None = None, **env: str
) -> tuple[str, int]:
    """What ``sss ARGS`` writes on a terminal of ``size`` (columns, rows), and its exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], size[0] * 8, size[1] * 16))
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SSS_") and k not in ("NO_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-m", "siamese_search", *map(str, args)],
        stdin=theirs if stdin is None else stdin, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**clean, "TERM": "xterm-256color", "COLORTERM": "truecolor", "SSS_THREADS": "1", **env},
    )  # fmt: skip
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux's end of file of a terminal
            break
        if not part:
            break
        written += part
    os.close(ours)
    return written.decode().replace("\r\n", "\n"), process.wait(timeout=60)


def plain(text: str) -> str:
    return re.sub(r"\x1b(\[[0-9;?]*[a-zA-Z]|_G.*?\x1b\\)", "", text, flags=re.S)


def test_the_images_are_shown_in_rows_as_wide_as_the_terminal(query: Path, demo_store: Path) -> None:
    command = ["search", query, "--store", demo_store, "-k", "7", "--show"]
    shown, code = on_a_terminal(command, stdin=subprocess.DEVNULL)  # as under xargs
    assert code == 0, shown
    lines = plain(shown).splitlines()
    tops = [line for line in lines if line.startswith(("┏", "╭"))]
    assert [re.findall(r"[┏╭][━─] (\w+)", line) for line in tops] == [["query", "1", "2", "3", "4"], ["5", "6", "7"]]
    assert max(map(len, tops)) <= 100
    assert "▀" in shown
    assert "camera" in shown
    table = next(index for index, line in enumerate(lines) if "score" in line and "identity" in line)
    assert table > lines.index(tops[-1])  # it follows
    assert len(re.findall(r"\d\.\d{4}", plain(shown))) == 14


@pytest.mark.parametrize("way", ["kitty", "sixel"])
def test_terminals_that_can_do_better(query: Path, demo_store: Path, way: str) -> None:
    shown, code = on_a_terminal(
        ["search", query, "--store", demo_store, "-k", "2", "--show"], SSS_GRAPHICS=way, COLORTERM=""
    )
    assert code == 0, shown
    if way == "kitty":
        assert shown.count("\x1b_Ga=p") == 3
        assert "\U0010eeee" in shown
        assert len(set(re.findall(r"\x1b\[38;2;(\d+;\d+;\d+)m\U0010eeee", shown))) == 3  # exact, or it is not found
    else:
        assert shown.count("\x1bP0;0;0q") == 3
        assert shown.count("\x1b7") == shown.count("\x1b8") == 3
    assert "▀" not in shown


def test_into_a_pipe_comes_the_plain_table(sss: Run, query: Path, demo_store: Path) -> None:
    options = ("search", query, "--store", demo_store, "-k", "2")
    table, shown = sss(*options), sss(*options, "--show")
    assert shown.stdout == table.stdout
    assert shown.stderr == ("no pictures: stdout is not a terminal (--save x.png or x.html writes them to a file)\n")
    answer = sss(*options, "--show", "--format", "json")
    assert json.loads(answer.stdout)
    assert "--format table" in answer.stderr


@pytest.mark.parametrize(
    ("env", "size", "reason"), [({"TERM": "dumb"}, (100, 50), "plain text"), ({}, (0, 0), "how large")]
)
def test_a_terminal_that_cannot_gets_the_table(
    query: Path, demo_store: Path, env: dict[str, str], size: tuple[int, int], reason: str
) -> None:
    shown, code = on_a_terminal(["search", query, "--store", demo_store, "--show"], size, **env)
    assert code == 0
    assert reason in shown
    assert "score" in shown
    assert "▀" not in shown


def test_a_word_that_is_no_way(query: Path, demo_store: Path) -> None:
    shown, code = on_a_terminal(["search", query, "--store", demo_store, "--show"], SSS_GRAPHICS="svg")
    assert code == 2
    assert "kitty, sixel, blocks" in shown


def test_a_page_and_a_star(sss: Run, query: Path, demo_store: Path, tmp_path: Path) -> None:
    done = sss(
        "search", query, "--store", demo_store, "-k", "3", "--save", "a.html", "--star", "star.png", cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "wrote a.html\nwrote star.png\n")
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    with Image.open(tmp_path / "star.png") as star:
        assert min(star.size) > 400
    wrong = sss("search", query, "--store", demo_store, "--star", "star.gif", cwd=tmp_path)
    assert wrong.returncode == 2


@pytest.mark.parametrize("name", ["t.html", "t.png"])
def test_a_timeline_is_drawn_as_one(sss: Run, query: Path, demo_store: Path, tmp_path: Path, name: str) -> None:
    done = sss("search", query, "--store", demo_store, "--timeline", "--save", name, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, f"wrote {name}\n")
    if name == "t.html":
        assert "each lane has an axis of its own" in (tmp_path / name).read_text()
    else:
        with Image.open(tmp_path / name) as picture:
            assert picture.size[0] == 1440  # a sheet of as many results is narrower


# The layout itself, without a process.


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """``blocks(answer, width)`` → the lines that a terminal of half blocks gets."""
    monkeypatch.setattr(sys, "__stdin__", None)  # or textual-image would ask the terminal that runs the tests
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    from textual_image.renderable import HalfcellImage

    def run(answer: QueryResult, width: int) -> list[str]:
        out = io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            show_pictures(answer, Terminal("blocks", HalfcellImage, (10, 20)), width)
        return out.getvalue().splitlines()

    return run


def results(paths: list[Path], **more: object) -> tuple[SearchResult, ...]:
    return tuple(SearchResult(i, 0.9 - i / 100, "ann", "1", path, "k", **more) for i, path in enumerate(paths, start=1))


@pytest.mark.parametrize("width", [20, 37, 80, 200])
def test_every_line_is_as_wide_as_its_row_and_fits(
    blocks: Callable[..., list[str]], tmp_path: Path, width: int
) -> None:
    for name, size in (("wide.png", (200, 30)), ("tall.png", (20, 300)), ("dot.png", (1, 1))):
        Image.new("RGB", size, (200, 0, 0)).save(tmp_path / name)
    paths = [tmp_path / name for name in ("wide.png", "tall.png", "dot.png", "gone.png")]
    many = tuple(
        SearchResult(i, -0.5, "日本語の名前がここに長く続きます" * i, "\x1b[31m\n", path, "k", match=False)
        for i, path in enumerate(paths * 3, start=1)
    )
    lines = [Text.from_ansi(line) for line in blocks(QueryResult("image 1", many), width)]
    assert {line.cell_len for line in lines if line.plain.startswith(("┏", "╭"))}
    for line in lines:
        assert line.cell_len <= width
    per_row = [line.cell_len for line in lines]
    height = next(i for i, line in enumerate(lines) if line.plain.startswith(("┗", "╰"))) + 1
    assert len(lines) % height == 0
    for start in range(0, len(lines), height):
        assert len(set(per_row[start : start + height])) == 1
    text = "\n".join(line.plain for line in lines)
    assert "no such file" in text
    assert "no file" in text


def test_a_picture_keeps_its_colours_and_place(blocks: Callable[..., list[str]], tmp_path: Path) -> None:
    top_red = np.zeros((200, 100, 3), np.uint8)
    top_red[:100, :, 0] = 255
    top_red[100:, :, 2] = 255
    Image.fromarray(top_red).save(tmp_path / "a.png")
    lines = blocks(QueryResult("q", results([tmp_path / "a.png"]), tmp_path / "a.png"), 80)
    rows = [line for line in lines if "▀" in line]
    reds = ["38;2;255;0;0;48;2;255;0;0m" in row for row in rows]
    assert reds == sorted(reds, reverse=True)
    assert sum(reds) in (len(rows) // 2, len(rows) // 2 - 1)
    columns, height = picture_room(2.0, (10, 20), 80)
    assert (columns, height) == (len(re.findall("▀", rows[0])) // 2, len(rows))
    assert columns == height  # a cell is twice as high as it is wide


def test_colours_are_left_to_the_pictures_where_asked(
    blocks: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (10, 20)).save(tmp_path / "a.png")
    answer = QueryResult("q", results([tmp_path / "a.png"], match=False), tmp_path / "a.png", identity="bob")
    assert "\x1b[31m╭─ 1 no match" in "\n".join(blocks(answer, 80))
    monkeypatch.setenv("NO_COLOR", "1")
    shown = "\n".join(blocks(answer, 80))
    assert "\x1b[31m" not in shown
    assert "╭─ 1 no match" in shown
    assert "38;2;0;0;0" in shown


@pytest.mark.parametrize(
    ("size", "cell"), [((64, 128), (10, 20)), ((128, 64), (8, 17)), ((1, 1000), (10, 20)), ((1000, 1), (10, 20))]
)
def test_a_picture_is_not_pulled_out_of_shape(size: tuple[int, int], cell: tuple[int, int]) -> None:
    columns, rows = fitted(size, (24, 14), cell)
    assert 1 <= columns <= 24
    assert 1 <= rows <= 14
    scale = min(24 * cell[0] / size[0], 14 * cell[1] / size[1])
    assert abs(columns * cell[0] - size[0] * scale) <= max(cell[0] / 2, cell[0] - size[0] * scale) + 1e-6
    assert abs(rows * cell[1] - size[1] * scale) <= max(cell[1] / 2, cell[1] - size[1] * scale) + 1e-6


def place_sixels(stream: str) -> tuple[list[str], list[tuple[int, int, int, int]]]:
    """A terminal in small: the text on the screen; of each image its row and column, and its pixels across and down."""
    rows: list[dict[int, str]] = [{}]
    row = column = 0
    saved = (0, 0)
    images = []
    tokens = re.findall(r"\x1bP.*?\x1b\\|\x1b\[[0-9;]*[A-Za-z]|\x1b[78]|.", stream, flags=re.S)
    for token in tokens:
        if token.startswith("\x1bP"):
            found = re.match(r'\x1bP0;0;0q"1;1;(\d+);(\d+)', token)
            assert found
            images.append((row, column, int(found[1]), int(found[2])))
        elif token in ("\x1b7", "\x1b8"):
            if token == "\x1b7":
                saved = (row, column)
            row, column = saved
        elif token.startswith("\x1b["):
            count = int(token[2:-1] or 1) if token[-1] in "ABCD" else 0
            row += {"A": -count, "B": count}.get(token[-1], 0)
            column += {"C": count, "D": -count}.get(token[-1], 0)
        elif token == "\n":
            row, column = row + 1, 0
            rows += [{}] * (row >= len(rows))
        else:
            rows[row] = {**rows[row], column: token}
            column += 1
    return ["".join(line.get(i, " ") for i in range(max(line, default=0) + 1)) for line in rows], images


def test_sixels_are_drawn_inside_their_frames(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "__stdin__", None)
    from textual_image import _terminal
    from textual_image.renderable import SixelImage

    monkeypatch.setattr(_terminal.get_cell_size, "_result", _terminal.CellSize(10, 20), raising=False)
    for name, size in (("a.png", (100, 200)), ("wide.png", (200, 40)), ("tall.png", (20, 300))):
        Image.new("RGB", size, (200, 0, 0)).save(tmp_path / name)
    answer = QueryResult("q", results([tmp_path / "wide.png", tmp_path / "tall.png"]), tmp_path / "a.png")
    out = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        show_pictures(answer, Terminal("sixel", SixelImage, (10, 20)), 45)
    screen, images = place_sixels(out.getvalue())
    frames = [(row, match.start()) for row, line in enumerate(screen) for match in re.finditer("[┏╭]", line)]
    assert len(images) == len(frames) == 3
    columns, lines = picture_room(2.0, (10, 20), 45)
    for (row, column, width, height), (top, left) in zip(images, frames, strict=True):
        assert top < row
        assert row + height / 20 <= top + 1 + lines
        assert left < column
        assert column + width / 10 <= left + 1 + columns
        for line in range(row, row + height // 20):  # on nothing but blank cells
            assert not screen[line][column : column + width // 10].strip()
    shapes = [height / width for _, _, width, height in images]
    assert shapes[1] < 0.5 < shapes[0] < shapes[2]

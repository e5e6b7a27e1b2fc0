"""How ``sss search`` shows what it found: timelines as a table per query, or CSV; and pictures in the terminal.

Those are drawn by textual-image: kitty's graphics protocol, sixel, or half blocks. That library asks the terminal when
it is imported, over stdin and stdout as they are then. Here stdin may be a pipe (``find … | xargs sss search --show``)
or the terminal not ours to ask, so what it asks over is chosen first.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from rich.cells import cell_len
from rich.segment import Segment, Segments
from rich.style import Style

from siamese_search.cli import output
from siamese_search.cli.output import note, safe, shown_path, write_csv, write_sentence, write_table, write_text
from siamese_search.errors import UsageError, printable
from siamese_search.render import marks
from siamese_search.render.canvas import elide, shown, usual_aspect
from siamese_search.render.marks import known_identities, mark, match_heading, paths_of, percent, sightings
from siamese_search.retrieval.results import QueryResult, SearchResult
from siamese_search.retrieval.timeline import Sighting, Timeline, spoken, who

#: Pictures of results shown of one query; a note says how many are left out.
MAX_RESULTS = 100

#: Character cells of one picture, about, and the bounds of its width.
_CELLS = 240
_WIDTH = (16, 30)
_MOST_ROWS = 18
_GAP = 1
#: Corners and sides: light for results, heavy for the query, so that it stands apart without colours too.
_LIGHT, _HEAVY = tuple("╭─╮│╰╯"), tuple("┏━┓┃┗┛")
#: The terminal's own green and red, which its owner can read whether it is dark or light.
_STYLES = {"good": Style(color="green"), "bad": Style(color="red"), "unknown": Style(dim=True)}


@dataclass(frozen=True)
class _Tile:
    label: str
    path: Path | None
    captions: Sequence[tuple[str, str]]
    style: Style
    box: tuple[str, ...] = _LIGHT


def show_pictures(answer: QueryResult, terminal: Terminal, width: int | None = None) -> None:
    """Write the pictures of one answer on stdout. width: of the terminal in cells; by default it is asked."""
    console = terminal.console(width)
    results = answer.results[:MAX_RESULTS]
    (identity,) = known_identities([answer])
    name = answer.query if answer.path is None else answer.path.name
    query = _Tile("query", answer.path, [(safe(identity), ""), (safe(name), "")], Style(bold=True), _HEAVY)
    tiles = [query, *(_result_tile(result, identity) for result in results)]
    if os.environ.get("NO_COLOR"):
        tiles = [replace(tile, style=Style()) for tile in tiles]
    room = picture_room(usual_aspect(paths_of([answer])), terminal.cell, console.width)
    lines = max(len(tile.captions) for tile in tiles)
    across = max(1, (console.width + _GAP) // (room[0] + 2 + _GAP))
    for start in range(0, len(tiles), across):
        row = [_drawn(console, terminal, tile, room, lines) for tile in tiles[start : start + across]]
        with console.capture() as captured:
            console.print(Segments(_beside(row)), end="", crop=False, no_wrap=True, overflow="ignore")
        sys.stdout.write(captured.get())
    if len(answer.results) > len(results):
        note(f"the first {len(results)} of {len(answer.results):,} results shown as pictures")


def picture_room(aspect: float, cell: tuple[int, int], width: int) -> tuple[int, int]:
    """(columns, rows) of each picture: about the same area whatever the shape. aspect: height / width that is usual."""
    ratio = aspect * cell[0] / cell[1]  # rows per column
    low, high = _WIDTH
    columns = min(max(round(math.sqrt(_CELLS / ratio)), low), high, max(width - 2, 1))
    return columns, min(max(round(columns * ratio), 4), _MOST_ROWS)


def _result_tile(result: SearchResult, identity: str | None) -> _Tile:
    judged = mark(result, identity)
    name = "no identity" if result.identity is None else safe(result.identity)
    camera = "" if result.camera is None else f"camera {safe(result.camera)}"
    captions = [(name, f"{result.score:.4f}"), (camera, percent(result.probability))]
    if seen := sightings(result):
        captions.append((safe(seen), ""))
    label = f"{result.rank} {judged.word}".rstrip()
    return _Tile(label, result.path, captions, _STYLES[judged.kind])


def _drawn(console: Any, terminal: Terminal, tile: _Tile, room: tuple[int, int], captions: int) -> list[list[Segment]]:
    """The tile as lines of segments, all as wide as the others."""
    width = room[0]
    left_top, flat, right_top, side, left_low, right_low = tile.box
    label = _cut(tile.label, width - 3)
    top = f"{left_top}{flat} {label} {flat * (width - 3 - cell_len(label))}{right_top}"
    edge = Segment(side, tile.style)
    picture = shown(tile.path, (room[1] * terminal.cell[1], width * terminal.cell[0]))
    after: list[Segment] = []
    if isinstance(picture, str):
        lines = _placeholder(picture, room)
    else:
        lines, after = picture_lines(console, terminal, picture, room)
    drawn = [[Segment(top, tile.style)], *([edge, *line, edge] for line in lines)]
    texts = [*tile.captions, *[("", "")] * (captions - len(tile.captions))]
    for left, right in texts:
        left = _cut(left, width - cell_len(right) - 1 if right else width)
        space = " " * (width - cell_len(left) - cell_len(right))
        drawn.append([edge, *after, Segment(f"{left}{space}{right}"), edge])
        after = []
    return [*drawn, [Segment(f"{left_low}{flat * width}{right_low}", tile.style)]]


def _placeholder(reason: str, room: tuple[int, int]) -> list[list[Segment]]:
    """A cross of dots with the reason why there is no picture."""
    columns, rows = room
    lines = []
    for row in range(rows):
        at = round((columns - 1) * row / max(rows - 1, 1))
        lines.append("".join("·" if column in (at, columns - 1 - at) else " " for column in range(columns)))
    lines[rows // 2] = _cut(reason, columns).center(columns)
    return [[Segment(line)] for line in lines]


def _beside(tiles: Sequence[Sequence[Sequence[Segment]]]) -> list[Segment]:
    segments: list[Segment] = []
    for first, *others in zip(*tiles, strict=True):
        segments += first
        for part in others:
            segments += [Segment(" " * _GAP), *part]
        segments.append(Segment.line())
    return segments


def _cut(text: str, room: int) -> str:
    return elide(text, lambda part: cell_len(part) <= room)


def print_timelines(timelines: Sequence[Timeline], format: str) -> None:
    if format in ("json", "jsonl"):
        output.write_json_list((timeline.to_json() for timeline in timelines), lines=format == "jsonl")
    elif format == "csv":
        _print_csv(timelines)
    else:
        for index, timeline in enumerate(one for one in timelines if one.answer.error is None):
            if index > 0:
                write_text("")
            _print_table(timeline)


def _print_table(timeline: Timeline) -> None:
    answer = timeline.answer
    write_text(f"{safe(answer.query)}: {who(timeline)}")
    marked = any(result.match is not None for result in answer.results)
    sequences = "sequence" in timeline.within
    columns = [("sequence", "number")] if sequences else []
    columns += [(safe(timeline.field), "number"), ("gap", "number"), ("camera", "text"), ("score", "number")]
    columns += [(match_heading(answer), "text"), ("probability", "number")] if marked else []
    columns += [("image", "path")]

    def row(sighting: Sighting) -> list[object]:
        result = sighting.result
        cells: list[object] = [result.metadata.get("sequence")] if sequences else []
        camera = result.camera if sighting.came_from is None else f"{sighting.came_from} → {result.camera}"
        cells += [sighting.time, spoken(sighting.gap, timeline.unit), camera, f"{result.score:.4f}"]
        if marked:
            cells += [{True: "yes", False: "no", None: ""}[result.match], percent(result.probability)]
        return [*cells, shown_path(result.path)]

    if timeline.sightings:
        write_table(columns, [row(sighting) for sighting in timeline.sightings])
    if timeline.within:
        place = " and ".join(timeline.within)
        write_text(f"{safe(timeline.field)} numbers count within one {place}: only there do order and gaps mean time")
    if sentence := marks.verdict_sentence(answer):
        write_sentence(sentence)
    for line in timeline.notes:
        write_text(safe(line))


def _print_csv(timelines: Sequence[Timeline]) -> None:
    header = ("query", "time", "gap", "came_from", "rank", "score", "identity", "camera", "path", "key", "match")
    extra = sorted({name for one in timelines for hit in one.answer.results for name in hit.metadata})
    rows = [
        [timeline.answer.query, seen.time, seen.gap, seen.came_from, hit.rank, f"{hit.score:.6f}", hit.identity,
         hit.camera, str(hit.path), hit.key, hit.match, *(hit.metadata.get(name) for name in extra)]
        for timeline in timelines
        for seen in timeline.sightings
        for hit in (seen.result,)
    ]  # fmt: skip
    write_csv([*header, *extra], rows)


#: Names for SSS_GRAPHICS, where the terminal's own answer is wrong, and the classes of textual-image.
_CLASSES = {"kitty": "TGPImage", "sixel": "SixelImage", "blocks": "HalfcellImage"}


@dataclass(frozen=True)
class Terminal:
    """picture: the class of textual-image, a Rich renderable of (image, width, height in cells). cell: (width, height)
    of a character in pixels."""

    way: str
    picture: Any
    cell: tuple[int, int]

    def console(self, width: int | None = None) -> Any:
        """The console to render pictures for: their colours are what they are made of, NO_COLOR or not."""
        from rich.console import Console

        plain: Any = dict.fromkeys(("no_color", "markup", "highlight", "emoji", "legacy_windows"), False)
        # kitty's placeholders carry the picture's number as an exact colour.
        system: Any = "truecolor" if self.way == "kitty" else "auto"
        return Console(file=sys.stdout, force_terminal=True, color_system=system, width=width, **plain)


def why_not() -> str | None:
    """Why stdout cannot show pictures; ``None`` where it can."""
    if not sys.stdout.isatty():
        return "stdout is not a terminal"
    if os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        return "this terminal shows plain text only"
    if "utf" not in (sys.stdout.encoding or "").lower():
        return f"the terminal's encoding is {sys.stdout.encoding}, not UTF-8"
    with suppress(OSError):
        if 0 not in os.get_terminal_size(sys.stdout.fileno()):
            return None
    return "the terminal does not say how large it is"


def terminal() -> Terminal:
    """How the terminal shows pictures: what it says itself, or what SSS_GRAPHICS says (UsageError for other words)."""
    chosen = os.environ.get("SSS_GRAPHICS", "")
    if chosen and chosen not in _CLASSES:
        raise UsageError(f"SSS_GRAPHICS is {printable(chosen)!r}: use one of {', '.join(_CLASSES)}")
    logging.getLogger("textual_image").setLevel(logging.ERROR)  # guesses are its business
    with _asking(quiet=bool(chosen)):
        from textual_image import renderable
    with _asking(quiet=False):
        from textual_image._terminal import get_cell_size

        cell = get_cell_size()
    picture = getattr(renderable, _CLASSES[chosen]) if chosen else renderable.Image
    way = next((way for way, name in _CLASSES.items() if getattr(renderable, name) is picture), "blocks")
    return Terminal(way, getattr(renderable, _CLASSES[way]), (cell.width, cell.height))


@contextmanager
def _asking(*, quiet: bool) -> Iterator[None]:
    """textual-image asks over the terminal, wherever stdin comes from; ``quiet``, or where it cannot, over nothing."""
    before = sys.__stdin__
    held = None
    if not quiet:
        with suppress(OSError):
            held = open("/dev/tty", encoding="utf-8", errors="replace")  # noqa: PTH123, SIM115
            # A process in the background would be stopped for changing the terminal's mode.
            if os.tcgetpgrp(held.fileno()) != os.getpgrp():
                held.close()
                held = None
    try:
        sys.__stdin__ = held  # type: ignore[misc]
        yield
    finally:
        sys.__stdin__ = before  # type: ignore[misc]
        if held is not None:
            held.close()


def picture_lines(
    console: Any, terminal: Terminal, picture: Image.Image, room: tuple[int, int]
) -> tuple[list[list[Segment]], list[Segment]]:
    """(lines, after): a picture in the middle of ``room`` (columns, rows), its shape kept.

    lines: one list of segments per row, each of ``room[0]`` columns. after: control segments to be written at the
    start of the line below the last one (sixel draws over blank cells from there); often none.
    """
    columns, rows = fitted(picture.size, room, terminal.cell)
    options = console.options.update(width=columns, height=rows)
    segments = list(console.render(terminal.picture(picture, width=columns, height=rows), options))
    text = [segment for segment in segments if not segment.control]
    after = [segment for segment in segments if segment.control]
    left = (room[0] - columns) // 2
    pad, rest = Segment(" " * left), Segment(" " * (room[0] - columns - left))
    lines = [[pad, *line, rest] for line in list(Segment.split_lines(text))[:rows]]
    above = (room[1] - len(lines)) // 2
    blank = [Segment(" " * room[0])]
    below = room[1] - len(lines) - above
    for cells, ways in ((left, "CD"), (below, "AB")):
        if after and cells:
            there, back = (Segment(f"\x1b[{cells}{way}", control=after[0].control) for way in ways)
            after = [there, *after, back]
    return [blank] * above + lines + [blank] * below, after


def fitted(size: tuple[int, int], room: tuple[int, int], cell: tuple[int, int]) -> tuple[int, int]:
    """(columns, rows) within ``room`` that a picture of ``size`` (width, height) fills without losing its shape."""
    scale = min(room[0] * cell[0] / size[0], room[1] * cell[1] / size[1])
    columns, rows = (max(1, round(size[i] * scale / cell[i])) for i in range(2))
    return min(columns, room[0]), min(rows, room[1])

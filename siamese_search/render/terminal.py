"""Pictures in a terminal, by textual-image: kitty's graphics protocol, sixel, or half blocks.

That library asks the terminal when it is imported, over stdin and stdout as they are then. Here stdin may be a pipe
(``find … | xargs sss search --show``) or the terminal not ours to ask, so what it asks over is chosen first.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image
from rich.segment import Segment

from siamese_search.errors import UsageError, printable

#: Names for SSS_GRAPHICS, where the terminal's own answer is wrong.
WAYS = ("kitty", "sixel", "blocks")

_CLASSES = {"kitty": "TGPImage", "sixel": "SixelImage", "blocks": "HalfcellImage"}


class Renderable(Protocol):
    """A picture of textual-image: a Rich renderable of a given number of cells."""

    def __init__(self, image: Image.Image, width: int, height: int) -> None: ...


@dataclass(frozen=True)
class Terminal:
    """How this terminal shows pictures. cell: (width, height) of a character in pixels."""

    way: str
    picture: type[Renderable]
    cell: tuple[int, int]

    def console(self, width: int | None = None) -> Any:
        """The console to render pictures for: their colours are what they are made of, NO_COLOR or not."""
        from rich.console import Console

        # kitty's placeholders carry the picture's number as an exact colour.
        return Console(
            file=sys.stdout,
            force_terminal=True,
            color_system="truecolor" if self.way == "kitty" else "auto",
            no_color=False,
            markup=False,
            highlight=False,
            emoji=False,
            legacy_windows=False,
            width=width,
        )


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
    if chosen and chosen not in WAYS:
        raise UsageError(f"SSS_GRAPHICS is {printable(chosen)!r}: use one of {', '.join(WAYS)}")
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
    """textual-image asks over the terminal itself, wherever stdin comes from; over nothing where that cannot be.

    quiet: over nothing.
    """
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
    if after and left:
        jump = after[0].control
        after = [Segment(f"\x1b[{left}C", control=jump), *after, Segment(f"\x1b[{left}D", control=jump)]
    above = (room[1] - len(lines)) // 2
    blank = [Segment(" " * room[0])]
    below = room[1] - len(lines) - above
    if after and below:
        jump = after[0].control
        after = [Segment(f"\x1b[{below}A", control=jump), *after, Segment(f"\x1b[{below}B", control=jump)]
    return [blank] * above + lines + [blank] * below, after


def fitted(size: tuple[int, int], room: tuple[int, int], cell: tuple[int, int]) -> tuple[int, int]:
    """(columns, rows) within ``room`` that a picture of ``size`` (width, height) fills without losing its shape."""
    scale = min(room[0] * cell[0] / size[0], room[1] * cell[1] / size[1])
    columns, rows = (max(1, round(size[i] * scale / cell[i])) for i in range(2))
    return min(columns, room[0]), min(rows, room[1])

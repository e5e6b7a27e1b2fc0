"""draw_comparison(): a pair side by side, or a table of many, each with its score, as one PNG."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from siamese_search.errors import printable
from siamese_search.render.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PALE,
    RED,
    TILE_WIDTH,
    Canvas,
    Colour,
    save_png,
    usual_aspect,
)
from siamese_search.retrieval.comparison import Comparison

#: Images drawn of each side; the sheet says how many it leaves out.
MAX_SIDE = 30

_MARGIN = 28
_GAP = 12
_TITLE = 60
_CELL = (96, 44)
_SMALL = 72


def draw_comparison(comparison: Comparison, out: Path) -> Path:
    """Write the picture of a comparison: one pair large, several as a table, left images down, right ones across.

    Green is the same identity, red another, grey not decided (no threshold). Returns ``out``. Raises
    SiameseSearchError where it cannot be written.
    """
    single = comparison.scores.shape == (1, 1)
    return save_png(_pair(comparison) if single else _table(comparison), out, "picture")


def _colour(comparison: Comparison, row: int, column: int) -> Colour:
    if comparison.same is None:
        return PALE
    return GREEN if comparison.same[row, column] else RED


def _word(comparison: Comparison, row: int, column: int) -> str:
    if comparison.same is None:
        return "not decided"
    return "same" if comparison.same[row, column] else "different"


def _rule(comparison: Comparison) -> str:
    if comparison.threshold is None:
        return "score: cosine similarity; no threshold"
    origin = (
        "" if comparison.false_match_rate is None else f", false match rate {comparison.false_match_rate:g}"
    )
    return f"same from a score of {comparison.threshold:.3f} on{origin}"


def _pair(comparison: Comparison) -> Image.Image:
    width = 208
    paths = (comparison.left[0], comparison.right[0])
    height = max(round(width * min(max(usual_aspect([path]), 0.5), 2.2)) for path in paths)
    middle = 190
    canvas = Canvas(2 * _MARGIN + 2 * width + middle, 2 * _MARGIN + height + 50)
    colour = _colour(comparison, 0, 0)
    right = _MARGIN + width + middle
    for path, left in zip(paths, (_MARGIN, right), strict=True):
        canvas.tile(path, (left, _MARGIN), height, colour, width)
        canvas.text((left, _MARGIN + height + 6), printable(path.name), 13, GREY, width)
    centre = _MARGIN + width + middle // 2
    top = _MARGIN + height // 2 - 52
    lines: list[tuple[str, int, Colour]] = [
        (_word(comparison, 0, 0), 24, colour if comparison.same is not None else INK),
        (f"score {comparison.scores[0, 0]:.3f}", 15, INK),
    ]
    if comparison.probabilities is not None:
        lines.append((f"probability {comparison.probabilities[0, 0]:.1%}", 15, INK))
    for text, size, ink in lines:
        canvas.text((centre - canvas.width_of(text, size) / 2, top), text, size, ink)
        top += size + 12
    canvas.text((_MARGIN, _MARGIN + height + 28), _rule(comparison), 13, GREY)
    return canvas.image


def _table(comparison: Comparison) -> Image.Image:
    left, right = comparison.left[:MAX_SIDE], comparison.right[:MAX_SIDE]
    height = round(_SMALL * 1.4)
    step_x, step_y = _CELL[0] + _GAP, max(_CELL[1], height) + _GAP + 18
    head = _MARGIN + _TITLE
    first = _MARGIN + TILE_WIDTH + _GAP
    canvas = Canvas(
        max(first + len(right) * step_x + _MARGIN, 480), head + height + 30 + len(left) * step_y + _MARGIN
    )
    canvas.text((_MARGIN, _MARGIN - 6), "Same or different", 24, INK)
    shown = f"{len(comparison.left)} by {len(comparison.right)} images"
    if len(left) < len(comparison.left) or len(right) < len(comparison.right):
        shown += f", the first {len(left)} by {len(right)} drawn"
    canvas.text((_MARGIN, _MARGIN + 26), f"{shown}  ·  {_rule(comparison)}", 13, GREY)
    for column, path in enumerate(right):
        at = (first + column * step_x, head)
        canvas.tile(path, at, height, BLUE, _CELL[0])
        canvas.text((at[0], head + height + 4), printable(path.name), 13, GREY, _CELL[0])
    for row, path in enumerate(left):
        top = head + height + 30 + row * step_y
        canvas.tile(path, (_MARGIN, top), height, BLUE, _CELL[0])
        canvas.text((_MARGIN, top + height + 4), printable(path.name), 13, GREY, TILE_WIDTH)
        for column in range(len(right)):
            x, y = first + column * step_x, top + (height - _CELL[1]) // 2
            canvas.pen.rounded_rectangle(
                (x, y, x + _CELL[0] - 1, y + _CELL[1] - 1), 6, fill=_colour(comparison, row, column)
            )
            text = f"{comparison.scores[row, column]:.3f}"
            reach = canvas.width_of(text, 15)
            canvas.text((x + (_CELL[0] - reach) / 2, y + _CELL[1] / 2 - 9), text, 15, (255, 255, 255))
    return canvas.image

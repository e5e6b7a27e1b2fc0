"""A comparison of many images with many: how cells are shaded and rows are called, and the whole of it as a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from siamese_search.errors import printable
from siamese_search.render.canvas import BLUE, CARD, GREEN, RED, Colour, readable
from siamese_search.render.pages import picture, render, rgb, write_page
from siamese_search.retrieval.comparison import Comparison

#: Images of each side on the page; it says how many it leaves out.
MAX_SIDE = 150
_PICTURE = (64, 48)
#: Share of the full colour in a cell that lies right at the threshold.
_PALEST = 0.15


def shade(comparison: Comparison, row: int, column: int) -> tuple[Colour, Colour]:
    """Colours of a cell and of its text: green the same, red another, stronger the farther from the threshold; without
    one blue, stronger the more alike."""
    score = float(comparison.scores[row, column])
    if comparison.threshold is None:
        full, share = BLUE, max(score, 0.0)
    elif score >= comparison.threshold:
        full, share = GREEN, (score - comparison.threshold) / max(1 - comparison.threshold, 1e-6)
    else:
        full, share = RED, (comparison.threshold - score) / max(comparison.threshold, 1e-6)
    share = _PALEST + (1 - _PALEST) * min(share, 1.0)
    red, green, blue = (round(share * a + (1 - share) * b) for a, b in zip(full, CARD, strict=True))
    return (red, green, blue), readable((red, green, blue))


def labels(paths: Sequence[Path]) -> list[str]:
    """Names that tell images apart: without the words and numbers that all begin and end with; where names repeat, with
    the folder."""
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}/{path.name}" for path in paths]
    before = _common(names)
    after = _common([name[before:][::-1] for name in names])
    middles = [name[before : len(name) - after] for name in names]
    # Of one name nothing is left, nor of one that is the beginning of another; and an ellipsis must save something.
    if len(set(names)) > 1 and all(middles) and before + after >= 5:
        names = [f"…{m}" if before > 1 else name[: before + len(m)] for name, m in zip(names, middles, strict=True)]
    return [printable(name) for name in names]


def _common(names: Sequence[str]) -> int:
    """How many characters all begin with, no number or word of theirs cut in two."""
    length = len(os.path.commonprefix(list(names)))  # noqa: RUF071 - of text, not of paths
    while length and any(name[length - 1 : length + 1].isalnum() and length < len(name) for name in names):
        length -= 1
    return length


def write_comparison_page(comparison: Comparison, rule: str, out: Path) -> Path:
    """Write all pairs as a page, atomically; returns ``out``. rule: what a cell means. Raises SiameseSearchError."""
    nearest = comparison.nearest(MAX_SIDE, MAX_SIDE)
    sides = [list(zip(labels(side), side, strict=True)) for side in (nearest.left, nearest.right)]

    def cell(row: int, column: int) -> tuple[str, ...]:
        return f"{nearest.scores[row, column]:.3f}", *map(rgb, shade(nearest, row, column))

    rows = [[cell(row, column) for column in range(len(nearest.right))] for row in range(len(nearest.left))]
    page = render(
        "matrix.html.j2",
        title="Same or different",
        counts=comparison.scores.shape,
        shown=nearest.scores.shape,
        rule=rule,
        heads=sides[1],
        rows=list(zip(sides[0], rows, strict=True)),
        pictures={path: picture(path, _PICTURE) for path in {*nearest.left, *nearest.right}},
    )
    return write_page(page, out, "comparison")

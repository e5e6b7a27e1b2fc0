"""draw_clusters(): proposed identities as a contact sheet, to look at before they are applied."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from PIL import Image

from siamese_search.curation.identities import Proposal, Proposals
from siamese_search.errors import UsageError
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
)

#: Clusters drawn, and images of each: a PNG of more would be too tall to look at.
MAX_CLUSTERS, MAX_IMAGES = 60, 12

_COLOURS: dict[str, Colour] = {"new": BLUE, "known": GREEN, "conflict": RED, "single": PALE}
_TILE_HEIGHT, _CAPTION, _HEADING, _MARGIN, _GAP = 160, 26, 34, 28, 10


def draw_clusters(proposals: Proposals, out: Path) -> Path:
    """A row of images per cluster, single images left out, as a PNG: blue a new identity, green a known one, red a
    conflict. Raises UsageError where there is nothing to draw.
    """
    rows = [
        list(group)
        for _, group in groupby(
            (one for one in proposals.images if one.status != "single"), lambda one: one.cluster
        )
    ]
    if not rows:
        raise UsageError("there are no clusters to draw: every image stands alone")
    shown = rows[:MAX_CLUSTERS]
    columns = min(MAX_IMAGES, max(map(len, shown)))
    height = _HEADING + _TILE_HEIGHT + _CAPTION + _GAP
    width = max(560, 2 * _MARGIN + columns * (TILE_WIDTH + _GAP))
    canvas = Canvas(width, 2 * _MARGIN + 60 + len(shown) * height)
    canvas.text((_MARGIN, _MARGIN - 6), "Proposed identities", 24, INK)
    more = f", the first {len(shown)} drawn" if len(rows) > len(shown) else ""
    singles = sum(one.status == "single" for one in proposals.images)
    count = f"{len(rows)} clusters{more}  ·  {singles} single images  ·  below each: confidence"
    canvas.text((_MARGIN, _MARGIN + 26), count, 13, GREY)
    for place, row in enumerate(shown):
        _draw_row(canvas, row, _MARGIN + 60 + place * height)
    picture: Image.Image = canvas.image
    return save_png(picture, out, "contact sheet")


def _draw_row(canvas: Canvas, row: list[Proposal], top: int) -> None:
    first = row[0]
    name = first.proposed or "conflict: " + ", ".join(sorted({one.existing for one in row if one.existing}))
    colour = _COLOURS[first.status]
    canvas.text((_MARGIN, top), name, 15, colour, canvas.image.width - 2 * _MARGIN - 120)
    reach = canvas.width_of(f"{len(row)} images", 13)
    canvas.text((canvas.image.width - _MARGIN - reach, top + 2), f"{len(row)} images", 13, GREY)
    # The surest and, where not all have room, the least sure: those are where mistakes are.
    half = MAX_IMAGES // 2
    images = row if len(row) <= MAX_IMAGES else row[:half] + row[-half:]
    for column, one in enumerate(images):
        left = _MARGIN + column * (TILE_WIDTH + _GAP)
        canvas.tile(Path(one.path) if one.path else None, (left, top + _HEADING - 8), _TILE_HEIGHT, colour)
        text = "" if one.confidence is None else f"{one.confidence:.2f}"
        if one.existing is not None:
            text += f"  is {one.existing}"
        canvas.text((left, top + _HEADING - 8 + _TILE_HEIGHT + 3), text, 13, GREY, TILE_WIDTH)

"""draw_star(): the query in the middle, its nearest images around it, the farther away the less alike they are.

Results stand clockwise from the top by rank. Distance from the middle is linear in similarity, and rings show the
scale; it is stretched as a whole until no two pictures overlap, so that distances stay comparable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from siamese_search.errors import UsageError, amount, printable
from siamese_search.render.canvas import (
    BLUE,
    BORDER,
    COLOURS,
    GREY,
    INK,
    MARGIN,
    PAPER,
    Canvas,
    Colour,
    save_png,
    usual_aspect,
)
from siamese_search.render.marks import BADGES, FRAMES, Mark, known_identities, mark, paths_of, verdict_sentence
from siamese_search.retrieval.results import QueryResult, SearchResult

#: Results drawn around one query, and queries in one picture; the picture says what it leaves out.
MAX_RESULTS = 40
MAX_QUERIES = 12

_CAPTION = 40
#: Size of a ring's number, and the ring's colour.
_LABEL = (31, 16)
_RING: Colour = (206, 209, 214)
#: Least space between two pictures.
_GAP = 10
#: Height of the heading of one star, without its second line of words and those that follow.
_HEAD = 56
_LINE = 18
#: Lines and rings are drawn this many times as large, and made smaller: that is what smooths them.
_FINE = 3
#: The farthest result stands at least this many times as far away as the nearest place.
_SPREAD = 0.8


@dataclass(frozen=True)
class Layout:
    """Where things stand, in pixels from the middle of the query. centres: of the results' pictures with captions, in
    their order. size: (width, height) of each."""

    centres: list[tuple[float, float]]
    size: tuple[int, int]
    inner: float
    step: float
    best: float

    def radius(self, score: float) -> float:
        return self.inner + (self.best - score) * self.step


def draw_star(answers: Sequence[QueryResult], out: Path) -> Path:
    """Draw a star per answer, one below the other, as a PNG; returns ``out``. Frames, lines and badges are as
    :class:`~siamese_search.render.marks.Mark` has them. Raises UsageError for nothing to draw, SiameseSearchError where
    ``out`` cannot be written."""
    good = [answer for answer in answers if answer.error is None]
    if not good:
        raise UsageError("there are no results to draw")
    stars = [_Star(answer, identity).draw() for answer, identity in zip(good[:MAX_QUERIES], known_identities(good))]
    left = len(good) - len(stars)
    width = max(star.width for star in stars)
    height = sum(star.height for star in stars) + (30 if left else 0)
    sheet = Canvas(width, height)
    top = 0
    for star in stars:
        sheet.image.paste(star, ((width - star.width) // 2, top))
        top += star.height
    if left:
        sheet.text((MARGIN, top), f"{amount(left, 'more query')} not drawn", 13, GREY)
    return save_png(sheet.image, out, "star")


def arrange(scores: Sequence[float], size: tuple[int, int], middle: tuple[int, int]) -> Layout:
    """Places for results of these scores (descending), boxes of ``size`` around ``middle``: up to three turns."""
    turns = (1,) if len(scores) <= 12 else (1, 2, 3)
    worst = min(scores, default=0.0)
    return min((_spiral(scores, size, middle, turn) for turn in turns), key=lambda layout: layout.radius(worst))


def _spiral(scores: Sequence[float], size: tuple[int, int], middle: tuple[int, int], turns: int) -> Layout:
    """The smallest layout of its kind that keeps all boxes apart; infinitely large where none does."""
    best = max(scores, default=1.0)
    # Scores that hardly differ must not be pulled apart as if they did.
    span = max(best - min(scores, default=best), 0.05)
    # Half a place more for further turns: their results stand in the gaps of those before.
    turn = 2 * math.pi * turns / max(len(scores) + (turns > 1) / 2, 1)
    inner = math.hypot(*middle) / 2 + math.hypot(*size) / 4
    step = inner * _SPREAD * turns / span
    angles = np.arange(len(scores)) * turn - math.pi / 2
    radii = inner + (best - np.asarray(scores, np.float64)) * step
    # All places, the middle first, and half of what each box needs.
    places = np.concatenate(([[0.0, 0.0]], np.stack((radii * np.cos(angles), radii * np.sin(angles)), axis=1)))
    halves = np.array([middle, *[size] * len(scores)], np.float64) / 2 + _GAP / 2
    one, other = np.triu_indices(len(places), 1)
    with np.errstate(divide="ignore"):
        # Two boxes are apart once they are apart in one direction; distances grow with the scale.
        needed = (halves[one] + halves[other]) / np.abs(places[one] - places[other])
    scale = max(1.0, float(needed.min(axis=1).max(initial=1.0)))
    centres = [(scale * float(x), scale * float(y)) for x, y in places[1:]]
    return Layout(centres, size, scale * inner, scale * step, best)


def _overlap(a: tuple[float, float], a_size: tuple[int, int], b: tuple[float, float], b_size: tuple[int, int]) -> bool:
    return all(abs(a[i] - b[i]) < (a_size[i] + b_size[i]) / 2 + _GAP for i in range(2))


def rings(best: float, worst: float) -> list[float]:
    """Round similarities to draw as circles, at most six, descending: from the best to the worst and one beyond."""
    for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
        first, last = math.floor(best / step + 1e-9), math.floor(worst / step + 1e-9)
        if first - last < 6:
            return [round(number * step, 2) for number in range(first, last - 1, -1)]
    return []


class _Star:
    def __init__(self, answer: QueryResult, identity: str | None) -> None:
        self.answer = answer
        self.results = answer.results[:MAX_RESULTS]
        self.marks = [mark(result, identity) for result in self.results]
        self.identity = identity
        count = len(self.results)
        width = 96 if count <= 12 else 80 if count <= 24 else 68
        aspect = min(max(usual_aspect(paths_of([answer])), 0.5), 2.0)
        self.tile = (width, round((width - 2 * BORDER) * aspect) + 2 * BORDER)
        self.middle = (round(width * 1.25), round(self.tile[1] * 1.25))

    def draw(self) -> Image.Image:
        box = (self.tile[0], self.tile[1] + _CAPTION)
        layout = arrange([r.score for r in self.results], box, (self.middle[0], self.middle[1] + _CAPTION))
        reach_x = max([self.middle[0] / 2, *(abs(x) + box[0] / 2 for x, _ in layout.centres)])
        reach_y = max([self.middle[1] / 2, *(abs(y) + box[1] / 2 for _, y in layout.centres)])
        # A ring that the paper would cut is none.
        round_scores = rings(layout.best, self.results[-1].score) if self.results else []
        marked = [score for score in round_scores if layout.radius(score) <= min(reach_x, reach_y) + MARGIN]
        width = max(2 * round(reach_x + MARGIN), 640)
        above, below = self._words(Canvas(1, 1), width - 2 * MARGIN)
        self.head = _HEAD + _LINE * (len(above) - 1)
        height = self.head + 2 * round(reach_y + MARGIN)
        self.canvas = Canvas(width, height + 24 + _LINE * max(len(below) - 1, 0))
        self.centre = (width / 2, self.head + reach_y + MARGIN)
        self.bottom = height
        shown = self._rings(layout, marked)
        self._lines(layout, [layout.radius(score) for score, _ in shown])
        for score, (left, top) in shown:
            self.canvas.pen.rectangle((left, top, left + _LABEL[0], top + _LABEL[1]), fill=PAPER)
            self.canvas.text((left + 3, top), f"{score:.2f}", 13, GREY)
        for result, judged, place in zip(self.results, self.marks, layout.centres, strict=True):
            self._result(result, judged, place)
        self._query()
        self.canvas.text((MARGIN, MARGIN - 12), "Closest images", 24, INK)
        if any(one.kind != "unknown" for one in self.marks):
            self.canvas.legend(MARGIN - 8, FRAMES)
        for top, lines in ((MARGIN + 20, above), (self.bottom, below)):
            for number, line in enumerate(lines):
                self.canvas.text((MARGIN, top + _LINE * number), line, 13, GREY)
        return self.canvas.image

    def _lines(self, layout: Layout, radii: Sequence[float]) -> None:
        """Rings, and a line from the query to each result, in the colour of its frame."""
        width, height = self.canvas.image.size
        large = Image.new("RGB", (width * _FINE, height * _FINE), PAPER)
        pen = ImageDraw.Draw(large)
        x, y = (at * _FINE for at in self.centre)
        for radius in radii:
            reach = radius * _FINE
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), outline=_RING, width=_FINE)
        for (dx, dy), judged in zip(layout.centres, self.marks, strict=True):
            end = (x + dx * _FINE, y + (dy - _CAPTION / 2) * _FINE)
            pen.line([(x, y), end], fill=COLOURS[judged.kind], width=2 * _FINE)
        self.canvas.image.paste(large.resize((width, height), Image.Resampling.BOX))

    def _rings(self, layout: Layout, marked: Sequence[float]) -> list[tuple[float, tuple[float, float]]]:
        """The circles of equal similarity, by score, and the place of its number; no room for that, no circle."""
        shown = []
        x, y = self.centre
        taken = [((0.0, 0.0), self.middle), *((centre, layout.size) for centre in layout.centres)]
        for score in marked:
            radius = layout.radius(score)
            # All around, those to the right of the top first, where a reader looks.
            around = [math.radians(-90 + sign * degrees) for degrees in range(9, 181, 3) for sign in (1, -1)]
            places = ((radius * math.cos(a), radius * math.sin(a)) for a in around)
            free = (at for at in places if self._inside(at) and not any(_overlap(at, _LABEL, *b) for b in taken))
            if (at := next(free, None)) is not None:
                taken.append((at, _LABEL))
                shown.append((score, (x + at[0] - _LABEL[0] / 2, y + at[1] - _LABEL[1] / 2)))
        return shown

    def _inside(self, at: tuple[float, float]) -> bool:
        x, y = self.centre[0] + at[0], self.centre[1] + at[1]
        width = self.canvas.image.width
        return _LABEL[0] < x < width - _LABEL[0] and self.head + _LABEL[1] < y < self.bottom - _LABEL[1]

    def _result(self, result: SearchResult, judged: Mark, place: tuple[float, float]) -> None:
        width, height = self.tile
        left = round(self.centre[0] + place[0] - width / 2)
        top = round(self.centre[1] + place[1] - (height + _CAPTION) / 2)
        self._card((left, top), self.tile, result.path, COLOURS[judged.kind])
        name = "no identity" if result.identity is None else result.identity
        colour = GREY if result.identity is None else INK
        self.canvas.text((left, top + height + 3), f"{result.rank}.  {name}", 15, colour, width)
        self.canvas.text((left, top + height + 21), f"{result.score:.3f}", 13, INK)
        if result.match is not None:
            self.canvas.badge((left + BORDER, top + height - BORDER - 1), judged.word, COLOURS[judged.tone])

    def _card(self, at: tuple[int, int], size: tuple[int, int], path: Path | None, colour: Colour) -> None:
        left, top = at
        # Paper below the caption, so that lines and rings do not run through it.
        self.canvas.pen.rectangle((left - 2, top - 2, left + size[0] + 1, top + size[1] + _CAPTION), fill=PAPER)
        self.canvas.tile(path, at, size[1], colour, size[0])

    def _query(self) -> None:
        width, height = self.middle
        left, top = round(self.centre[0] - width / 2), round(self.centre[1] - (height + _CAPTION) / 2)
        self._card((left, top), self.middle, self.answer.path, BLUE)
        name = "query" if self.identity is None else self.identity
        self.canvas.text((left, top + height + 3), name, 15, BLUE, width)
        file = self.answer.query if self.answer.path is None else self.answer.path.name
        self.canvas.text((left, top + height + 21), printable(file), 13, GREY, width)

    def _words(self, canvas: Canvas, room: int) -> tuple[list[str], list[str]]:
        """The lines above and below the picture. canvas: to measure them with."""
        left = len(self.answer.results) - len(self.results)
        parts = [amount(len(self.results), "result") if self.results else "no results"]
        parts += [f"{left} more not drawn"] if left else []
        parts += ["clockwise by rank", "nearer the middle: more alike (cosine similarity)"]
        parts += [BADGES] if self.answer.verdict else []
        above, below = " · ".join(parts), verdict_sentence(self.answer)
        return canvas.wrapped(above, 13, room), canvas.wrapped(below, 13, room)

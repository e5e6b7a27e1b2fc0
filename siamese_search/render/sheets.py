"""Pictures as PNG: contact sheets of results and proposed identities, and comparisons of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from PIL import Image

from siamese_search.curation.identities import Proposal, Proposals
from siamese_search.datasets.records import is_somebody
from siamese_search.errors import UsageError, amount, printable
from siamese_search.render import marks
from siamese_search.render.canvas import (
    BLUE,
    BORDER,
    COLOURS,
    GREY,
    INK,
    LINE,
    MARGIN,
    TILE_WIDTH,
    Canvas,
    Colour,
    save_png,
    usual_aspect,
)
from siamese_search.render.marks import BADGES, FRAMES, KINDS, mark, named_identity, paths_of, sightings, verdict
from siamese_search.render.matrix import labels, shade, write_comparison_page
from siamese_search.retrieval.comparison import Comparison
from siamese_search.retrieval.results import QueryResult, SearchResult

#: Queries drawn; a PNG of more would be too tall to look at. The sheet says how many it leaves out.
MAX_QUERIES = 100

_TILE_HEIGHT = (96, 256)
_GAP = 14
_CAPTION = 54
_CAPTION_LINE = 18
_TITLE = 64

#: Rows and columns drawn of a comparison, about a screenful; the picture says how many it leaves out.
MAX_SIDES = (8, 12)

_PAIR_GAP = 12
_PAIR_TITLE = 60
#: Room of an image, or of a score, in a table; and of its name, of two lines.
_CELL = (96, 82)
#: Of a table: a screenful, and the most of tall images in a row, where there are few.
_SCREENFUL, _TALLEST = 1190, 192
_NAME = 38

#: Clusters drawn, and images of each: a PNG of more would be too tall to look at.
MAX_CLUSTERS, MAX_IMAGES = 60, 12

_CLUSTERS: dict[str, Colour] = {"new": BLUE, "known": INK, "conflict": COLOURS["bad"]}
_CLUSTER_HEAD, _CLUSTER_GAP, _CLUSTER_TILE = 34, 10, 96


def draw_sheet(
    results: Sequence[QueryResult],
    out: Path,
    *,
    columns: int = 10,
    truth: bool = True,
    query_identities: Mapping[str, str] | Sequence[str | None] | None = None,
    title: str = "Search results",
) -> Path:
    """Draw a row per query (more where it has over ``columns`` results), as a PNG; returns ``out``.

    truth: borders and badges as :class:`~siamese_search.render.marks.Mark` has them; without, all are grey. A query's
    identity is what :func:`~siamese_search.render.marks.known_identities` makes of ``query_identities``.
    Raises UsageError for columns < 1 or nothing to draw, SiameseSearchError where ``out`` cannot be written.
    """
    if columns < 1:
        raise UsageError(f"a contact sheet needs at least 1 column, not {columns}")
    if not results:
        raise UsageError("there are no results to draw")
    shown = results[:MAX_QUERIES]
    columns = max(1, min(columns, max(len(result.results) for result in shown)))
    page = _Page(shown, columns, truth, marks.known_identities(results, query_identities), title, len(results))
    return save_png(page.draw(), out, "contact sheet")


@dataclass
class _Page:
    """Lays the sheet out and draws it."""

    results: Sequence[QueryResult]
    columns: int
    truth: bool
    identities: Sequence[str | None]
    title: str
    total: int

    def draw(self) -> Image.Image:
        self.tile_height = _tile_height(paths_of(self.results))
        grouped = any(sightings(found) for result in self.results for found in result.results)
        caption = _CAPTION + _CAPTION_LINE * grouped
        cell_width, cell_height = TILE_WIDTH + _GAP, self.tile_height + caption
        lines = [max(1, -(-len(result.results) // self.columns)) for result in self.results]
        # The query stands apart from its results by one more gap on each side of a rule.
        width = 2 * MARGIN + (self.columns + 1) * cell_width + 2 * _GAP
        height = 2 * MARGIN + _TITLE + sum(line * cell_height + 2 * _GAP for line in lines)
        self.canvas = Canvas(max(width, 560), height)
        self._heading()
        top = MARGIN + _TITLE
        for result, identity, line in zip(self.results, self.identities, lines):
            bottom = top + line * cell_height
            self._query(result, identity, top)
            rule = MARGIN + cell_width + _GAP // 2
            self.canvas.pen.line([(rule, top), (rule, bottom - _GAP)], fill=LINE, width=2)
            left = MARGIN + cell_width + 2 * _GAP
            for place, found in enumerate(result.results):
                row, column = divmod(place, self.columns)
                self._result(found, identity, left + column * cell_width, top + row * cell_height)
            if not result.results:
                self.canvas.text((left, top + 4), result.error or "no results", 15, GREY)
            top = bottom + 2 * _GAP
        return self.canvas.image

    def _heading(self) -> None:
        more = f", the first {len(self.results)} drawn" if self.total > len(self.results) else ""
        right = self.canvas.legend(MARGIN - 2, FRAMES) if self.truth else self.canvas.image.width - MARGIN
        self.canvas.text((MARGIN, MARGIN - 6), self.title, 24, INK, right - MARGIN)
        parts = [f"{amount(self.total, 'query')}{more}", "score: cosine similarity"]
        parts += [BADGES] if self.truth and any(answer.verdict for answer in self.results) else []
        room = self.canvas.image.width - 2 * MARGIN
        for number, line in enumerate(self.canvas.wrapped(" · ".join(parts), 13, room)):
            self.canvas.text((MARGIN, MARGIN + 26 + 17 * number), line, 13, GREY)

    def _query(self, result: QueryResult, identity: str | None, top: int) -> None:
        self.canvas.tile(result.path, (MARGIN, top), self.tile_height, BLUE)
        below = top + self.tile_height + 5
        self.canvas.text((MARGIN, below), "query" if identity is None else identity, 15, BLUE, TILE_WIDTH)
        name = result.query if result.path is None else result.path.name
        self.canvas.text((MARGIN, below + 20), printable(name), 13, GREY, TILE_WIDTH)

    def _result(self, result: SearchResult, identity: str | None, left: int, top: int) -> None:
        judged = mark(result, identity)
        colour = COLOURS[judged.kind if self.truth else "unknown"]
        self.canvas.tile(result.path, (left, top), self.tile_height, colour)
        if result.match is not None and self.truth:
            self.canvas.badge((left + BORDER, top + self.tile_height - BORDER - 1), judged.word, COLOURS[judged.tone])
        below = top + self.tile_height + 5
        score = f"{result.score:.3f}"
        score_width = self.canvas.width_of(score, 13)
        self.canvas.text((left + TILE_WIDTH - score_width, below + 20), score, 13, INK)
        name, colour = ("no identity", GREY) if result.identity is None else (result.identity, INK)
        self.canvas.text((left, below), f"{result.rank}.  {name}", 15, colour, TILE_WIDTH)
        if result.camera is not None:
            room = TILE_WIDTH - score_width - 8
            self.canvas.text((left, below + 20), f"camera {result.camera}", 13, GREY, room)
        if seen := sightings(result):
            self.canvas.text((left, below + 38), seen, 13, GREY, TILE_WIDTH)


def _tile_height(paths: Sequence[Path], width: int = TILE_WIDTH) -> int:
    """Height for the usual shape of these images, in bounds."""
    low, high = _TILE_HEIGHT
    inside = width - 2 * BORDER
    return round(min(high, max(low, inside * usual_aspect(paths) + 2 * BORDER)))


def draw_comparison(comparison: Comparison, out: Path) -> Path:
    """Write the picture of a comparison: one pair large, several as a table, left images down, right ones across.

    Words and cells say the verdict, the frames of a pair the truth where names of files do. A page (``.html``) has all
    pairs, a picture a screenful. Returns ``out``. Raises SiameseSearchError where it cannot be written.
    """
    if out.suffix.lower() in (".html", ".htm"):
        return write_comparison_page(comparison, _rule(comparison), out)
    single = comparison.scores.shape == (1, 1)
    return save_png(_pair(comparison) if single else _table(comparison), out, "picture")


def _rule(comparison: Comparison) -> str:
    if comparison.threshold is None:
        return "score: cosine similarity; no threshold"
    origin = "" if comparison.false_match_rate is None else f", false match rate {comparison.false_match_rate:.2g}"
    return f"same from a score of {comparison.threshold:.3f} on{origin}"


def _pair(comparison: Comparison) -> Image.Image:
    width = 208
    paths = (comparison.left[0], comparison.right[0])
    inside = width - 2 * BORDER
    height = max(round(inside * min(max(usual_aspect([path]), 0.5), 2.2)) + 2 * BORDER for path in paths)
    middle = 190
    canvas = Canvas(2 * MARGIN + 2 * width + middle, 2 * MARGIN + height + 50)
    colour = COLOURS[KINDS[verdict(named_identity(paths[0]), named_identity(paths[1]))]]
    word, shown = "not decided", INK
    if comparison.same is not None:
        word, shown = ("same", COLOURS["good"]) if comparison.same[0, 0] else ("different", COLOURS["bad"])
    right = MARGIN + width + middle
    for path, left in zip(paths, (MARGIN, right), strict=True):
        canvas.tile(path, (left, MARGIN), height, colour, width)
        canvas.text((left, MARGIN + height + 6), printable(path.name), 13, GREY, width)
    centre = MARGIN + width + middle // 2
    top = MARGIN + height // 2 - 52
    lines: list[tuple[str, int, Colour]] = [(word, 24, shown), (f"score {comparison.scores[0, 0]:.3f}", 15, INK)]
    if comparison.probabilities is not None:
        lines.append((f"probability {comparison.probabilities[0, 0]:.1%}", 15, INK))
    for text, size, ink in lines:
        canvas.text((centre - canvas.width_of(text, size) / 2, top), text, size, ink)
        top += size + 12
    canvas.text((MARGIN, MARGIN + height + 28), _rule(comparison), 13, GREY)
    return canvas.image


def _table(comparison: Comparison) -> Image.Image:
    nearest = comparison.nearest(*MAX_SIDES)
    left, right = nearest.left, nearest.right
    names = labels(left), labels(right)
    # As large as the room allows in the usual shape: nothing empty beside the images.
    room = min(_TALLEST, max(_CELL[1], _SCREENFUL // (len(left) + 1) - _NAME - _PAIR_GAP))
    aspect, inside = usual_aspect([*left, *right]), [side - 2 * BORDER for side in (_CELL[0], room)]
    width = round(min(inside[0], inside[1] / aspect)) + 2 * BORDER
    height = max(round(min(inside[1], inside[0] * aspect)), 24) + 2 * BORDER
    step_x, step_y = _CELL[0] + _PAIR_GAP, height + _NAME + _PAIR_GAP
    head = MARGIN + _PAIR_TITLE
    first = MARGIN + TILE_WIDTH + _PAIR_GAP
    canvas = Canvas(
        max(first + len(right) * step_x + MARGIN, 480),
        head + height + _NAME + _PAIR_GAP + len(left) * step_y + MARGIN - _PAIR_GAP,
    )
    canvas.text((MARGIN, MARGIN - 6), "Same or different", 24, INK)
    shown = f"{len(comparison.left)} by {len(comparison.right)} images"
    if len(left) < len(comparison.left) or len(right) < len(comparison.right):
        shown += f", the nearest {len(left)} by {len(right)} drawn (--save x.html has them all)"
    words = canvas.wrapped(f"{shown} · {_rule(comparison)}", 13, canvas.image.width - 2 * MARGIN)
    for number, line in enumerate(words):
        canvas.text((MARGIN, MARGIN + 26 + 16 * number), line, 13, GREY)
    for column, path in enumerate(right):
        at = first + column * step_x
        canvas.tile(path, (at + (_CELL[0] - width) // 2, head), height, BLUE, width)
        _name(canvas, names[1][column], (at, head + height + 4), centred=True)
    for row, path in enumerate(left):
        top = head + height + _NAME + _PAIR_GAP + row * step_y
        canvas.tile(path, (MARGIN, top), height, BLUE, width)
        _name(canvas, names[0][row], (MARGIN, top + height + 4))
        for column in range(len(right)):
            x = first + column * step_x
            fill, ink = shade(nearest, row, column)
            canvas.pen.rounded_rectangle((x, top, x + _CELL[0] - 1, top + height - 1), 6, fill=fill)
            text = f"{nearest.scores[row, column]:.3f}"
            reach = canvas.width_of(text, 15)
            canvas.text((x + (_CELL[0] - reach) / 2, top + height / 2 - 9), text, 15, ink)
    return canvas.image


def _name(canvas: Canvas, name: str, at: tuple[int, int], *, centred: bool = False) -> None:
    """A name below its image, in two lines where one is too short: names that only differ inside stay apart."""
    keep = next(n for n in range(len(name), -1, -1) if n < 2 or canvas.width_of(name[:n], 13) <= _CELL[0])
    for number, line in enumerate(filter(None, (name[:keep], name[keep:]))):
        reach = min(canvas.width_of(line, 13), _CELL[0])
        left = at[0] + (_CELL[0] - reach) // 2 if centred else at[0]
        canvas.text((left, at[1] + 16 * number), line, 13, GREY, _CELL[0])


def draw_clusters(proposals: Proposals, out: Path) -> Path:
    """A row of images per cluster, single images left out, as a PNG. Raises UsageError for nothing to draw. Frames say
    the truth where it is known: green the identity that it takes, or most of it have, red another."""
    grouped = [one for one in proposals.images if one.status != "single"]
    rows = [list(group) for _, group in groupby(grouped, lambda one: one.cluster)]
    if not rows:
        raise UsageError("there are no clusters to draw: every image stands alone")
    shown = rows[:MAX_CLUSTERS]
    columns = min(MAX_IMAGES, max(map(len, shown)))
    tile = _tile_height([Path(one.path) for row in shown for one in row[:3] if one.path], _CLUSTER_TILE)
    height = _CLUSTER_HEAD + tile + 26 + _CLUSTER_GAP
    width = max(640, 2 * MARGIN + columns * (_CLUSTER_TILE + _CLUSTER_GAP) - _CLUSTER_GAP)
    canvas = Canvas(width, 2 * MARGIN + 60 + len(shown) * height)
    canvas.text((MARGIN, MARGIN - 6), "Proposed identities", 24, INK)
    more = f", the first {len(shown)} drawn" if len(rows) > len(shown) else ""
    singles = len(proposals.images) - len(grouped)
    given = [one.existing is not None for row in shown for one in row]
    below = " or ".join(["its identity"] * any(given) + ["how sure the cluster is of it"] * (not all(given)))
    count = f"{amount(len(rows), 'cluster')}{more} · {amount(singles, 'single image')} · below each: {below}"
    canvas.text((MARGIN, MARGIN + 26), count, 13, GREY)
    if any(given):
        canvas.legend(MARGIN - 2, FRAMES)
    for place, row in enumerate(shown):
        _draw_cluster(canvas, row, tile, MARGIN + 60 + place * height)
    return save_png(canvas.image, out, "contact sheet")


def _draw_cluster(canvas: Canvas, row: list[Proposal], tile: int, top: int) -> None:
    first = row[0]
    given = Counter(one.existing for one in row if is_somebody(one.existing, one.key))
    whose = first.proposed if first.status == "known" else max(given, key=given.__getitem__, default=None)
    name = first.proposed or "conflict: " + ", ".join(sorted({one.existing for one in row if one.existing}))
    canvas.text((MARGIN, top), name, 15, _CLUSTERS[first.status], canvas.image.width - 2 * MARGIN - 120)
    count = amount(len(row), "image")
    canvas.text((canvas.image.width - MARGIN - canvas.width_of(count, 13), top + 2), count, 13, GREY)
    # The surest and, where not all have room, the least sure: those are where mistakes are.
    half = MAX_IMAGES // 2
    images = row if len(row) <= MAX_IMAGES else row[:half] + row[-half:]
    for column, one in enumerate(images):
        left = MARGIN + column * (_CLUSTER_TILE + _CLUSTER_GAP)
        below = top + _CLUSTER_HEAD - 8 + tile
        colour = COLOURS[KINDS[verdict(whose, one.existing)]]
        canvas.tile(Path(one.path) if one.path else None, (left, below - tile), tile, colour, _CLUSTER_TILE)
        if column == half - 1 and len(images) < len(row):
            canvas.badge((left + BORDER, below - BORDER - 1), f"+{len(row) - len(images):,}", INK)
        # How sure the clusters are says nothing of an image whose identity a person has given.
        sure = "" if one.confidence is None else f"{one.confidence:.2f}"
        text = sure if one.existing is None else f"is {one.existing}"
        canvas.text((left, below + 3), text, 13, GREY, _CLUSTER_TILE)

"""draw_sheet(): a contact sheet of search results as one PNG: query left, results ranked, border by truth."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from siamese_search.datasets.market1501 import parse_market_name
from siamese_search.datasets.records import JUNK_IDENTITY
from siamese_search.errors import ImageError, SiameseSearchError, UsageError, printable
from siamese_search.files import atomic_path
from siamese_search.images import FORMATS, read_image
from siamese_search.retrieval.results import QueryResult, SearchResult

Verdict = Literal["same", "different", "unknown"]
Colour = tuple[int, int, int]

#: Queries drawn; a PNG of more would be too tall to look at. The sheet says how many it leaves out.
MAX_QUERIES = 100

_PAPER: Colour = (250, 250, 248)
_CARD: Colour = (255, 255, 255)
_INK: Colour = (32, 33, 36)
_GREY: Colour = (110, 114, 120)
_LINE: Colour = (222, 224, 228)
#: Green and red of the Okabe–Ito kind: told apart with red-green blindness by their lightness.
_COLOURS: dict[Verdict, Colour] = {
    "same": (0, 146, 94),
    "different": (205, 62, 38),
    "unknown": (160, 165, 172),
}
_QUERY: Colour = (38, 92, 166)
_MEANING: dict[Verdict, str] = {
    "same": "same identity",
    "different": "another identity",
    "unknown": "not known",
}

_TILE_WIDTH = 128
_TILE_HEIGHT = (96, 256)
_BORDER = 5
_GAP = 14
_MARGIN = 28
_CAPTION = 54
_CAPTION_LINE = 18
_TITLE = 64


def draw_sheet(
    results: Sequence[QueryResult],
    out: Path,
    *,
    columns: int = 10,
    truth: bool = True,
    query_identities: Mapping[str, str] | Sequence[str | None] | None = None,
    title: str = "Search results",
) -> Path:
    """Draw a row per query (more where it has over ``columns`` results) and write a PNG, atomically.

    truth: colour borders by whether a result has the query's identity: green the same, red another, grey not
    known. A query's identity is what ``query_identities`` says (by ``QueryResult.query``, or one per result in
    order), else what the gallery knows of that file, else what a Market-1501 file name says. Where it is not
    known, and without ``truth``, borders are grey.

    An image that cannot be read becomes a tile that says so. At most :data:`MAX_QUERIES` queries are drawn.
    Returns ``out``. Raises UsageError for columns < 1 or nothing to draw, SiameseSearchError where ``out``
    cannot be written.
    """
    if columns < 1:
        raise UsageError(f"a contact sheet needs at least 1 column, not {columns}")
    if not results:
        raise UsageError("there are no results to draw")
    shown = results[:MAX_QUERIES]
    columns = max(1, min(columns, max(len(result.results) for result in shown)))
    page = _Page(shown, columns, truth, _identities(results, query_identities), title, len(results))
    image = page.draw()
    try:
        with atomic_path(out) as aside:
            image.save(aside, format="PNG", optimize=False)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SiameseSearchError(f"{printable(out)}: the contact sheet cannot be written: {reason}") from None
    return out


def _identities(
    results: Sequence[QueryResult], given: Mapping[str, str] | Sequence[str | None] | None
) -> list[str | None]:
    """The known identity of each query."""
    identities: list[str | None] = []
    for index, result in enumerate(results):
        identity = None
        if isinstance(given, Mapping):
            identity = given.get(result.query)
        elif given is not None and index < len(given):
            identity = given[index]
        if identity is None:
            identity = result.identity
        if identity is None and result.path is not None:
            parsed = parse_market_name(result.path.name)
            identity = parsed[0] if parsed else None
        identities.append(identity)
    return identities


def verdict(query_identity: str | None, result: SearchResult) -> Verdict:
    """Whether a result shows the query's identity; junk and unlabelled images are ``unknown``."""
    if query_identity in (None, JUNK_IDENTITY) or result.identity in (None, JUNK_IDENTITY):
        return "unknown"
    return "same" if result.identity == query_identity else "different"


class _Page:
    """Lays the sheet out and draws it."""

    def __init__(
        self,
        results: Sequence[QueryResult],
        columns: int,
        truth: bool,
        identities: Sequence[str | None],
        title: str,
        total: int,
    ) -> None:
        self.results = results
        self.columns = columns
        self.truth = truth
        self.identities = identities
        self.title = title
        self.total = total
        self.tile_height = _tile_height(results)
        self.fonts = {size: ImageFont.load_default(size) for size in (13, 15, 24)}

    def draw(self) -> Image.Image:
        grouped = any(found.sightings is not None for result in self.results for found in result.results)
        caption = _CAPTION + _CAPTION_LINE * grouped
        cell_width, cell_height = _TILE_WIDTH + _GAP, self.tile_height + caption
        lines = [max(1, -(-len(result.results) // self.columns)) for result in self.results]
        # The query stands apart from its results by one more gap on each side of a rule.
        width = 2 * _MARGIN + (self.columns + 1) * cell_width + 2 * _GAP
        height = 2 * _MARGIN + _TITLE + sum(line * cell_height + 2 * _GAP for line in lines)
        self.image = Image.new("RGB", (max(width, 560), height), _PAPER)
        self.pen = ImageDraw.Draw(self.image)
        self._heading()
        top = _MARGIN + _TITLE
        for index, (result, line) in enumerate(zip(self.results, lines, strict=True)):
            bottom = top + line * cell_height
            self._query(result, self.identities[index], top)
            rule = _MARGIN + cell_width + _GAP // 2
            self.pen.line([(rule, top), (rule, bottom - _GAP)], fill=_LINE, width=2)
            left = _MARGIN + cell_width + 2 * _GAP
            for place, found in enumerate(result.results):
                row, column = divmod(place, self.columns)
                self._result(
                    found, self.identities[index], left + column * cell_width, top + row * cell_height
                )
            if not result.results:
                self._text((left, top + 4), result.error or "no results", 15, _GREY)
            top = bottom + 2 * _GAP
        return self.image

    def _heading(self) -> None:
        more = f", the first {len(self.results)} drawn" if self.total > len(self.results) else ""
        self._text((_MARGIN, _MARGIN - 6), self.title, 24, _INK)
        count = f"{self.total} {'query' if self.total == 1 else 'queries'}{more}  ·  score: cosine similarity"
        self._text((_MARGIN, _MARGIN + 26), count, 13, _GREY)
        if not self.truth:
            return
        right = self.image.width - _MARGIN
        for kind in reversed(_MEANING):
            label = _MEANING[kind]
            right -= int(self.pen.textlength(label, self.fonts[13]))
            self._text((right, _MARGIN - 2), label, 13, _GREY)
            right -= 20
            box = (right, _MARGIN - 1, right + 13, _MARGIN + 12)
            self.pen.rounded_rectangle(box, 3, fill=_COLOURS[kind])
            right -= 16

    def _query(self, result: QueryResult, identity: str | None, top: int) -> None:
        self._tile(result.path, _MARGIN, top, _QUERY)
        below = top + self.tile_height + 5
        self._text((_MARGIN, below), "query" if identity is None else identity, 15, _QUERY, _TILE_WIDTH)
        name = result.query if result.path is None else result.path.name
        self._text((_MARGIN, below + 20), printable(name), 13, _GREY, _TILE_WIDTH)

    def _result(self, result: SearchResult, identity: str | None, left: int, top: int) -> None:
        kind: Verdict = verdict(identity, result) if self.truth else "unknown"
        self._tile(result.path, left, top, _COLOURS[kind])
        below = top + self.tile_height + 5
        score = f"{result.score:.3f}"
        score_width = int(self.pen.textlength(score, self.fonts[13]))
        self._text((left + _TILE_WIDTH - score_width, below + 20), score, 13, _INK)
        name = result.identity if result.identity is not None else "no identity"
        colour = _INK if result.identity is not None else _GREY
        self._text((left, below), f"{result.rank}. {name}", 15, colour, _TILE_WIDTH)
        if result.camera is not None:
            camera_room = _TILE_WIDTH - score_width - 8
            self._text((left, below + 20), f"camera {result.camera}", 13, _GREY, camera_room)
        if result.sightings is not None:
            self._text((left, below + 38), _sightings(result), 13, _GREY, _TILE_WIDTH)

    def _tile(self, path: Path | None, left: int, top: int, colour: Colour) -> None:
        """One picture, whole, centred in its frame."""
        right, bottom = left + _TILE_WIDTH, top + self.tile_height
        self.pen.rounded_rectangle((left, top, right - 1, bottom - 1), 6, fill=colour)
        inner = (left + _BORDER, top + _BORDER, right - 1 - _BORDER, bottom - 1 - _BORDER)
        self.pen.rectangle(inner, fill=_CARD)
        room = (_TILE_WIDTH - 2 * _BORDER, self.tile_height - 2 * _BORDER)
        try:
            if path is None:
                raise ImageError("", "no file")
            picture = Image.fromarray(read_image(path))
        except ImageError as error:
            self.pen.line([(inner[0], inner[1]), (inner[2], inner[3])], fill=_LINE, width=2)
            self.pen.line([(inner[0], inner[3]), (inner[2], inner[1])], fill=_LINE, width=2)
            reason = error.reason if error.reason in ("no such file", "no file") else "unreadable"
            reach = self.pen.textlength(reason, self.fonts[13])
            middle = (top + bottom) // 2
            at = (left + (_TILE_WIDTH - reach) / 2, middle - 9)
            self.pen.rectangle((at[0] - 4, at[1] - 2, at[0] + reach + 4, at[1] + 18), fill=_CARD)
            self._text(at, reason, 13, _GREY)
            return
        scale = min(room[0] / picture.width, room[1] / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        self.image.paste(
            picture, (left + (_TILE_WIDTH - size[0]) // 2, top + (self.tile_height - size[1]) // 2)
        )

    def _text(
        self, at: tuple[float, float], text: str, size: int, colour: Colour, room: int | None = None
    ) -> None:
        font = self.fonts[size]
        text = printable(text)
        if room is not None:
            text = elide(text, lambda part: self.pen.textlength(part, font) <= room)
        self.pen.text(at, text, fill=colour, font=font)


def elide(text: str, fits: Callable[[str], bool]) -> str:
    """The text, or its beginning and end around an ellipsis, as much as ``fits``: names differ at both ends."""
    if fits(text):
        return text
    low, high = 0, min(len(text), 200)  # nothing longer ever fits a tile
    while low < high:
        keep = (low + high + 1) // 2
        if fits(_shortened(text, keep)):
            low = keep
        else:
            high = keep - 1
    return _shortened(text, low)


def _shortened(text: str, keep: int) -> str:
    tail = keep // 3
    return text[: keep - tail] + "…" + text[len(text) - tail :]


def _sightings(result: SearchResult) -> str:
    """``7× cam 1, 2``: how often and where the identity was seen."""
    if result.cameras:
        return f"{result.sightings}× cam {', '.join(result.cameras)}"
    return f"{result.sightings} image{'s' * (result.sightings != 1)}"


def _tile_height(results: Sequence[QueryResult]) -> int:
    """Height for the usual shape of these images, in bounds: people are tall, cars are wide."""
    aspects = []
    paths = [path for r in results for path in (r.path, *(found.path for found in r.results[:3])) if path]
    for path in paths[:24]:
        with (
            suppress(Exception),
            Image.open(path, formats=FORMATS) as image,
        ):  # the tile will name what is wrong
            aspects.append(image.height / image.width)
    aspect = statistics.median(aspects) if aspects else 1.0
    low, high = _TILE_HEIGHT
    return round(min(high, max(low, (_TILE_WIDTH - 2 * _BORDER) * aspect + 2 * _BORDER)))

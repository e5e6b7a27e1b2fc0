"""An embedding map, as one PNG with a legend, and as one page that needs nothing else.

On the page an image shows when its dot is pointed at.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from PIL import Image, ImageDraw

from siamese_search._version import __version__
from siamese_search.render.canvas import CARD, GREY, INK, LINE, PAPER, Canvas, save_png
from siamese_search.render.html import escaped, page, picture_url, scatter, write_page
from siamese_search.retrieval.map import GREY as NOBODY
from siamese_search.retrieval.map import Colour, Colouring, GalleryMap, colouring, placed, scale_colour

_SIDE = 900
_MARGIN = 28
_TITLE = 64
_LEGEND = 220
_LINE_HEIGHT = 24
#: Dots are drawn this many times larger, and reduced: smooth edges.
_FINE = 3

_PICTURE = (72, 72)
#: Images on one page: 2,000 of them take about 5 MB. Further points have a caption only.
MAX_PICTURES = 2000


def draw_map(found: GalleryMap, out: Path) -> Path:
    """Write the picture, atomically; returns ``out``. Raises SiameseSearchError where it cannot be written."""
    colours = colouring(found)
    canvas = Canvas(2 * _MARGIN + _SIDE + _LEGEND, 2 * _MARGIN + _TITLE + _SIDE)
    canvas.text((_MARGIN, _MARGIN - 6), found.title, 24, INK, _SIDE)
    canvas.text((_MARGIN, _MARGIN + 26), found.caption, 13, GREY, _SIDE)
    top = _MARGIN + _TITLE
    canvas.image.paste(_dots(found, colours), (_MARGIN, top))
    canvas.pen.rectangle((_MARGIN, top, _MARGIN + _SIDE - 1, top + _SIDE - 1), outline=LINE)
    _legend(canvas, found, colours, _MARGIN + _SIDE + 20, top)
    return save_png(canvas.image, out, "map")


def _dots(found: GalleryMap, colours: Colouring) -> Image.Image:
    radius = max(3.0, min(8.0, 90 / max(len(found.points), 1) ** 0.5))
    side = _SIDE * _FINE
    image = Image.new("RGB", (side, side), CARD)
    pen = ImageDraw.Draw(image)
    inset = radius + 8
    order = sorted(
        range(len(found.points)), key=lambda place: colours.colours[place] != NOBODY
    )  # below the others
    spots = placed(found.places)
    for place in order:
        x = (inset + spots[place, 0] * (_SIDE - 2 * inset)) * _FINE
        y = (inset + (1 - spots[place, 1]) * (_SIDE - 2 * inset)) * _FINE
        reach = radius * _FINE
        pen.ellipse(
            (x - reach, y - reach, x + reach, y + reach),
            fill=colours.colours[place],
            outline=CARD,
            width=_FINE,
        )
    return image.resize((_SIDE, _SIDE), Image.Resampling.BOX)


def _key(colour: Colour) -> Image.Image:
    image = Image.new("RGB", (14 * _FINE, 14 * _FINE), PAPER)
    ImageDraw.Draw(image).ellipse((0, 0, 14 * _FINE - 1, 14 * _FINE - 1), fill=colour)
    return image.resize((14, 14), Image.Resampling.BOX)


def _legend(canvas: Canvas, found: GalleryMap, colours: Colouring, left: int, top: int) -> None:
    room = _LEGEND - 20
    canvas.text((left, top), found.color, 15, INK, room)
    top += 28
    if colours.scale is not None:
        low, high = colours.scale
        for row in range(160):
            canvas.pen.line([(left, top + row), (left + 17, top + row)], fill=scale_colour(1 - row / 159))
        canvas.text((left + 26, top - 4), f"{high:.6g}", 13, GREY, room - 26)
        canvas.text((left + 26, top + 148), f"{low:.6g}", 13, GREY, room - 26)
        top += 180
    for entry in colours.entries:
        canvas.image.paste(_key(entry.colour), (left, top + 2))
        count = f"{entry.count:,}"
        reach = canvas.width_of(count, 13)
        canvas.text((left + 22, top), entry.label, 13, INK, room - 22 - reach - 8)
        canvas.text((left + room - reach, top), count, 13, GREY)
        top += _LINE_HEIGHT
    if colours.more:
        canvas.text((left + 22, top), f"and {colours.more:,} more", 13, GREY, room - 22)


def write_map_page(found: GalleryMap, out: Path) -> Path:
    """Write the page, atomically; returns ``out``. Raises SiameseSearchError where it cannot be written."""
    return write_page(map_page(found), out, "map")


def map_page(found: GalleryMap) -> str:
    """The whole page."""
    colours = colouring(found)
    captions = []
    for point in found.points:
        identity = "no identity" if point.identity is None else point.identity
        parts = [identity] if point.camera is None else [identity, f"camera {point.camera}"]
        if found.color not in ("identity", "camera"):
            parts.append(f"{found.color} {'none' if point.value is None else point.value}")
        captions.append(f"{', '.join(parts)}: {Path(point.key).name}")
    pictures = [picture_url(point.path, _PICTURE) for point in found.points[:MAX_PICTURES]]
    pictures += [""] * (len(found.points) - len(pictures))
    dots = scatter(found.places, [_css(colour) for colour in colours.colours], captions, pictures)
    text = f"{found.caption}; point at a dot to see the image."
    if len(found.points) > MAX_PICTURES:
        text += f" The first {MAX_PICTURES:,} have one."
    style = (resources.files("siamese_search.render") / "map.css").read_text(encoding="utf-8")
    body = (
        f'<p>{escaped(text)}</p><div class="layout"><figure>{dots}</figure>{_page_legend(found, colours)}</div>'
        f"<footer><p>{escaped(found.store)} · model {escaped(found.model)} · made by siamese-search"
        f" {escaped(__version__)}</p></footer>"
    )
    return page(found.title, body, style)


def _page_legend(found: GalleryMap, colours: Colouring) -> str:
    parts = [f"<b>{escaped(found.color)}</b>"]
    if colours.scale is not None:
        low, high = colours.scale
        stops = ",".join(_css(scale_colour(share / 4)) for share in range(4, -1, -1))
        style = f"border-image:linear-gradient({stops}) 1"
        parts.append(
            f'<div class="scale" style="{style}"><span>{high:.6g}</span><span>{low:.6g}</span></div>'
        )
    lines = [
        f'<li><i class="key" style="background:{_css(entry.colour)}"></i><span>{escaped(entry.label)}</span>'
        f"<em>{entry.count:,}</em></li>"
        for entry in colours.entries
    ]
    if colours.more:
        lines.append(f"<li><em>and {colours.more:,} more</em></li>")
    return f'<div>{parts[0]}{"".join(parts[1:])}<ul class="legend">{"".join(lines)}</ul></div>'


def _css(colour: Colour) -> str:
    return f"rgb({colour[0]} {colour[1]} {colour[2]})"

"""An embedding map, as one PNG with a legend, and as a page on which an image shows when its dot is pointed at."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from siamese_search.render.canvas import CARD, GREY, INK, LINE, MARGIN, PAPER, Canvas, save_png
from siamese_search.render.pages import picture, render, scattered, write_page
from siamese_search.retrieval.map import GREY as NOBODY
from siamese_search.retrieval.map import STOPS, Colouring, GalleryMap, MapPoint, colouring, placed, scale_colour

_SIDE = 900
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
    canvas = Canvas(2 * MARGIN + _SIDE + _LEGEND, 2 * MARGIN + _TITLE + _SIDE)
    canvas.text((MARGIN, MARGIN - 6), found.title, 24, INK, _SIDE)
    canvas.text((MARGIN, MARGIN + 26), found.caption, 13, GREY, _SIDE)
    top = MARGIN + _TITLE
    canvas.image.paste(_dots(found, colours), (MARGIN, top))
    canvas.pen.rectangle((MARGIN, top, MARGIN + _SIDE - 1, top + _SIDE - 1), outline=LINE)
    _legend(canvas, found, colours, MARGIN + _SIDE + 20, top)
    return save_png(canvas.image, out, "map")


def _dots(found: GalleryMap, colours: Colouring) -> Image.Image:
    radius = max(3.0, min(8.0, 90 / max(len(found.points), 1) ** 0.5))
    side = _SIDE * _FINE
    image = Image.new("RGB", (side, side), CARD)
    pen = ImageDraw.Draw(image)
    inset, reach = radius + 8, radius * _FINE
    spots = zip(placed(found.places), colours.colours, strict=True)
    for (across, up), colour in sorted(spots, key=lambda spot: spot[1] != NOBODY):  # nobody below the others
        x, y = ((inset + share * (_SIDE - 2 * inset)) * _FINE for share in (across, 1 - up))
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour, outline=CARD, width=_FINE)
    return image.resize((_SIDE, _SIDE), Image.Resampling.BOX)


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
    # As many as there is room for beside the map, and a line for the others.
    room_for = (_TITLE + MARGIN + _SIDE - top) // _LINE_HEIGHT
    shown = len(colours.entries) if len(colours.entries) <= room_for else max(colours.first, room_for - 1)
    for entry in colours.entries[:shown]:
        key = Image.new("RGB", (14 * _FINE, 14 * _FINE), PAPER)
        ImageDraw.Draw(key).ellipse((0, 0, 14 * _FINE - 1, 14 * _FINE - 1), fill=entry.color)
        canvas.image.paste(key.resize((14, 14), Image.Resampling.BOX), (left, top + 2))
        count = f"{entry.count:,}"
        reach = canvas.width_of(count, 13)
        canvas.text((left + 22, top), entry.label, 13, INK, room - 22 - reach - 8)
        canvas.text((left + room - reach, top), count, 13, GREY)
        top += _LINE_HEIGHT
    if more := len(colours.entries) - shown:
        canvas.text((left + 22, top), f"and {more:,} more", 13, GREY, room - 22)


def write_map_page(found: GalleryMap, out: Path) -> Path:
    """Write the page, atomically; returns ``out``. Raises SiameseSearchError where it cannot be written."""
    return write_page(map_page(found), out, "map")


def map_page(found: GalleryMap) -> str:
    """The whole page."""
    colours = colouring(found)
    urls = [picture(point.path, _PICTURE).url if at < MAX_PICTURES else "" for at, point in enumerate(found.points)]
    captions = [_caption(found, point) for point in found.points]
    names = [point.identity for point in found.points]
    return render(
        "map.html.j2",
        title=found.title,
        found=found,
        colours=colours,
        stops=STOPS,
        dots=scattered(found.places, colours.colours, captions, urls, names, colours.codes),
        most_pictures=MAX_PICTURES,
    )


def _caption(found: GalleryMap, point: MapPoint) -> str:
    """``ann, camera 2, frame 17: cam2/0001.jpg``."""
    parts = ["no identity" if point.identity is None else point.identity]
    if point.camera is not None:
        parts.append(f"camera {point.camera}")
    if found.color not in ("identity", "camera"):
        parts.append(f"{found.color} {'none' if point.value is None else point.value}")
    return f"{', '.join(parts)}: {point.key}"

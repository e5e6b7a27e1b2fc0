"""write_map_page(): an embedding map as one page that needs nothing else; an image shows when its dot is pointed at."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from siamese_search import __version__
from siamese_search.render.html import escaped, page, picture_url, scatter, write_page
from siamese_search.retrieval.map import Colour, Colouring, GalleryMap, colouring, scale_colour

_PICTURE = (72, 72)
#: Images on one page: 2,000 of them take about 5 MB. Further points have a caption only.
MAX_PICTURES = 2000


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
        f'<p>{escaped(text)}</p><div class="layout"><figure>{dots}</figure>{_legend(found, colours)}</div>'
        f"<footer><p>{escaped(found.store)} · model {escaped(found.model)} · made by siamese-search"
        f" {escaped(__version__)}</p></footer>"
    )
    return page(found.title, body, style)


def _legend(found: GalleryMap, colours: Colouring) -> str:
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

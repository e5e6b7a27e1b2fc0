"""Parts of pages that need nothing else: one file, no script, no request to anybody, light and dark.

Names come from strangers' directories: :func:`escaped` is the only way for text onto a page. Images are encoded anew,
small, as data URIs, so that what a stranger hid in a file stays out.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_search.errors import ImageError, SiameseSearchError, printable
from siamese_search.io.files import atomic_write_text
from siamese_search.io.images import read_image

_QUALITY = 70
#: Should anything ever slip through: a browser that reads this asks nobody and runs nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, body: str, style: str = "") -> str:
    """A whole page. title: plain text. body, style: HTML and CSS, taken as they are, after the style of all pages."""
    shared = (resources.files(__package__) / "html.css").read_text(encoding="utf-8")
    name = escaped(title)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<title>{name}</title><style>{shared}{style}</style></head><body><h1>{name}</h1>{body}</body></html>\n"
    )


def escaped(value: object) -> str:
    """Any value as text of a page or of an attribute in double quotes; control characters are spelled out."""
    return escape(printable(str(value)))


def picture_url(path: Path | None, size: tuple[int, int]) -> str:
    """:func:`encoded`, and "" where the image cannot be read."""
    try:
        return "" if path is None else encoded(path, size)
    except ImageError:
        return ""


def encoded(path: Path, size: tuple[int, int]) -> str:
    """A data URI of the image, shape kept, for ``size`` (height, width) in CSS pixels.

    It has twice those pixels, for dense screens, and never more than the file. Raises ImageError.
    """
    picture = Image.fromarray(read_image(path, (2 * size[0], 2 * size[1]), fit=True))
    held = io.BytesIO()
    picture.save(held, format="JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode("ascii")


def scatter(
    points: NDArray[np.float64], colours: Sequence[str], captions: Sequence[str], pictures: Sequence[str]
) -> str:
    """Dots on a square, each with its picture and caption while it is pointed at.

    points: float64 [n, 2], on one scale, so that distances compare. colours: n of CSS. captions: n plain texts.
    pictures: n data URIs, "" for none.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    placed = ((points - (low + high) / 2) / (float((high - low).max()) or 1.0) + 0.5) * 96 + 2
    dots = []
    for (x, y), colour, caption, picture in zip(placed, colours, captions, pictures, strict=True):
        image = f'<img src="{picture}" alt="" loading="lazy">' if picture else ""
        style = f"left:{x:.1f}%;bottom:{y:.1f}%;background:{colour}"
        # Near an edge the card opens inwards.
        sides = " ".join(name for name, near in (("l", x < 10), ("r", x > 90), ("t", y > 80)) if near)
        edge = f' class="{sides}"' if sides else ""
        dots.append(f'<i{edge} style="{style}"><span>{image}{escaped(caption)}</span></i>')
    return f'<div class="map">{"".join(dots)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts. head: column names, empty for none."""
    top = "<tr>" + "".join(f"<th>{escaped(name)}</th>" for name in head) + "</tr>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{top}{body}</table>"


def write_page(text: str, out: Path, what: str) -> Path:
    """Write a page, atomically; returns ``out``. Raises SiameseSearchError where that fails. what: for people."""
    try:
        atomic_write_text(out, text.encode("utf-8", "backslashreplace").decode())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SiameseSearchError(f"{printable(out)}: the {what} cannot be written: {reason}") from None
    return out

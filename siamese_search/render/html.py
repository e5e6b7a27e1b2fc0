"""Pages that need nothing else, from ``templates/``: one file, no request to anybody, light and dark.

No script but that of maps, ``static/plane.js``, whose sum the page's own policy names.

Names come from strangers' directories: the templates escape every value, and spell out control characters. Images are
encoded anew, small, as data URIs, so that what a stranger hid in a file stays out.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from siamese_search.errors import ImageError, printable
from siamese_search.io.files import atomic_write_text
from siamese_search.io.images import read_image
from siamese_search.render.canvas import short_reason, writing
from siamese_search.render.marks import percent, sightings

_QUALITY = 70


@dataclass(frozen=True, slots=True)
class Picture:
    """url: a data URI, or "" and the ``reason`` why there is none."""

    url: str
    reason: str = ""


def render(template: str, **values: object) -> str:
    """The whole page. Whatever is not ``Markup`` is escaped; a name that the template lacks is an error."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    made = environment(PackageLoader(__package__), PackageLoader(__package__, "static"))
    script = files(__package__).joinpath("static/plane.js").read_text(encoding="utf-8")
    proof = base64.b64encode(sha256(script.encode()).digest()).decode()
    made.globals |= {"script": Markup(script), "script_proof": Markup(f"sha256-{proof}")}
    made.filters |= {"probability": percent, "rate": rate, "sightings": sightings, "small_rate": small_rate}
    return made


def environment(*loaders: BaseLoader) -> Environment:
    """Templates that escape every value, and spell out control characters; those of the first loader that has them."""
    made = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_spelled_out,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["thousands"] = lambda number: f"{number:,}"
    return made


def _spelled_out(value: object) -> object:
    """Control characters as escapes; what is markup already went through here when it was made."""
    return value if isinstance(value, Markup) else printable(str(value))


def rate(value: float | None) -> str:
    """A share in percent; ``n/a`` for NaN and None."""
    return "n/a" if value is None or value != value else f"{value:.1%}"


def small_rate(value: float) -> str:
    """A rate for people: two digits that count, however small."""
    return rate(value) if value != value or value >= 0.0095 or value == 0 else f"{100 * value:.2g}%"


def rgb(colour: tuple[int, int, int]) -> str:
    """A colour of CSS."""
    return "rgb({} {} {})".format(*colour)


def picture(path: Path | None, size: tuple[int, int]) -> Picture:
    """:func:`encoded`, or why it cannot be."""
    try:
        if path is None:
            raise ImageError("", "no file")
        return Picture(encoded(path, size))
    except ImageError as error:
        return Picture("", short_reason(error))


def encoded(path: Path, size: tuple[int, int]) -> str:
    """A data URI of the image, shape kept, for ``size`` (height, width) in CSS pixels.

    It has twice those pixels, for dense screens, and never more than the file. Raises ImageError.
    """
    shown = Image.fromarray(read_image(path, (2 * size[0], 2 * size[1]), fit=True))
    held = io.BytesIO()
    shown.save(held, format="JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode("ascii")


def scattered(
    points: NDArray[np.float64],
    colours: Sequence[str],
    captions: Sequence[str],
    urls: Sequence[str],
    names: Sequence[str | None],
    codes: Iterable[int] = repeat(-1),
) -> list[dict[str, Any]]:
    """The dots of ``scatter()`` in ``parts.html.j2``. points: float64 [n, 2], on one scale, so that distances compare.

    urls: data URIs, or "". names: of identities. codes: lines of the legend, -1 for none.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    placed = ((points - (low + high) / 2) / (float((high - low).max()) or 1.0) + 0.5) * 96 + 2
    dots = []
    for (x, y), colour, caption, url, name, code in zip(placed, colours, captions, urls, names, codes):
        edges = " ".join(name for name, near in (("l", x < 10), ("r", x > 90), ("t", y > 80)) if near)
        place = {"x": f"{x:.3f}", "y": f"{y:.3f}", "edges": edges}
        dots.append(place | {"colour": colour, "caption": caption, "url": url, "name": name, "code": code})
    return dots


def write_page(text: str, out: Path, what: str) -> Path:
    """Write a page, atomically; returns ``out``. Raises SiameseSearchError where that fails. what: for people."""
    with writing(out, what):
        atomic_write_text(out, text.encode("utf-8", "backslashreplace").decode())
    return out

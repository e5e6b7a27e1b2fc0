"""Canvas: pictures of images in frames with captions, for contact sheets and comparisons."""

from __future__ import annotations

import statistics
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from siamese_search.errors import ImageError, printable
from siamese_search.io.files import OWN_TEXT, atomic_path, writing
from siamese_search.io.images import FORMATS, read_image
from siamese_search.retrieval.map import luminance

Colour = tuple[int, int, int]

PAPER: Colour = (250, 250, 248)
CARD: Colour = (255, 255, 255)
INK: Colour = (32, 33, 36)
GREY: Colour = (110, 114, 120)
LINE: Colour = (222, 224, 228)
PALE: Colour = (160, 165, 172)
GREEN: Colour = (0, 146, 94)
RED: Colour = (205, 62, 38)
BLUE: Colour = (38, 92, 166)

MARGIN = 28
TILE_WIDTH = 128
BORDER = 5
#: Of frames and badges, by what :mod:`siamese_search.render.marks` says. Green and red of the Okabe–Ito kind: told
#: apart with red-green blindness by their lightness.
COLOURS: dict[str, Colour] = {"good": GREEN, "bad": RED, "unknown": PALE}


class Canvas:
    """A sheet of paper. sizes: of its text, 13, 15 and 24."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def width_of(self, text: str, size: int) -> int:
        text, font = _drawable(text, size)
        return int(self.pen.textlength(text, font))

    def tile(
        self, path: Path | None, at: tuple[int, int], height: int, colour: Colour, width: int = TILE_WIDTH
    ) -> None:
        """One picture, whole, centred in a frame of this colour; a file that cannot be read says so there."""
        left, top = at
        right, bottom = left + width, top + height
        self.pen.rounded_rectangle((left, top, right - 1, bottom - 1), 6, fill=colour)
        inner = (left + BORDER, top + BORDER, right - 1 - BORDER, bottom - 1 - BORDER)
        self.pen.rectangle(inner, fill=CARD)
        picture = shown(path)
        if isinstance(picture, str):
            self.pen.line([(inner[0], inner[1]), (inner[2], inner[3])], fill=LINE, width=2)
            self.pen.line([(inner[0], inner[3]), (inner[2], inner[1])], fill=LINE, width=2)
            reach = self.width_of(picture, 13)
            place = (left + (width - reach) / 2, (top + bottom) // 2 - 9)
            self.pen.rectangle((place[0] - 4, place[1] - 2, place[0] + reach + 4, place[1] + 18), fill=CARD)
            self.text(place, picture, 13, GREY)
            return
        scale = min((width - 2 * BORDER) / picture.width, (height - 2 * BORDER) / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        self.image.paste(picture, (left + (width - size[0]) // 2, top + (height - size[1]) // 2))

    def badge(self, at: tuple[int, int], word: str, colour: Colour) -> None:
        """A word on a label of this colour; ``at`` is its lower left corner."""
        reach, (left, bottom) = self.width_of(word, 13), at
        self.pen.rounded_rectangle((left, bottom - 19, left + reach + 10, bottom), 4, fill=colour)
        self.text((left + 5, bottom - 18), word, 13, CARD)

    def legend(self, top: int, frames: Mapping[str, str]) -> int:
        """What colours of frames mean, in the upper right corner; returns where that begins."""
        right = self.image.width - MARGIN
        for kind, word in reversed(list(frames.items())):
            right -= self.width_of(word, 13)
            self.text((right, top), word, 13, GREY)
            right -= 20
            self.pen.rounded_rectangle((right, top + 1, right + 13, top + 14), 3, fill=COLOURS[kind])
            right -= 16
        return right

    def wrapped(self, text: str, size: int, room: int) -> list[str]:
        """The text in lines, broken between words; only a word that is longer than ``room`` is longer."""
        lines: list[str] = []
        for word in printable(text).split():
            if lines and self.width_of(f"{lines[-1]} {word}", size) <= room:
                lines[-1] += f" {word}"
            else:
                lines.append(word)
        return lines

    def text(self, at: tuple[float, float], text: str, size: int, colour: Colour, room: int | None = None) -> None:
        text, font = _drawable(printable(text), size)
        if room is not None:
            text = elide(text, lambda part: self.pen.textlength(part, font) <= room)
        self.pen.text(at, text, fill=colour, font=font)


_own = cache(ImageFont.load_default)


@cache
def _other(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along, for the letters that Pillow's own font has not."""
    (place,) = find_spec("matplotlib").submodule_search_locations  # type: ignore[union-attr,misc]
    return ImageFont.truetype(Path(place, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf"), size - 1)


@cache
def _has(letter: str, *, own: bool) -> bool:
    font = _own(15) if own else _other(15)
    return bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))


@cache
def _system(letters: str) -> str | None:
    """A font of this machine that has all of these, such as Chinese ones; ``None`` where there is none."""
    from matplotlib.font_manager import findSystemFonts
    from matplotlib.ft2font import FT2Font

    for path in sorted(findSystemFonts()):
        with suppress(Exception):  # a file that is no font, or a strange one
            if FT2Font(path).get_charmap().keys() >= set(map(ord, letters)):
                return path
    return None


def _drawable(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """The text and a font that has its letters; those that no font here has are escaped, for boxes tell nothing."""
    strange = sorted({one for one in text if not _has(one, own=True)})
    if not strange:
        return text, _own(size)
    missing = "".join(one for one in strange if not _has(one, own=False))
    found = _system("".join(sorted(set(text)))) if missing else None
    if found is not None:
        return text, ImageFont.truetype(found, size - 1)
    return "".join(ascii(one)[1:-1] if one in missing else one for one in text), _other(size)


def short_reason(error: ImageError) -> str:
    """Why there is no picture, in the room of a tile."""
    return error.reason if error.reason == "no such file" else "unreadable"


def shown(path: Path | None, size: tuple[int, int] | None = None) -> Image.Image | str:
    """The image, no larger than ``size`` (height, width); where there is none, why, in the room of a tile."""
    if path is None:
        return "no file"
    try:
        return Image.fromarray(read_image(path, size, fit=size is not None))
    except ImageError as error:
        return short_reason(error)


def usual_aspect(paths: Sequence[Path]) -> float:
    """Height / width that is usual among these images (the first 24 are looked at): people are tall, cars are wide."""
    aspects = []
    for path in paths[:24]:
        # Whatever is wrong with one, its tile will say so. Only files: a pipe would be waited for.
        with suppress(Exception):
            if path.is_file():
                with Image.open(path, formats=FORMATS) as image:
                    aspects.append(image.height / image.width)
    return statistics.median(aspects) if aspects else 1.0


def elide(text: str, fits: Callable[[str], bool]) -> str:
    """The text, or its beginning and end around an ellipsis, as much as ``fits``: names differ at both ends."""
    if fits(text):
        return text
    most = range(1, min(len(text), 200) + 1)  # nothing longer ever fits a tile
    return _shortened(text, bisect(most, False, key=lambda keep: not fits(_shortened(text, keep))))


def _shortened(text: str, keep: int) -> str:
    tail = keep // 3
    return text[: keep - tail] + "…" + text[len(text) - tail :]


def readable(ground: Colour) -> Colour:
    """The ink, dark or white, that is read more easily on this ground (by WCAG's relative luminance)."""
    light = luminance([share / 255 for share in ground])
    return CARD if 1.05 / (light + 0.05) > (light + 0.05) / 0.065 else INK


def save_png(image: Image.Image, out: Path, what: str) -> Path:
    """Write a PNG, atomically; returns ``out``. Raises SiameseSearchError where that fails. what: for people."""
    marked = PngInfo()
    marked.add_text(*OWN_TEXT)
    with writing(out, f"the {what} "), atomic_path(out) as aside:
        image.save(aside, format="PNG", optimize=False, pnginfo=marked)
    return out

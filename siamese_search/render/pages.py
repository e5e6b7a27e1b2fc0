"""Pages that need nothing else, from ``templates/``: one file, no request to anybody, light and dark; and one of them,
search results, a row per query. Images are encoded anew, so that what a stranger hid in a file stays out."""

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

from siamese_search._version import __version__
from siamese_search.errors import UsageError, amount, printable
from siamese_search.io.files import atomic_write_text, writing
from siamese_search.render import marks
from siamese_search.render.canvas import shown
from siamese_search.render.marks import BADGES, FRAMES, known_identities, mark, verdict_sentence
from siamese_search.retrieval.map import placed
from siamese_search.retrieval.results import QueryResult

#: Queries shown, and results of each; the page says how many it leaves out.
MAX_QUERIES = 200
MAX_RESULTS = 200

#: In a notebook, which keeps every picture in its file.
_SHOWN = (10, 20)

_PICTURE, _THUMB = (200, 132), (128, 78)
#: Fields of metadata shown of one image.
_FIELDS = 40
#: Of JPEGs on a page.
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
    made.globals |= {"script": Markup(script), "script_proof": Markup(f"sha256-{proof}"), "version": __version__}
    made.filters |= {name: getattr(marks, name) for name in ("rate", "sightings", "small_rate")}
    made.filters["probability"] = marks.percent
    return made


def environment(*loaders: BaseLoader) -> Environment:
    """Templates that escape every value, and spell out control characters; those of the first loader that has them."""
    made = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        # What is markup already went through here when it was made.
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["thousands"] = lambda number: f"{number:,}"
    return made


def rgb(colour: tuple[int, int, int]) -> str:
    """A colour of CSS."""
    return "rgb({} {} {})".format(*colour)


def picture(path: Path | None, size: tuple[int, int]) -> Picture:
    """The image, shape kept, for ``size`` (height, width) in CSS pixels: twice those, for dense screens, and never more
    than the file has."""
    found = shown(path, (2 * size[0], 2 * size[1]))
    if isinstance(found, str):
        return Picture("", found)
    held = io.BytesIO()
    found.save(held, format="JPEG", quality=_QUALITY)
    return Picture("data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode("ascii"))


def scattered(
    points: NDArray[np.float64],
    colours: Sequence[str],
    captions: Sequence[str],
    urls: Sequence[str],
    names: Sequence[str | None],
    codes: Iterable[int] = repeat(-1),
) -> list[dict[str, Any]]:
    """The dots of ``scatter()`` in ``parts.html.j2``. points: float64 [n, 2], on one scale, so that distances compare.
    urls: data URIs, or "". names: of identities. codes: lines of the legend, -1 for none."""
    dots = []
    for (x, y), colour, caption, url, name, code in zip(placed(points) * 96 + 2, colours, captions, urls, names, codes):
        edges = " ".join(name for name, near in (("l", x < 10), ("r", x > 90), ("t", y > 80)) if near)
        place = {"x": f"{x:.3f}", "y": f"{y:.3f}", "edges": edges}
        dots.append(place | {"colour": colour, "caption": caption, "url": url, "name": name, "code": code})
    return dots


def write_page(text: str, out: Path, what: str) -> Path:
    """Write a page, atomically; returns ``out``. Raises SiameseSearchError where that fails. what: for people."""
    with writing(out, f"the {what} "):
        atomic_write_text(out, text.encode("utf-8", "backslashreplace").decode())
    return out


def write_html_sheet(answers: Sequence[QueryResult], out: Path, *, title: str = "Search results") -> Path:
    """Write the page, atomically; returns ``out``. A file that cannot be read is named in its place.

    Frames and words are those of :class:`~siamese_search.render.marks.Mark`. Raises UsageError for nothing to show,
    SiameseSearchError where ``out`` cannot be written.
    """
    if not answers:
        raise UsageError("there are no results to show")
    return write_page(html_sheet(answers, title=title), out, "page of results")


def html_sheet(
    answers: Sequence[QueryResult],
    *,
    title: str = "Search results",
    template: str = "search.html.j2",
    gaps: Sequence[Sequence[str]] = (),
    **more: object,
) -> str:
    """The whole page. gaps: what stands beside the time of each result. more: what the ``template`` shows besides."""
    first = answers[:MAX_QUERIES]
    listed, once, pictures = shown_answers(first, known_identities(answers), MAX_RESULTS, _PICTURE)
    return render(
        template,
        title=title,
        total=len(answers),
        known=any(one.kind != "unknown" for row in listed for _, one in row["results"]),
        judged=any(answer.verdict is not None for answer in answers),
        meanings=FRAMES,
        badges=BADGES,
        answers=listed,
        pictures=pictures,
        once=once,
        most_fields=_FIELDS,
        gaps=gaps,
        **more,
    )


def results_html(answers: Sequence[QueryResult]) -> str:
    """What a notebook shows: a row of thumbnails per query, framed as on the page."""
    first = answers[: _SHOWN[0]]
    listed, once, pictures = shown_answers(first, known_identities(first), _SHOWN[1], _THUMB)
    more = f"the first {len(first)} of {amount(len(answers), 'query')}" if len(answers) > len(first) else ""
    return render("notebook.html.j2", report=None, answers=listed, pictures=pictures, once=once, more=more)


def shown_answers(
    answers: Sequence[QueryResult], identities: Sequence[str | None], most: int, size: tuple[int, int]
) -> tuple[list[dict[str, Any]], str, dict[Path | None, Picture]]:
    """What a template shows of each answer: its first ``most`` results with their marks, and what is said of it; what
    would be said of every one of several, to be said once; and the pictures of ``size`` by their paths."""
    said = {verdict_sentence(answer) for answer in answers if answer.error is None}
    once = said.pop() if len(said) == 1 and len(answers) > 1 else ""
    listed: list[dict[str, Any]] = []
    for answer, identity in zip(answers, identities, strict=False):
        sentence = "" if once else verdict_sentence(answer)
        sentences = [sentence] if sentence else []
        if len(answer.results) > most:
            sentences.append(f"the first {most} of {len(answer.results):,} shown")
        results = [(result, mark(result, identity)) for result in answer.results[:most]]
        listed.append({"answer": answer, "results": results, "identity": identity, "sentences": sentences})
    paths = {answer.path for answer in answers} | {r.path for one in listed for r, _ in one["results"]}
    return listed, once, {path: picture(path, size) for path in paths}

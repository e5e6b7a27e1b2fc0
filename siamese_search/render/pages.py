"""write_html_sheet(): search results as one page that needs nothing else: query left, results ranked beside it.

As :mod:`siamese_search.render.html` has it: no script, no request, names escaped, images encoded anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from siamese_search._version import __version__
from siamese_search.errors import ImageError, UsageError
from siamese_search.render.canvas import short_reason
from siamese_search.render.html import encoded, escaped, page, write_page
from siamese_search.render.marks import Mark, known_identities, mark, percent, sightings, verdict_sentence
from siamese_search.retrieval.results import QueryResult, SearchResult

#: Queries shown, and results of each; the page says how many it leaves out.
MAX_QUERIES = 200
MAX_RESULTS = 200

_PICTURE = (200, 132)
#: Fields of metadata shown of one image.
_FIELDS = 40
_FRAMES = {"good": "right", "bad": "wrong", "unknown": ""}


def write_html_sheet(answers: Sequence[QueryResult], out: Path, *, title: str = "Search results") -> Path:
    """Write the page, atomically; returns ``out``.

    Frames and words say match or no match where the model is calibrated, else whether a result has the query's
    identity, where that is known (as :func:`~siamese_search.render.marks.known_identities` has it). A file that
    cannot be read is named in its place. Raises UsageError for nothing to show, SiameseSearchError where ``out``
    cannot be written.
    """
    if not answers:
        raise UsageError("there are no results to show")
    return write_page(html_sheet(answers, title=title), out, "page of results")


def html_sheet(answers: Sequence[QueryResult], *, title: str = "Search results") -> str:
    """The whole page."""
    pictures = _Pictures()
    identities = known_identities(answers)
    sections = [
        _answer(answer, identity, pictures)
        for answer, identity in zip(answers[:MAX_QUERIES], identities, strict=False)
    ]
    more = f", the first {MAX_QUERIES} shown" if len(answers) > MAX_QUERIES else ""
    count = f"{len(answers):,} {'query' if len(answers) == 1 else 'queries'}{more}"
    body = (
        f'<p class="legend">{count} · score: cosine similarity, higher is closer{_legend(answers, identities)}</p>'
        f"{''.join(sections)}<footer><p>made by siamese-search {escaped(__version__)}</p></footer>"
    )
    style = (resources.files(__package__) / "pages.css").read_text(encoding="utf-8")
    return page(title, body, style)


def _legend(answers: Sequence[QueryResult], identities: Sequence[str | None]) -> str:
    words = {
        one.word
        for answer, identity in zip(answers, identities, strict=True)
        for one in (mark(result, identity) for result in answer.results)
    }
    if words & {"match", "no match"}:
        return (
            " · frames: "
            + _word(Mark("good", "match"))
            + " or "
            + _word(Mark("bad", "no match"))
            + ", as the"
            " calibrated model judges"
        )
    if words & {"same", "another"}:
        return (
            " · frames: " + _word(Mark("good", "same")) + " or " + _word(Mark("bad", "another")) + " identity"
        )
    return ""


def _answer(answer: QueryResult, identity: str | None, pictures: _Pictures) -> str:
    name = answer.query if answer.path is None else answer.path.name
    query = (
        f'<div class="card query">{pictures.tile(answer.path, "query", answer.query)}'
        f"<b>{escaped(identity) if identity is not None else 'query'}</b>"
        f'<span class="line"><span>{escaped(name)}</span></span></div>'
    )
    if answer.error is not None:
        return f'<section class="answer">{query}<div>{escaped(answer.error)}</div></section>'
    shown = answer.results[:MAX_RESULTS]
    cards = "".join(_card(result, mark(result, identity), pictures) for result in shown)
    found = f'<div class="found">{cards}</div>' if shown else "<div>no results</div>"
    sentence = verdict_sentence(answer)
    if len(answer.results) > len(shown):
        sentence = (
            f"{sentence}; " * bool(sentence) + f"the first {len(shown)} of {len(answer.results):,} shown"
        )
    foot = f"<p>{escaped(sentence)}</p>" if sentence else ""
    return f'<section class="answer">{query}{found}{foot}</section>'


def _card(result: SearchResult, judged: Mark, pictures: _Pictures) -> str:
    name = "no identity" if result.identity is None else result.identity
    camera = "" if result.camera is None else f"camera {result.camera}"
    lines = [
        (escaped(camera), f'<span class="score">{result.score:.4f}</span>'),
        (_word(judged), percent(result.probability)),
        (escaped(sightings(result)), ""),
    ]
    rows = "".join(
        f'<span class="line"><span>{left}</span><span>{right}</span></span>'
        for left, right in lines
        if left or right
    )
    return (
        f'<div class="card">{pictures.tile(result.path, _FRAMES[judged.kind], result.path)}'
        f"<b>{result.rank}. {escaped(name)}</b>{rows}{_details(result)}</div>"
    )


def _details(result: SearchResult) -> str:
    fields = [("path", result.path), ("key", result.key), *list(result.metadata.items())[:_FIELDS]]
    left = len(result.metadata) - _FIELDS
    fields += [("more", f"{left} fields")] if left > 0 else []
    rows = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>" for name, value in fields)
    return f"<details><summary>details</summary><dl>{rows}</dl></details>"


def _word(judged: Mark) -> str:
    return f'<span class="word {_FRAMES[judged.kind]}">{judged.word}</span>' if judged.word else ""


class _Pictures:
    """Encodes each file once, however many queries found it."""

    def __init__(self) -> None:
        self._known: dict[Path | None, str] = {}

    def tile(self, path: Path | None, frame: str, title: object) -> str:
        if path not in self._known:
            self._known[path] = self._inside(path)
        return f'<div class="tile {frame}" title="{escaped(title)}">{self._known[path]}</div>'

    @staticmethod
    def _inside(path: Path | None) -> str:
        try:
            if path is None:
                raise ImageError("", "no file")
            return f'<img src="{encoded(path, _PICTURE)}" alt="">'
        except ImageError as error:
            return f"<em>{escaped(short_reason(error))}</em>"

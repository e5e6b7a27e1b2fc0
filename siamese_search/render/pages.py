"""write_html_sheet(): search results as one page that needs nothing else: query left, results ranked beside it.

As :mod:`siamese_search.render.html` has it: no script, no request, names escaped, images encoded anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from siamese_search._version import __version__
from siamese_search.errors import UsageError
from siamese_search.render.html import Picture, picture, render, write_page
from siamese_search.render.marks import BADGES, FRAMES, known_identities, mark, verdict_sentence
from siamese_search.retrieval.results import QueryResult

#: Queries shown, and results of each; the page says how many it leaves out.
MAX_QUERIES = 200
MAX_RESULTS = 200

#: In a notebook, which keeps every picture in its file.
_SHOWN = (10, 20)

_PICTURE, _THUMB = (200, 132), (128, 78)
#: Fields of metadata shown of one image.
_FIELDS = 40


def write_html_sheet(answers: Sequence[QueryResult], out: Path, *, title: str = "Search results") -> Path:
    """Write the page, atomically; returns ``out``.

    Frames say whether a result has the query's identity, where that is known (as
    :func:`~siamese_search.render.marks.known_identities` has it), and words match or no match where the model is
    calibrated. A file that cannot be read is named in its place. Raises UsageError for nothing to show,
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
    shown, once, pictures = shown_answers(first, known_identities(answers), MAX_RESULTS, _PICTURE)
    return render(
        template,
        title=title,
        total=len(answers),
        known=any(one.kind != "unknown" for row in shown for _, one in row["results"]),
        judged=any(answer.verdict is not None for answer in answers),
        meanings=FRAMES,
        badges=BADGES,
        answers=shown,
        pictures=pictures,
        once=once,
        most_fields=_FIELDS,
        version=__version__,
        gaps=gaps,
        **more,
    )


def results_html(answers: Sequence[QueryResult]) -> str:
    """What a notebook shows: a row of thumbnails per query, framed as on the page."""
    first = answers[: _SHOWN[0]]
    shown, once, pictures = shown_answers(first, known_identities(first), _SHOWN[1], _THUMB)
    more = f"the first {len(shown)} of {len(answers):,} queries" if len(answers) > len(shown) else ""
    return render("notebook.html.j2", report=None, answers=shown, pictures=pictures, once=once, more=more)


def shown_answers(
    answers: Sequence[QueryResult], identities: Sequence[str | None], most: int, size: tuple[int, int]
) -> tuple[list[dict[str, Any]], str, dict[Path | None, Picture]]:
    """What a template shows of each answer: its first ``most`` results with their marks, and what is said of it.

    Also what would be said of every one of several, to be said once, and the pictures of ``size`` by their paths.
    """
    said = {verdict_sentence(answer) for answer in answers if answer.error is None}
    once = said.pop() if len(said) == 1 and len(answers) > 1 else ""
    shown: list[dict[str, Any]] = []
    for answer, identity in zip(answers, identities, strict=False):
        sentences = [] if once else [verdict_sentence(answer)]
        if len(answer.results) > most:
            sentences.append(f"the first {most} of {len(answer.results):,} shown")
        results = [(result, mark(result, identity)) for result in answer.results[:most]]
        shown.append(
            {"answer": answer, "results": results, "identity": identity, "sentences": list(filter(None, sentences))}
        )
    paths = {answer.path for answer in answers} | {r.path for one in shown for r, _ in one["results"]}
    return shown, once, {path: picture(path, size) for path in paths}

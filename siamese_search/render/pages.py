"""write_html_sheet(): search results as one page that needs nothing else: query left, results ranked beside it.

As :mod:`siamese_search.render.html` has it: no script, no request, names escaped, images encoded anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from siamese_search._version import __version__
from siamese_search.errors import UsageError
from siamese_search.render.html import picture, render, write_page
from siamese_search.render.marks import BADGES, FRAMES, known_identities, mark, verdict_sentence
from siamese_search.retrieval.results import QueryResult

#: Queries shown, and results of each; the page says how many it leaves out.
MAX_QUERIES = 200
MAX_RESULTS = 200

_PICTURE = (200, 132)
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
    identities = known_identities(answers)
    shown = [shown_answer(*one, most=MAX_RESULTS) for one in zip(answers[:MAX_QUERIES], identities)]
    paths = {one["answer"].path for one in shown} | {r.path for one in shown for r, _ in one["results"]}
    return render(
        template,
        title=title,
        total=len(answers),
        known=any(one.kind != "unknown" for row in shown for _, one in row["results"]),
        judged=any(answer.verdict is not None for answer in answers),
        meanings=FRAMES,
        badges=BADGES,
        answers=shown,
        pictures={path: picture(path, _PICTURE) for path in paths},
        most_fields=_FIELDS,
        version=__version__,
        gaps=gaps,
        **more,
    )


def shown_answer(answer: QueryResult, identity: str | None, *, most: int) -> dict[str, Any]:
    """What a template shows of an answer: its first ``most`` results with their marks, and what is said of it."""
    sentences = [verdict_sentence(answer)]
    if len(answer.results) > most:
        sentences.append(f"the first {most} of {len(answer.results):,} shown")
    return {
        "answer": answer,
        "identity": identity,
        "results": [(result, mark(result, identity)) for result in answer.results[:most]],
        "sentences": list(filter(None, sentences)),
    }

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
from siamese_search.render.marks import Mark, known_identities, mark, verdict_sentence
from siamese_search.retrieval.results import QueryResult

#: Queries shown, and results of each; the page says how many it leaves out.
MAX_QUERIES = 200
MAX_RESULTS = 200

_PICTURE = (200, 132)
#: Fields of metadata shown of one image.
_FIELDS = 40


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
    identities = known_identities(answers)
    marks = [
        [mark(result, identity) for result in answer.results] for answer, identity in zip(answers, identities)
    ]
    shown = [_shown(*one) for one in zip(answers[:MAX_QUERIES], identities, marks)]
    paths = {one["answer"].path for one in shown} | {r.path for one in shown for r, _ in one["results"]}
    return render(
        "search.html.j2",
        title=title,
        total=len(answers),
        words={one.word for row in marks for one in row},
        answers=shown,
        pictures={path: picture(path, _PICTURE) for path in paths},
        most_fields=_FIELDS,
        version=__version__,
    )


def _shown(answer: QueryResult, identity: str | None, marks: Sequence[Mark]) -> dict[str, Any]:
    sentences = [verdict_sentence(answer)]
    if len(answer.results) > MAX_RESULTS:
        sentences.append(f"the first {MAX_RESULTS} of {len(answer.results):,} shown")
    return {
        "answer": answer,
        "identity": identity,
        "results": list(zip(answer.results, marks))[:MAX_RESULTS],
        "sentences": list(filter(None, sentences)),
    }

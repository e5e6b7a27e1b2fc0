"""What a picture says of a result, in one word and one of three colours, and of an answer, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from siamese_search.datasets.records import JUNK_IDENTITY, parse_market_name
from siamese_search.errors import amount
from siamese_search.retrieval.results import QueryResult, SearchResult

Truth = Literal["same", "different", "unknown"]
Kind = Literal["good", "bad", "unknown"]


@dataclass(frozen=True, slots=True)
class Mark:
    """A frame tells the truth where it is known, and a badge what the calibrated model says, on every picture.

    kind: the frame's colour, ``good`` (green), ``bad`` (red) or ``unknown`` (grey). word: the badge, and tone its
    colour; without a verdict it says in words what the frame does, and nothing where nothing is known.
    """

    kind: Kind
    word: str
    tone: Kind


#: What frames mean, for legends.
FRAMES: dict[str, str] = {"good": "same identity", "bad": "another identity", "unknown": "not known"}
#: And badges, where a model gave a verdict.
BADGES = "badges: match or no match, as the calibrated model judges"
#: The colour of each truth.
KINDS: dict[Truth, Kind] = {"same": "good", "different": "bad", "unknown": "unknown"}
_WORDS: dict[Truth, str] = {"same": "same", "different": "another", "unknown": ""}


def mark(result: SearchResult, query_identity: str | None) -> Mark:
    """What is known of a result, and what the model says of it."""
    truth = verdict(query_identity, result.identity)
    kind = KINDS[truth]
    if result.match is None:
        return Mark(kind, _WORDS[truth], kind)
    return Mark(kind, "match" if result.match else "no match", "good" if result.match else "bad")


def verdict(query_identity: str | None, identity: str | None) -> Truth:
    """Whether an identity is the query's; junk and unlabelled images are ``unknown``."""
    if query_identity in (None, JUNK_IDENTITY) or identity in (None, JUNK_IDENTITY):
        return "unknown"
    return "same" if identity == query_identity else "different"


def known_identities(
    answers: Sequence[QueryResult], given: Mapping[str, str] | Sequence[str | None] | None = None
) -> list[str | None]:
    """The identity of each query where it is known: as ``given`` (by name, or one per answer in order), else what the
    gallery knows of that file, else what a Market-1501 file name says."""
    told = [given.get(answer.query) for answer in answers] if isinstance(given, Mapping) else given or ()
    return [
        next((name for name in (one, answer.identity, named_identity(answer.path)) if name is not None), None)
        for answer, one in zip(answers, [*told, *[None] * len(answers)])
    ]


def named_identity(path: Path | None) -> str | None:
    """What a Market-1501 file name says of its image."""
    parsed = parse_market_name(path.name) if path is not None else None
    return parsed[0] if parsed else None


def paths_of(answers: Sequence[QueryResult]) -> list[Path]:
    """Some of the images of these answers, to see what shape they usually have."""
    return [path for a in answers for path in (a.path, *(found.path for found in a.results[:3])) if path]


def verdict_sentence(answer: QueryResult, found: str | None = None) -> str:
    """What "match" means here, and whether there is one (or ``found`` of that), or why nobody says; else empty."""
    verdict = answer.verdict
    if verdict is None or not verdict.compared:  # nothing was judged
        return answer.no_verdict
    if found is None:
        found = "" if answer.in_gallery else f"{missing(answer)}; "
    if not verdict.reachable:
        none = f"among {amount(verdict.identities, 'identity')} no score makes a match likelier right than wrong"
        return f"{found}{none}; --fmr sets a threshold of your own"
    prior = f"prior 1 in {1 / verdict.prior:,.3g}" if verdict.prior < 0.5 else f"prior {verdict.prior:g}"
    if verdict.asked is not None:
        why = f"false match rate {verdict.asked:.2g}"
    else:
        why = "the strictest measured" if verdict.strictest else "likelier right than wrong"
    expected = verdict.expected_false_matches
    many = "under 0.1" if expected < 0.05 else f"about {expected:.1f}" if expected < 9.5 else f"about {expected:,.0f}"
    return (
        f"{found}a match scores {verdict.threshold:.4f} or more: {why} ({prior}); the {verdict.calibration}'s"
        f" calibration: a query that is not here gets {many} false matches"
    )


def missing(answer: QueryResult) -> str:
    """What to say where nothing matches."""
    return "no other image matches" if answer.from_gallery else "not in the gallery"


def match_heading(answer: QueryResult) -> str:
    """What heads the column of yes and no: a threshold of the caller's own goes its own way, so it is named there."""
    if answer.verdict is None or answer.verdict.asked is None:
        return "match"
    return f"at fmr {answer.verdict.asked:g}"


def reranking_sentence(answer: QueryResult) -> str:
    """What the order is, where it is not that of the scores, and a match that it put out of sight; else empty."""
    if answer.candidates is None:
        return ""
    order = f"ordered by k-reciprocal re-ranking of the nearest {answer.candidates:,}; scores are cosine similarities"
    if not answer.in_gallery or not answer.results or any(result.match for result in answer.results):
        return order
    return f"{order}; the match, which scores {answer.best_score:.4f}, is not shown: others were put before it"


def percent(value: float | None) -> str:
    """A probability for people; never 100 % where it is less, never 0 % where it is more."""
    if value is None:
        return ""
    if 0 < value < 0.001:
        return "< 0.1%"
    return "> 99.9%" if 0.999 < value < 1 else f"{value:.1%}"


def rate(value: float | None) -> str:
    """A share in percent; ``n/a`` for NaN and None."""
    return "n/a" if value is None or value != value else f"{value:.1%}"


def small_rate(value: float) -> str:
    """A rate for people: two digits that count, however small."""
    return rate(value) if value != value or value >= 0.0095 or value == 0 else f"{100 * value:.2g}%"


def decimal(value: float | None) -> str:
    """A figure that is no share, such as an AUC; ``n/a`` for NaN and None."""
    return "n/a" if value is None or value != value else f"{value:.4f}"


def file_size(count: float | None) -> str:
    """Bytes for people: ``1.3 MB``; nothing where nobody knows."""
    if count is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def sightings(result: SearchResult) -> str:
    """``7x cam 1, 2``: how often and where a grouped identity was seen, in a timeline when; empty for others."""
    if result.when is not None:
        return result.when
    if result.sightings is None:
        return ""
    if result.cameras:
        return f"{result.sightings}x cam {', '.join(result.cameras)}"
    return amount(result.sightings, "image")

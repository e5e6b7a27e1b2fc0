"""follow(): the images of each query's nearest identity, or of whoever it is where nobody has named them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from siamese_search.datasets.records import DISTRACTOR_IDENTITY, JUNK_IDENTITY
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.filters import Condition
from siamese_search.retrieval.grouping import Group
from siamese_search.retrieval.judging import NOBODY, Judge
from siamese_search.retrieval.matching import mark
from siamese_search.retrieval.options import SearchOptions
from siamese_search.retrieval.query import Probe
from siamese_search.retrieval.ranking import ranked
from siamese_search.retrieval.results import QueryResult
from siamese_search.retrieval.searcher import Ranked, Rules, Searcher, answer
from siamese_search.retrieval.timeline import Timeline, arrange

#: Images of one query that are listed where nobody says how many.
MOST = 1000
#: Listed instead where neither labels nor a calibration say what belongs to the query.
_NEAREST = 10
#: Results looked through for one that is not junk or a distractor.
_LOOKED_AT = 50


@dataclass(frozen=True, slots=True)
class FollowRequest:
    """field: of the time. k: list at most so many, ``None`` for the usual number. candidates: re-ranked, 0 for none."""

    field: str
    k: int | None = None
    exclude_self: bool = False
    min_score: float | None = None
    fmr: float | None = None
    candidates: int = 0


def follow(
    searcher: Searcher,
    asked: Sequence[Probe | QueryResult],
    request: FollowRequest,
    where: Sequence[Condition] = (),
    judge: Judge = NOBODY,
) -> list[Timeline]:
    """A timeline per probe, in order; for a query that could not be read, an empty one with its error.

    The identity followed is that of the nearest image (re-ranked, if that is asked for) that is somebody's. Where it
    has none, the images are those that match, or the nearest ones where nothing says what matches. Raises UsageError
    and StoreError as :meth:`Searcher.answers`.
    """
    SearchOptions(min_score=request.min_score, candidates=request.candidates or 1)  # refuses what cannot be
    rules = Rules(request.exclude_self, request.min_score, None, request.candidates)
    probes = [one for one in asked if isinstance(one, Probe)]
    images = searcher.gallery.count(where) if judge.calibration is not None else 0
    firsts = iter(searcher.rank(probes, _LOOKED_AT, where, rules))
    found = []
    for one in asked:
        if isinstance(one, QueryResult):
            found.append(Timeline(one, None, request.field))
            continue
        identity = _followed(next(firsts))
        named = identity is not None
        if identity is not None:
            listed, total = _of(searcher.gallery, one, identity, request.k or MOST, where, rules)
            result = answer(listed, one, rules)
        else:
            judged = judge.calibration is not None and one.pairwise
            most = request.k or (MOST if judged else _NEAREST)
            result = answer(searcher.rank([one], most, where, replace(rules, candidates=0))[0], one, rules)
        (result,) = mark([result], judge, request.fmr, images)
        if not named and result.verdict is not None:
            result = replace(result, results=tuple(hit for hit in result.results if hit.match))
        found.append(arrange(result, identity, request.field, total if named else len(result.results)))
    return found


def _followed(ranked: Ranked) -> str | None:
    """The identity of the first image that is nobody's distractor; ``None`` where it has none, or there is no image."""
    for group in ranked.groups:
        if group.best.identity not in (JUNK_IDENTITY, DISTRACTOR_IDENTITY):
            return group.best.identity
    return None


def _of(
    gallery: Gallery, probe: Probe, identity: str, most: int, where: Sequence[Condition], rules: Rules
) -> tuple[Ranked, int]:
    """The nearest images of one identity, and how many there are that may appear."""
    condition = [*where, Condition("identity", "=", (identity,))]
    total = gallery.count(condition)
    (found,) = ranked(gallery, [probe], most, condition, rules.leaves_out, below=rules.below)
    total -= len(found.copies.hits) if rules.leaves_out(probe) else 0
    groups = [Group(hit) for hit in found.hits if not rules.below(hit, probe)]
    return Ranked(groups, groups[0].best.score if groups else None, found.copies), total

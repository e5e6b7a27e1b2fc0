"""Timeline: the sightings of each query's nearest identity in the order of time, as far as times can be compared.

Where nobody has named whoever it is, those images are followed that match.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from siamese_search.datasets.records import MetadataValue
from siamese_search.errors import UsageError, amount, printable
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.filters import Condition, Where
from siamese_search.gallery.times import moment, remarks
from siamese_search.retrieval.judging import NOBODY, Judge, mark
from siamese_search.retrieval.options import TimelineOptions
from siamese_search.retrieval.query import Probe
from siamese_search.retrieval.ranking import Ranking, natural, rank_hits
from siamese_search.retrieval.results import QueryResult, SearchResult
from siamese_search.retrieval.searcher import Searcher, answer, shown

#: Fields that hold a time, by their usual names; the first that a gallery has is taken.
TIME_FIELDS = ("time", "timestamp", "datetime", "date", "frame")
#: A frame number counts from the start of one camera's recording, whose parts Market-1501 calls sequences.
_FRAME = "frame"
_COUNTED_WITHIN = ("camera", "sequence")

#: Images of one query that are listed where nobody says how many.
MOST = 1000
#: Listed instead where neither labels nor a calibration say what belongs to the query.
_NEAREST = 10
#: Results looked through for one that is not junk or a distractor.
_LOOKED_AT = 50


@dataclass(frozen=True, slots=True)
class Sighting:
    """One image of a timeline.

    time: as stored; ``None`` where the image has none (such images are last). gap: since the previous sighting whose
    time can be compared with this one, in seconds or in the field's own units. came_from: the camera of the previous
    sighting, where that was another one and times of both cameras can be compared. at: ``time`` on an axis, in
    seconds since 1970 or a number; ``None`` where it has none.
    """

    result: SearchResult
    time: MetadataValue | None
    gap: float | None = None
    came_from: str | None = None
    at: float | None = None

    def to_json(self) -> dict[str, Any]:
        gap = None if self.gap is None else round(self.gap, 6)
        return {"time": self.time, "gap": gap, "came_from": self.came_from, **self.result.to_json()}


@dataclass(frozen=True, slots=True)
class Timeline:
    """What one query's identity did: its sightings in the order of time.

    answer: the query's answer, its results in the same order, each with its rank by score. identity: the one followed;
    ``None`` where the images have no identity and are taken for the query's own by their score. field: where the
    time comes from. unit: ``seconds`` where it is dates and times, ``None`` where it is numbers of unknown unit, or
    text that only its alphabetical order orders. within: fields that must be equal for two times to be comparable; the
    order across them means nothing. total: how many sightings there are, listed or not. notes: what a reader has to
    know of the order, a line each.
    """

    answer: QueryResult
    identity: str | None
    field: str
    unit: str | None = None
    within: tuple[str, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    total: int = 0
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The JSON contract of ``sss search --timeline``."""
        answer = self.answer.to_json()
        del answer["results"]
        return {
            "query": answer.pop("query"),
            "identity": self.identity,
            "time_field": self.field,
            "unit": self.unit,
            "within": list(self.within),
            "total": self.total,
            "notes": list(self.notes),
            "sightings": [sighting.to_json() for sighting in self.sightings],
            **answer,
        }


def choose_field(fields: Mapping[str, str], named: str | None) -> str:
    """The field of the time: the one named, else the first of :data:`TIME_FIELDS`, in upper or lower case.

    fields: those of the gallery. Raises UsageError where there is none.
    """
    if named is not None:
        if named in fields:
            return named
        known = ", ".join(sorted(map(printable, fields)))
        raise UsageError(f"the gallery has no field {printable(named)!r} to take times from; it has {known}")
    for wanted in TIME_FIELDS:
        for field in sorted(fields):
            if field.casefold() == wanted:
                return field
    raise UsageError(
        f"no field of the gallery is called {', '.join(TIME_FIELDS[:-1])} or {TIME_FIELDS[-1]}: name the one that holds"
        f" the time with --time-field; there are {', '.join(sorted(map(printable, fields)))}"
    )


def follow(
    searcher: Searcher,
    asked: Sequence[Probe | QueryResult],
    field: str,
    options: TimelineOptions,
    where: Where = (),
    judge: Judge = NOBODY,
) -> list[Timeline]:
    """A timeline per probe, in order; for a query that could not be read, an empty one with its error.

    field: of the time. The identity followed is that of the nearest image (re-ranked, if that is asked for) that is
    somebody's. Where it has none, the images are those that match, or the nearest ones where nothing says what matches.
    Raises UsageError and StoreError as :meth:`Searcher.answers`.
    """
    probes = [one for one in asked if isinstance(one, Probe)]
    images = searcher.gallery.count(where) if judge.calibration is not None else 0
    firsts = iter(searcher.rank(probes, _LOOKED_AT, where, options))
    found = []
    for one in asked:
        if isinstance(one, QueryResult):
            found.append(Timeline(one, None, field))
            continue
        bests = (group.best for group in next(firsts).groups)
        identity = next((hit.identity for hit in bests if hit.is_somebody or hit.identity is None), None)
        total: int | None = None
        if identity is not None:
            ranking, total = _of(searcher.gallery, one, identity, options, where)
        else:
            judged = judge.calibration is not None and one.pairwise
            most = options.k or (MOST if judged else _NEAREST)
            (ranking,) = searcher.rank([one], most, where, replace(options, rerank=False))
        (result,) = mark([answer(ranking, one, options)], judge, options.fmr, images)
        if identity is None and result.verdict is not None:
            result = replace(result, results=tuple(hit for hit in result.results if hit.match))
        found.append(arrange(result, identity, field, len(result.results) if total is None else total))
    return found


def _of(gallery: Gallery, probe: Probe, identity: str, options: TimelineOptions, where: Where) -> tuple[Ranking, int]:
    """The nearest images of one identity, and how many there are that may appear."""
    condition = [*where, Condition("identity", "=", (identity,))]
    total = gallery.count(condition)
    (found,) = rank_hits(gallery, [probe], options.k or MOST, condition, options)
    return shown(found, probe, options), total - (len(found.copies.hits) if probe.left_out(options) else 0)


def arrange(answer: QueryResult, identity: str | None, field: str, total: int) -> Timeline:
    """The results of an answer in the order of the time in ``field``; equal times by score.

    Dates and times are ISO 8601, those without a time zone taken as UTC. Numbers are ordered as numbers, and other text
    as text where nothing else is there, else last; ``notes`` says so. Frame numbers are comparable within one camera
    and sequence only: gaps are to the previous image of the same.
    """
    times = [_value(result, field) for result in answer.results]
    read, unit, notes = _readings([time for time in times if time is not None], field)
    within: tuple[str, ...] = ()
    if field.casefold() == _FRAME:
        within = tuple(name for name in _COUNTED_WITHIN if len({_value(result, name) for result in answer.results}) > 1)

    def key(sighting: Sighting) -> tuple[Any, ...]:
        result, time = sighting.result, sighting.time
        sequence = natural(str(_value(result, "sequence"))) if "sequence" in within else ()
        known = (0, read[time]) if time in read else (1, str(time))
        return (time is None, sequence, (0, 0) if time is None else known, natural(str(result.camera)), result.rank)

    results = (replace(one, when=_shown(field, time)) for one, time in zip(answer.results, times, strict=True))
    sightings = sorted(map(Sighting, results, times), key=key)
    last: dict[tuple[Any, ...], Sighting] = {}
    for place, one in enumerate(sightings):
        if one.time is None or one.time not in read:
            continue
        at = None if isinstance(read[one.time], str) else read[one.time]
        group = tuple(_value(one.result, name) for name in within)
        gap = came_from = None
        if (previous := last.get(group)) is not None:
            gap = None if at is None or previous.at is None else at - previous.at
            if not within and previous.result.camera != one.result.camera:
                came_from = previous.result.camera
        sightings[place] = last[group] = replace(one, gap=gap, came_from=came_from, at=at)
    answer = replace(answer, results=tuple(one.result for one in sightings))
    return Timeline(answer, identity, field, unit, within, tuple(sightings), total, notes)


def who(timeline: Timeline) -> str:
    """Whose sightings these are, and whether all are shown."""
    shown, total = len(timeline.sightings), timeline.total
    if timeline.identity is None:
        if not timeline.sightings:
            return "no sightings"
        kind = "matches" if timeline.answer.verdict is not None else "nearest images"
        return f"no identity known; the {shown:,} {kind}"
    count = f"{shown:,} of {total:,} sightings" if shown < total else amount(shown, "sighting")
    cameras = sorted({hit.camera for hit in timeline.answer.results if hit.camera is not None})
    by = f", by {len(cameras)} cameras" if len(cameras) > 1 else ""
    return f"identity {printable(timeline.identity)}, {count}{by}"


def spoken(gap: float | None, unit: str | None) -> str:
    """``+2 h 5 min``, or the bare difference where its unit is not known."""
    if gap is None:
        return ""
    if unit != "seconds":
        return f"+{gap:,.10g}"
    days, rest = divmod(round(gap), 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, seconds = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    while len(parts) > 1 and parts[0][0] == 0:
        del parts[0]
    return "+" + " ".join(f"{count} {name}" for count, name in parts[:2] if count or name == parts[0][1])


def _shown(field: str, time: MetadataValue | None) -> str:
    """What stands below a picture: a date speaks for itself, a number needs its name."""
    if time is None:
        return "time not known"
    return printable(time if isinstance(time, str) else f"{field} {time}")


def _value(result: SearchResult, field: str) -> MetadataValue | None:
    return result.camera if field == "camera" else result.metadata.get(field)


def _readings(
    values: Sequence[MetadataValue], field: str
) -> tuple[dict[MetadataValue, Any], str | None, tuple[str, ...]]:
    """What each value that can be read is as a time: seconds (the unit is said then), a number, or text; and notes."""
    texts = [str(value) for value in values]
    numeric = all(isinstance(value, (int, float)) for value in values)
    if field.casefold() == "date" or not numeric:  # 20240131 is a date, not a number
        moments = {value: when for value, text in zip(values, texts, strict=True) if (when := moment(text))}
        if moments and (not numeric or len(moments) == len(set(values))):
            notes = tuple(f"{printable(field)}: {line}" for line in remarks(texts))
            return {value: when.timestamp() for value, when in moments.items()}, "seconds", notes
    if numeric:
        return {value: value for value in values}, None, ()  # not as floats: nanoseconds have 19 digits
    numbers = {value: float(text) for value, text in zip(values, texts, strict=True) if _is_number(text)}
    others = sorted({printable(text) for text in texts if not _is_number(text)})
    if not others:
        return numbers, None, ()
    shown = ", ".join(map(repr, others[:3]))
    if numbers:
        note = f"{printable(field)}: not a number, so after all others: {shown}"
        return numbers, None, (note,)
    note = f"{printable(field)}: ordered as text, for {shown} is not a time such as 2024-05-01T10:00:00"
    return dict(zip(values, texts, strict=True)), None, (note,)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False

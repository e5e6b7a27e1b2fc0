"""Times in text: read alike by filters and by timelines; and filters on them, in terms of what a gallery holds.

A time is a date, or a date and a time of day, in ISO 8601: ``2024-05-01``, ``2024-05-01T10:00:00+02:00``. One that
names no zone is taken as UTC. Anything else (``01/05/2024`` is May to some and January to others) is no time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from siamese_search.errors import FilterError, amount, printable
from siamese_search.gallery.checks import instead
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.filters import ORDERINGS, Condition, RawCondition, bind

_log = logging.getLogger(__name__)

#: Text that no data set can hold: a filter that nothing meets asks for it.
_NOTHING = "\x00"


def moment(text: str) -> datetime | None:
    """The time that a text says, ``None`` where it is none. Without a zone it is UTC."""
    try:
        read = datetime.fromisoformat(text.strip())
        return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def remarks(texts: Iterable[str]) -> list[str]:
    """What a reader has to know of texts that are to be times: which are none, and whose zone is a guess."""
    texts = list(texts)
    strange = [text for text in texts if moment(text) is None]
    lines = []
    if strange:
        shown = ", ".join(repr(printable(text)) for text in sorted(set(strange))[:3])
        lines.append(
            f"{len(strange):,} of {amount(len(texts), 'value')} cannot be read as times ({shown}):"
            " write 2024-05-01T10:00:00"
        )
    zoned = [datetime.fromisoformat(text.strip()).tzinfo is not None for text in texts if moment(text)]
    if any(zoned) and not all(zoned):
        lines.append(
            f"{zoned.count(False):,} of {len(zoned):,} times name no zone and are taken as UTC, others name one"
        )
    return lines


def bind_to(gallery: Gallery, raw: Sequence[RawCondition]) -> list[Condition]:
    """The conditions in the types of a gallery's fields, as :func:`~siamese_search.gallery.filters.bind`.

    An order of text is one of times: what cannot be read as a time never meets it (a warning says how many, as of what
    leaves nothing out). A date stands for its whole day. Raises FilterError, also where no value of it is a time.
    """
    if not raw:
        return []
    fields = gallery.fields()
    bound = []
    for one in raw:
        if one.operator in ORDERINGS and fields.get(one.field) == "str" and moment(one.values[0]):
            bound.append(_among(gallery, one))
        else:
            bound += bind([one], fields)
            if one.operator == "!=" and not gallery.count([replace(bound[-1], operator="=")]):
                there = instead(gallery, replace(one, operator="="))
                _log.warning("--where %s leaves nothing out: no image has it%s", printable(str(one)), there)
    return bound


def _among(gallery: Gallery, one: RawCondition) -> Condition:
    """The values of the field that come before or after a time, as a condition on text."""
    values = list(gallery.facet(one.field, limit=max(1, gallery.count())))
    read = [(value, when) for value in values if (when := moment(value)) is not None]
    if not read:
        shown = repr(printable(values[0])) if values else "none"
        raise FilterError(
            f"{one.field!r} holds text and no times ({shown}), which {one.operator} cannot order: use = or !=, or write"
            " times such as 2024-05-01T10:00:00"
        )
    for line in remarks([one.values[0], *values]):
        _log.warning("--where %s: %s", one, line)
    start = moment(one.values[0])
    assert start is not None
    whole_day = len(one.values[0].strip()) <= len("2024-05-01")

    def kept(when: datetime) -> bool:
        if one.operator in ("<", ">="):
            return (when < start) == (one.operator == "<")
        until = when - start < timedelta(days=1) if whole_day else when <= start
        return until == (one.operator == "<=")

    return Condition(one.field, "=", tuple(sorted(value for value, when in read if kept(when))) or (_NOTHING,))

"""Two rules of the payload: what a person has set stays, and what came along with a moved file is named.

``labelled`` names the labels that a person has set, as a JSON list: also a field that a person took away.

``carried`` names what a moved point has of the metadata that its new place does not state (an identity from a table
that lists the old path, say), or the next scan would take it away. A name leaves the list as soon as the file's place
states the field. Until the point that it came from is deleted, ``carried`` names that one too.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from siamese_search.datasets.records import BOOKKEEPING

#: The payload field.
LABELLED = "labelled"


def read_labelled(payload: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the fields set by hand; none where the list is missing or is not ours."""
    try:
        return parse_labelled(payload[LABELLED])
    except (KeyError, TypeError, ValueError):
        return ()


def parse_labelled(text: str) -> tuple[str, ...]:
    """The names in ``labelled_text``. Raises ValueError for anything else."""
    names = json.loads(text)
    if not isinstance(names, list) or not all(isinstance(n, str) and n not in BOOKKEEPING for n in names):
        raise ValueError("not a list of field names")
    return tuple(names)


def labelled_text(names: Iterable[str]) -> str | None:
    """As it is stored, sorted; None (no field) for none."""
    listed = sorted(set(names))
    return json.dumps(listed, ensure_ascii=False) if listed else None


def with_labels(payload: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """``payload`` with the labels that were set by hand in ``other`` alone."""
    own = read_labelled(payload)
    names = [name for name in read_labelled(other) if name not in own]
    kept = {name: value for name, value in payload.items() if name not in names}
    kept |= {name: other[name] for name in names if name in other}
    return {**kept, LABELLED: labelled_text({*own, *names})} if names else kept


@dataclass(frozen=True, slots=True)
class Carried:
    """names: fields that came along. origin: id of the point that may still have to be deleted."""

    names: tuple[str, ...] = ()
    origin: str | None = None

    def to_text(self) -> str:
        """As it is stored."""
        origin = {} if self.origin is None else {"from": self.origin}
        return json.dumps({"fields": list(self.names), **origin}, ensure_ascii=False)


def read_carried(payload: Mapping[str, Any]) -> Carried:
    """What a payload carries; nothing where the field is missing or is not ours."""
    try:
        document = json.loads(payload["carried"])
        names, origin = document["fields"], document.get("from")
        origin = None if origin is None else str(uuid.UUID(origin))
    except (KeyError, TypeError, ValueError, AttributeError):
        return Carried()
    if not isinstance(names, list):
        return Carried()
    return Carried(tuple(name for name in names if isinstance(name, str)), origin)


def with_carried(payload: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """``payload``, fresh from the scan, with what the stored one carries and the scan does not state."""
    carried = read_carried(stored)
    return _carrying(payload, stored, carried.names, carried.origin)


def taken_along(payload: Mapping[str, Any], origin: Mapping[str, Any], identifier: str) -> dict[str, Any]:
    """``payload`` with all that the point it moves from knows and its new place does not state, or a person did."""
    names = [name for name in origin if name not in BOOKKEEPING]
    return _carrying(with_labels(payload, origin), origin, names, identifier)


def arrived(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload after its origin was deleted."""
    names = read_carried(payload).names
    settled = {name: value for name, value in payload.items() if name != "carried"}
    return {**settled, "carried": Carried(names).to_text()} if names else settled


def _carrying(
    payload: Mapping[str, Any], stored: Mapping[str, Any], names: Iterable[str], origin: str | None
) -> dict[str, Any]:
    kept = sorted(name for name in names if name in stored and name not in payload and name not in BOOKKEEPING)
    whole = {**payload, **{name: stored[name] for name in kept}}
    if kept or origin is not None:
        whole["carried"] = Carried(tuple(kept), origin).to_text()
    return whole

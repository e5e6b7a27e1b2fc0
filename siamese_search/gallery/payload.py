"""Labels that a person has set: the field ``labelled`` of the payload names them, as a JSON list.

A label set by hand outlives what the disk says: a later ingest of the same file, changed or not, keeps the value (or,
where a person took the field away, its absence), and a file that moves takes it along.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
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


def keep_labels(payload: dict[str, Any], stored: Mapping[str, Any]) -> None:
    """Give ``payload``, fresh from the disk, the labels that ``stored`` was given by hand, in place."""
    names = read_labelled(stored)
    for name in names:
        if name in stored:
            payload[name] = stored[name]
        else:
            payload.pop(name, None)
    if names:
        payload[LABELLED] = stored[LABELLED]

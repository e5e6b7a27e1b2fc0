"""Changes of payload fields, gathered so that an engine is asked once for all points that change in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from siamese_search.gallery.contract import Payload
from siamese_search.gallery.fields import settle


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the points ``ids``: fields to write, in their settled types, and names to take away."""

    ids: list[str]
    written: dict[str, Any]
    removed: tuple[str, ...]


def one_per_id(ids: Sequence[str], payloads: Sequence[Payload]) -> dict[str, dict[str, Any]]:
    """Each id's change; of several for the same id, fields of a later one win.

    Raises ValueError where the numbers differ, and for ``crc``, which belongs to the vector.
    """
    if len(ids) != len(payloads):
        raise ValueError(f"{len(ids)} ids and {len(payloads)} payloads do not match")
    merged: dict[str, dict[str, Any]] = {}
    for row, (one, payload) in enumerate(zip(ids, payloads)):
        if "crc" in payload:
            raise ValueError(f"row {row}: 'crc' is the checksum of the vector and cannot be set")
        merged[one] = {**merged.get(one, {}), **payload}
    return merged


def gather(
    payloads: Mapping[str, Mapping[str, Any]], known: Mapping[str, str]
) -> tuple[list[Change], dict[str, str]]:
    """The changes by id as few :class:`Change`, and the fields that are new or wider (see :func:`.fields.settle`).

    known: the gallery's fields. What takes away a field that nobody knows is left out. Raises ValueError as settle.
    """
    settled, changed = settle(list(payloads.values()), known)
    groups: dict[tuple[Any, ...], Change] = {}
    for (one, payload), written in zip(payloads.items(), settled):
        removed = tuple(sorted(name for name, value in payload.items() if value is None and name in known))
        # The type too: 1 and True are equal, and are not the same value.
        key = (tuple(sorted((name, type(v).__name__, v) for name, v in written.items())), removed)
        if key in groups:
            groups[key].ids.append(one)
        elif written or removed:
            groups[key] = Change([one], written, removed)
    return list(groups.values()), changed

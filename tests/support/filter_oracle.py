"""The reference semantics of filters, slow and obvious: every engine must reproduce it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from siamese_search.gallery.filters import Condition


def matches(payload: Mapping[str, Any], condition: Condition) -> bool:
    """Whether a payload meets a condition: the reference semantics, slow and obvious.

    Types count: ``True`` is not ``1`` and ``"2"`` is not ``2``, but ``2 == 2.0``. None is "not there".
    """
    stored = payload.get(condition.field)
    if condition.operator == "present":
        return stored is not None
    if condition.operator == "absent":
        return stored is None
    if condition.operator == "!=":
        return stored is None or not any(_equal(stored, v) for v in condition.values)
    if stored is None:
        return False
    if condition.operator == "=":
        return any(_equal(stored, v) for v in condition.values)
    wanted = condition.values[0]
    if not (_is_number(stored) and _is_number(wanted)):
        return False
    orderings: dict[str, bool] = {
        "<": stored < wanted,
        "<=": stored <= wanted,
        ">": stored > wanted,
        ">=": stored >= wanted,
    }
    return orderings[condition.operator]


def matches_all(payload: Mapping[str, Any], conditions: Iterable[Condition]) -> bool:
    """Whether a payload meets every condition (true for none)."""
    return all(matches(payload, condition) for condition in conditions)


def _equal(stored: Any, wanted: Any) -> bool:
    if _is_number(stored) and _is_number(wanted):
        return bool(stored == wanted)
    return type(stored) is type(wanted) and bool(stored == wanted)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

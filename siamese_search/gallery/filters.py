"""Filters: ``--where "camera=2"`` as conditions, typed by the stored value, independent of any engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "present"]
FilterValue = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on one payload field; several conditions are joined by AND.

    ``values`` holds one value for the orderings, one or more for ``=`` (any of) and ``!=`` (none of),
    and none for ``present``. A point without the field meets ``!=`` and nothing else.
    """

    field: str
    operator: Operator
    values: tuple[FilterValue, ...] = ()

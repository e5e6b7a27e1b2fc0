"""Conditions as a Qdrant server's filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qdrant_client import models

from siamese_search.gallery.filters import Condition
from siamese_search.gallery.rows import json_path

_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def to_filter(conditions: Sequence[Condition]) -> models.Filter | None:
    """The filter that means the same; None for no conditions. The conditions have been checked."""
    must: list[Any] = []
    must_not: list[Any] = []
    for one in conditions:
        path = json_path(one.field)
        if one.operator == "present":
            must_not.append(models.IsEmptyCondition(is_empty=models.PayloadField(key=path)))
        elif one.operator == "=":
            must.append(any_of(one.field, one.values))
        elif one.operator == "!=":
            must_not.append(any_of(one.field, one.values))
        else:
            bound: dict[str, Any] = {_BOUNDS[one.operator]: float(one.values[0])}
            must.append(models.FieldCondition(key=path, range=models.Range(**bound)))
    if not must and not must_not:
        return None
    return models.Filter(must=must or None, must_not=must_not or None)


def any_of(field: str, values: Sequence[Any]) -> models.FieldCondition | models.Filter:
    """The field has one of these values, which are of one type."""
    path = json_path(field)
    first = values[0]
    if isinstance(first, float):
        # The engine matches only text, integers and truth values; a number is a range of one point.
        ranges = [models.FieldCondition(key=path, range=models.Range(gte=v, lte=v)) for v in values]
        return models.Filter(should=list(ranges))
    if isinstance(first, bool):
        matches = [models.FieldCondition(key=path, match=models.MatchValue(value=v)) for v in values]
        return matches[0] if len(matches) == 1 else models.Filter(should=list(matches))
    if len(values) == 1:
        return models.FieldCondition(key=path, match=models.MatchValue(value=first))
    return models.FieldCondition(key=path, match=models.MatchAny(any=list(values)))

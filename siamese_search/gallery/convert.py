"""Between our types and Qdrant Edge's: vectors, points, conditions, errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import qdrant_edge as edge

from siamese_search.errors import SiameseSearchError, StoreError
from siamese_search.gallery.base import Vectors
from siamese_search.gallery.filters import Condition
from siamese_search.gallery.rows import json_path

#: Below this many points an exact search takes under 10 ms and an index is not worth building.
INDEX_FROM = 100_000

_BOOL_TEXT = {True: "true", False: "false"}

_INDEXES = {
    "str": edge.PayloadSchemaType.Keyword,
    "int": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Keyword,  # see encode_bools
}


def shard_config(dim: int, index_from: int = INDEX_FROM) -> edge.EdgeConfig:
    """The configuration of a shard. ``index_from``: points from which ``optimize`` builds an HNSW index."""
    kilobytes = max(1, index_from * dim * 4 // 1024)
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(size=dim, distance=edge.Distance.Dot),
        optimizers=edge.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=kilobytes),
    )


def to_points(ids: Sequence[str], rows: Vectors, payloads: Sequence[dict[str, Any]]) -> list[edge.Point]:
    """Edge points. Rows go in as memoryviews: the binding reads those in 0.4 of an array's or a list's time."""
    point = cast(Any, edge.Point)
    return [point(i, memoryview(row), payload) for i, row, payload in zip(ids, rows, payloads)]


def to_vector(stored: Any) -> Vectors:
    return np.array(stored, dtype=np.float32)


def index_type(kind: str) -> edge.PayloadSchemaType:
    return _INDEXES[kind]


def bool_fields(types: Mapping[str, str]) -> list[str]:
    return [name for name, kind in types.items() if kind == "bool"]


def encode_bools(payload: dict[str, Any], names: Sequence[str]) -> None:
    """Truth values as the engine stores them, in place: the texts ``true`` and ``false``.

    Edge 0.9's ``MatchValue(True)`` becomes a match with the integer 1, which no truth value meets: stored as
    they are, these fields could not be filtered. As text they can, and widening a field to str costs nothing.
    """
    for name in names:
        if name in payload:
            payload[name] = _BOOL_TEXT[payload[name]]


def decode_bools(payload: dict[str, Any] | None, names: Sequence[str]) -> dict[str, Any]:
    """The inverse of :func:`encode_bools`, in place; an absent payload becomes an empty one."""
    if payload is None:
        return {}
    for name in names:
        if name in payload:
            payload[name] = payload[name] == "true"
    return payload


def to_filter(conditions: Sequence[Condition]) -> edge.Filter | None:
    """The engine's filter; None for no conditions."""
    must: list[Any] = []
    must_not: list[Any] = []
    for one in conditions:
        path = json_path(one.field)
        if one.operator == "present":
            must_not.append(edge.IsEmptyCondition(path))
        elif one.operator == "=":
            must.append(_any_of(path, one.values))
        elif one.operator == "!=":
            must_not.append(_any_of(path, one.values))
        else:
            bound = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}[one.operator]
            limits: dict[str, Any] = {bound: float(one.values[0])}
            must.append(edge.FieldCondition(path, range=edge.RangeFloat(**limits)))
    if not must and not must_not:
        return None
    return edge.Filter(must=must, must_not=must_not)


def _any_of(path: str, values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, bool):
        values = [_BOOL_TEXT[v] for v in values]
        first = values[0]
    if isinstance(first, float):
        # The engine matches only text, integers and truth values; a number is a range of one point.
        return edge.Filter(
            should=[edge.FieldCondition(path, range=edge.RangeFloat(gte=v, lte=v)) for v in values]
        )
    if len(values) == 1:
        return edge.FieldCondition(path, match=edge.MatchValue(first))
    return edge.FieldCondition(path, match=edge.MatchAny(list(values)))


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the engine's bare ``Exception`` (and Rust panics, which are BaseException) into StoreError.

    Ours, ValueError (bad arguments), interrupts and memory errors pass through unchanged.
    """
    try:
        yield
    except (
        SiameseSearchError,
        ValueError,
        OSError,
        MemoryError,
        KeyboardInterrupt,
        SystemExit,
        GeneratorExit,
    ):
        raise
    except BaseException as error:
        if type(error) is Exception or type(error).__name__ == "PanicException":
            text = str(error).removeprefix("Service runtime error: ").splitlines() or ["no reason given"]
            raise StoreError(f"{what}: the vector engine failed: {text[0][:300]}") from error
        raise

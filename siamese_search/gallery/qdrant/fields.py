"""The fields of a gallery on a server: recording, widening and indexing them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from qdrant_client import QdrantClient, models

from siamese_search.gallery.fields import UNINDEXED, coerce, json_path
from siamese_search.gallery.qdrant.generation import Generation, field_metadata
from siamese_search.gallery.qdrant.points import any_of

T = TypeVar("T")
_PAGE = 1000
_OPERATIONS = 200

_INDEXES = {
    "str": models.PayloadSchemaType.KEYWORD,
    "int": models.PayloadSchemaType.INTEGER,
    "float": models.PayloadSchemaType.FLOAT,
    "bool": models.PayloadSchemaType.BOOL,
}


class Run(Protocol):
    """Carries out a method of QdrantClient, patiently."""

    def __call__(self, operation: Callable[..., T], /, *args: Any, **kwargs: Any) -> T: ...


def add_fields(run: Run, generation: Generation, changed: Mapping[str, str]) -> None:
    """Record new or widened fields, convert what is stored, and index them, before points with them arrive.

    The metadata come first and mark the fields as pending: the next writer after a crash in between finishes.
    """
    collection = generation.collection
    run(QdrantClient.update_collection, collection, metadata=field_metadata(changed, pending=True))
    _settle_stored(run, collection, changed, [name for name in changed if name in generation.fields])


def finish_fields(run: Run, generation: Generation) -> None:
    """Do what a writer that died on the way has left. Harmless while that writer is alive after all."""
    pending = {name: generation.fields[name] for name in generation.pending}
    if pending:
        _settle_stored(run, generation.collection, pending, list(pending))


def _settle_stored(run: Run, collection: str, types: Mapping[str, str], widened: list[str]) -> None:
    for name, kind in types.items():
        if name in widened:
            _convert_stored(run, collection, name, kind)
            run(QdrantClient.delete_payload_index, collection, json_path(name), wait=True)
        if name not in UNINDEXED:
            create = QdrantClient.create_payload_index
            run(create, collection, json_path(name), field_schema=_INDEXES[kind], wait=True)
    run(QdrantClient.update_collection, collection, metadata=field_metadata(types, pending=False))


def _convert_stored(run: Run, collection: str, name: str, kind: str) -> None:
    """Rewrite stored values of a field that are not of its type; a second run changes nothing."""
    path = json_path(name)
    present = models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=path))])
    offset: Any = None
    while True:
        records, offset = run(
            QdrantClient.scroll,
            collection,
            scroll_filter=present,
            limit=_PAGE,
            offset=offset,
            with_payload=[path],
        )
        groups: dict[tuple[type, object], list[Any]] = {}
        for record in records:
            value = (record.payload or {}).get(name)
            if type(value).__name__ != kind:
                groups.setdefault((type(value), value), []).append(record.id)
        # Only where the old value still stands: another writer may have replaced the point since we read it.
        operations: list[Any] = [
            models.SetPayloadOperation(
                set_payload=models.SetPayload(
                    payload={name: coerce(value, kind)},
                    filter=models.Filter(must=[models.HasIdCondition(has_id=ids), any_of(name, [value])]),
                )
            )
            for (_, value), ids in groups.items()
        ]
        for start in range(0, len(operations), _OPERATIONS):
            part = operations[start : start + _OPERATIONS]
            run(QdrantClient.batch_update_points, collection, part, wait=True)
        if offset is None:
            return

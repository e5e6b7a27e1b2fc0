"""Points to and from a Qdrant server, conditions to it as filters, and its answers in our terms and order.

The numbers of a vector go into its message as the bytes that numpy holds already: a packed ``repeated float`` is
little-endian. ``DenseVector(data=row.tolist())`` would make 512 Python floats of each first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from qdrant_client import QdrantClient, models
from qdrant_client import grpc as messages

from siamese_search.gallery.contract import Vectors
from siamese_search.gallery.fields import Change, FilterMaker, json_path
from siamese_search.gallery.qdrant.connection import TIMEOUT

#: A request that has so many is sent: far below the server's limit of 32 MB, and below what proxies like.
MAX_REQUEST_BYTES = 5_000_000
_KINDS = {str: "string_value", bool: "bool_value", int: "integer_value", float: "double_value"}

#: (id, vector, payload) of each point.
Given = Iterable[tuple[str, Vectors, dict[str, Any]]]


def send(
    run: Callable[..., Any], grpc: bool, collection: str, ids: list[str], rows: Vectors, payloads: list[dict[str, Any]]
) -> None:
    """Upsert points, in requests that a server takes. run: as :meth:`ServerGallery._run`."""
    given = zip(ids, rows.astype("<f4", copy=False), payloads, strict=True)
    points, upsert = (_messages(rows.shape[1], given), _upsert) if grpc else (_structs(given), QdrantClient.upsert)
    for batch in _requests(points):
        run(upsert, collection, batch, wait=True)


def _requests(points: Iterable[tuple[Any, int]]) -> Iterator[list[Any]]:
    """The points, each given with its size, in as many as a request may hold."""
    batch, size = list[Any](), 0
    for point, own in points:
        if size and size + own > MAX_REQUEST_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += own
    if batch:
        yield batch


def _upsert(client: QdrantClient, collection: str, points: list[messages.PointStruct], *, wait: bool) -> None:
    request = messages.UpsertPoints(collection_name=collection, points=points, wait=wait)
    client.grpc_points.Upsert(request, timeout=TIMEOUT)


def _messages(dim: int, given: Given) -> Iterator[tuple[messages.PointStruct, int]]:
    """Each point and its size."""
    # All vectors begin alike: field and length of the packed numbers.
    head = messages.DenseVector(data=[0.0] * dim).SerializeToString()[: -4 * dim]
    for one, row, payload in given:
        point = messages.PointStruct()
        point.id.uuid = one
        for name, value in payload.items():
            setattr(point.payload[name], _KINDS[type(value)], value)
        point.vectors.vector.dense.MergeFromString(head + row.tobytes())
        yield point, point.ByteSize()


def _structs(given: Given) -> Iterator[tuple[models.PointStruct, int]]:
    """The same for REST, by their size as JSON: some 13 bytes a float."""
    for one, row, payload in given:
        own = 13 * len(row) + sum(len(name) + 6 * len(str(value)) + 8 for name, value in payload.items()) + 80
        yield models.PointStruct(id=one, vector=row.tolist(), payload=payload), own


def payload_operations(changes: Sequence[Change]) -> list[models.UpdateOperation]:
    """Changes of payload fields as one batch. By filter, because a server refuses ids that are not there."""
    operations: list[Any] = []
    for change in changes:
        these = models.Filter(must=[models.HasIdCondition(has_id=list(change.ids))])
        if change.written:
            written = models.SetPayload(payload=change.written, filter=these)
            operations.append(models.SetPayloadOperation(set_payload=written))
        if change.removed:
            removed = models.DeletePayload(keys=[json_path(name) for name in change.removed], filter=these)
            operations.append(models.DeletePayloadOperation(delete_payload=removed))
    return operations


def to_payload(stored: Mapping[str, Any] | None, floats: Sequence[str]) -> dict[str, Any]:
    """A payload as it was sent. floats: fields of that type, whose whole numbers JSON may have turned to int."""
    payload = dict(stored or {})
    for name in floats:
        if type(payload.get(name)) is int:
            payload[name] = float(payload[name])
    return payload


def _match(path: str, values: Sequence[Any]) -> models.FieldCondition | models.Filter:
    if len(values) == 1:
        return models.FieldCondition(key=path, match=models.MatchValue(value=values[0]))
    if isinstance(values[0], bool):
        return models.Filter(should=[_match(path, [value]) for value in values])
    return models.FieldCondition(key=path, match=models.MatchAny(any=list(values)))


FILTERS = FilterMaker(
    match=_match,
    within=lambda path, **bounds: models.FieldCondition(key=path, range=models.Range(**bounds)),
    absent=lambda path: models.IsEmptyCondition(is_empty=models.PayloadField(key=path)),
    joined=lambda **parts: models.Filter(**{name: part or None for name, part in parts.items()}),
)


def counted(facet: Callable[..., models.FacetResponse], limit: int, everything: int | None) -> dict[Any, int]:
    """The most frequent values, all that share the last place among them. everything: ask for so many at once.

    facet: a server's, with a limit of its own; it breaks a tie at the last place as it likes.
    """
    asked = limit + 1 if everything is None else everything
    while True:
        hits = facet(limit=asked).hits
        counts = sorted((hit.count for hit in hits), reverse=True)
        if everything is not None or len(counts) < asked or counts[limit - 1] != counts[-1]:
            return {hit.value: hit.count for hit in hits if hit.count}
        asked *= 8

"""Points to and from a Qdrant server, conditions to it as filters, and its answers in our terms and order.

Upserts are written as protobuf by hand where the vectors are concerned. ``DenseVector(data=row.tolist())`` makes
512 Python floats of each vector and costs 95 µs a point, of which the wire wants nothing: a packed ``repeated
float`` is the little-endian bytes that numpy holds already. Taking those costs 20 µs a point, payload included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from qdrant_client import QdrantClient, models
from qdrant_client import grpc as messages

from siamese_search.gallery.contract import Vectors
from siamese_search.gallery.fields import Change, FilterMaker, json_path
from siamese_search.gallery.qdrant.connection import TIMEOUT

#: One request stays far below the server's limit of 32 MB, and below what proxies like.
MAX_REQUEST_BYTES = 5_000_000
_LENGTH_DELIMITED = 2


def upsert(client: QdrantClient, request: messages.UpsertPoints) -> None:
    """Send one request of :func:`upsert_requests`."""
    client.grpc_points.Upsert(request, timeout=TIMEOUT)


def send(
    run: Callable[..., Any], grpc: bool, collection: str, ids: list[str], rows: Vectors, payloads: list[dict[str, Any]]
) -> None:
    """Upsert points, in requests that a server takes. run: as :meth:`ServerGallery._run`."""
    if grpc:
        for request in upsert_requests(collection, ids, rows, payloads):
            run(upsert, request)
    else:
        for batch in point_structs(ids, rows, payloads):
            run(QdrantClient.upsert, collection, batch, wait=True)


def upsert_requests(
    collection: str, ids: Sequence[str], rows: Vectors, payloads: Sequence[Mapping[str, Any]]
) -> Iterator[messages.UpsertPoints]:
    """gRPC requests that store these points, each at most MAX_REQUEST_BYTES (a single larger point stands alone).

    ids: n canonical UUIDs; rows: float32 [n, d], C-contiguous; payloads: n, of plain values.
    """
    head = messages.UpsertPoints(collection_name=collection, wait=True).SerializeToString()
    field = _tag(messages.UpsertPoints, "points")
    around = _vector_frame(rows.shape[1])
    wire = rows.astype("<f4", copy=False)
    parts, size = [head], len(head)
    for one, row, payload in zip(ids, wire, payloads):
        values = {name: _value(value) for name, value in payload.items()}
        body = messages.PointStruct(id=messages.PointId(uuid=one), payload=values).SerializeToString()
        vector = row.tobytes()
        length = _varint(len(body) + len(around) + len(vector))
        added = len(field) + len(length) + len(body) + len(around) + len(vector)
        if size + added > MAX_REQUEST_BYTES and len(parts) > 1:
            yield messages.UpsertPoints.FromString(b"".join(parts))
            parts, size = [head], len(head)
        parts += (field, length, body, around, vector)
        size += added
    if len(parts) > 1:
        # Parsed again (2 µs a point), because the client's stub takes a message and not its bytes.
        yield messages.UpsertPoints.FromString(b"".join(parts))


def point_structs(
    ids: Sequence[str], rows: Vectors, payloads: Sequence[Mapping[str, Any]]
) -> Iterator[list[models.PointStruct]]:
    """The same points for REST, in batches of about MAX_REQUEST_BYTES as JSON (some 13 bytes a float)."""
    batch: list[models.PointStruct] = []
    size = 0
    for one, row, payload in zip(ids, rows, payloads):
        added = 13 * len(row) + sum(len(str(key)) + 6 * len(str(value)) + 8 for key, value in payload.items()) + 80
        if batch and size + added > MAX_REQUEST_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(models.PointStruct(id=one, vector=row.tolist(), payload=dict(payload)))
        size += added
    if batch:
        yield batch


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


def _value(value: Any) -> messages.Value:
    kind = type(value)
    if kind is str:
        return messages.Value(string_value=value)
    if kind is bool:
        return messages.Value(bool_value=value)
    if kind is int:
        return messages.Value(integer_value=value)
    return messages.Value(double_value=value)


def _vector_frame(dim: int) -> bytes:
    """What stands before the d * 4 bytes of a vector inside PointStruct: vectors { vector { dense { data: …"""
    size = 4 * dim
    frame = b""
    for message, field in (
        (messages.DenseVector, "data"),
        (messages.Vector, "dense"),
        (messages.Vectors, "vector"),
        (messages.PointStruct, "vectors"),
    ):
        frame = _tag(message, field) + _varint(size + len(frame)) + frame
    return frame


def _tag(message: Any, field: str) -> bytes:
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | _LENGTH_DELIMITED)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class _Filters(FilterMaker):
    def match(self, path: str, values: Sequence[Any]) -> models.FieldCondition | models.Filter:
        if len(values) == 1:
            return models.FieldCondition(key=path, match=models.MatchValue(value=values[0]))
        if isinstance(values[0], bool):
            return models.Filter(should=[self.match(path, [value]) for value in values])
        return models.FieldCondition(key=path, match=models.MatchAny(any=list(values)))

    def within(self, path: str, **bounds: float) -> models.FieldCondition:
        return models.FieldCondition(key=path, range=models.Range(**bounds))

    def absent(self, path: str) -> models.IsEmptyCondition:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=path))

    def joined(self, **parts: Any) -> models.Filter:
        return models.Filter(**{name: part or None for name, part in parts.items()})


FILTERS = _Filters()


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

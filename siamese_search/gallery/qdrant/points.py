"""Points to and from a Qdrant server, conditions to it as filters, and its answers in our terms and order.

Upserts are written as protobuf by hand where the vectors are concerned. ``DenseVector(data=row.tolist())`` makes
512 Python floats of each vector and costs 95 µs a point, of which the wire wants nothing: a packed ``repeated
float`` is the little-endian bytes that numpy holds already. Taking those costs 20 µs a point, payload included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as messages

from siamese_search.gallery.contract import StoredPoint, Vectors
from siamese_search.gallery.fields import Change, json_path
from siamese_search.gallery.filters import BOUNDS, Condition, exact_ordering
from siamese_search.gallery.qdrant.connection import TIMEOUT

#: One request stays far below the server's limit of 32 MB, and below what proxies like.
MAX_REQUEST_BYTES = 5_000_000
_LENGTH_DELIMITED = 2


def upsert(client: QdrantClient, request: messages.UpsertPoints) -> None:
    """Send one request of :func:`upsert_requests`."""
    client.grpc_points.Upsert(request, timeout=TIMEOUT)


def send(
    run: Callable[..., Any],
    grpc: bool,
    collection: str,
    ids: list[str],
    rows: Vectors,
    payloads: list[dict[str, Any]],
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
        body = messages.PointStruct(
            id=messages.PointId(uuid=one), payload=to_values(payload)
        ).SerializeToString()
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
        added = (
            13 * len(row)
            + sum(len(str(key)) + 6 * len(str(value)) + 8 for key, value in payload.items())
            + 80
        )
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


def to_values(payload: Mapping[str, Any]) -> dict[str, messages.Value]:
    """A payload of str, int, float and bool as protobuf values."""
    return {key: _value(value) for key, value in payload.items()}


def to_vector(stored: object) -> Vectors | None:
    """The client's vector (a list, or None where it was not asked for) as float32 [d], to the bit."""
    return None if stored is None else np.array(cast(Any, stored), dtype=np.float32)


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


def to_filter(conditions: Sequence[Condition]) -> models.Filter | None:
    """The filter that means the same; None for no conditions. The conditions have been checked."""
    must: list[Any] = []
    must_not: list[Any] = []
    for one in conditions:
        path = json_path(one.field)
        if one.operator in ("present", "absent"):
            (must if one.operator == "absent" else must_not).append(
                models.IsEmptyCondition(is_empty=models.PayloadField(key=path))
            )
        elif one.operator == "=":
            must.append(any_of(one.field, one.values))
        elif one.operator == "!=":
            must_not.append(any_of(one.field, one.values))
        else:
            must.append(_ordered(one))
    if not must and not must_not:
        return None
    return models.Filter(must=must or None, must_not=must_not or None)


def _ordered(one: Condition) -> models.Filter:
    ordering, numbers = exact_ordering(one)
    parts: list[Any] = [any_of(one.field, numbers)] if numbers else []
    if ordering is not None:
        bound: dict[str, Any] = {BOUNDS[ordering.operator]: float(ordering.values[0])}
        parts.append(models.FieldCondition(key=json_path(one.field), range=models.Range(**bound)))
    if not parts:  # no 64-bit number lies beyond the last one
        last = any_of(one.field, one.values)
        return models.Filter(must=[last], must_not=[last])
    return models.Filter(should=parts)


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


def ranked_points(points: Sequence[models.ScoredPoint]) -> list[tuple[models.ScoredPoint, float]]:
    """Points with their scores, by score descending, then id ascending (as text, whose order is the same)."""
    # Clipped before sorting: rounding puts equal vectors at 1.0000001, and a cosine ends at 1.
    scores: list[float] = np.clip([point.score for point in points], -1.0, 1.0).tolist()
    return sorted(zip(points, scores), key=lambda one: (-one[1], str(one[0].id)))


def stored(record: models.Record, floats: Sequence[str]) -> StoredPoint:
    """A point as the gallery gives it. floats: as :func:`~siamese_search.gallery.qdrant.points.to_payload`."""
    return StoredPoint(str(record.id), to_payload(record.payload, floats), to_vector(record.vector))


def most_frequent(counts: dict[Any, int], limit: int) -> dict[Any, int]:
    """The ``limit`` most frequent values, the smaller one first where two are as frequent."""
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:limit])


def counted(facet: Callable[..., models.FacetResponse], limit: int, everything: int | None) -> dict[Any, int]:
    """The most frequent values as :meth:`Gallery.facet` gives them. everything: ask for so many at once.

    facet: a server's, with a limit of its own; it breaks a tie at the last place as it likes.
    """
    asked = limit + 1 if everything is None else everything
    while True:
        hits = facet(limit=asked).hits
        counts = sorted((hit.count for hit in hits), reverse=True)
        if everything is not None or len(counts) < asked or counts[limit - 1] != counts[-1]:
            return most_frequent({hit.value: hit.count for hit in hits if hit.count}, limit)
        asked *= 8

"""What went wrong between us and a server: the client's many exceptions as one :class:`Fault`."""

from __future__ import annotations

import json
import socket
import ssl
from dataclasses import dataclass
from typing import Any, Literal

import grpc
import httpx
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

#: gone: no answer; nameless: its host's name leads nowhere; node: one of a cluster's is away, or it has no leader;
#: busy: come again later; key: refused; missing, exists: a collection; disk: the server's is full; tls: no safe
#: connection; foreign: what answers is no Qdrant; refused: everything else that the server says.
Kind = Literal["gone", "nameless", "node", "busy", "key", "missing", "exists", "disk", "tls", "foreign", "refused"]

_EMPTY = "its answer has not the form of Qdrant's"
#: What a cluster says, with the status of an internal error, that misses a node or is choosing its leader.
_NODE_AWAY = (
    "temporarily unavailable",
    "replica",
    "transport error",
    "connect error",
    "connection refused",
    "connection reset",
    "failed to apply operation",
    "read operations failed",
    "leader is not established",
    "consensus",
    "timed out",
    "timeout",
)
_GRPC_KINDS: dict[grpc.StatusCode | None, Kind] = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: "busy",
    grpc.StatusCode.UNAUTHENTICATED: "key",
    grpc.StatusCode.PERMISSION_DENIED: "key",
    grpc.StatusCode.NOT_FOUND: "missing",
    grpc.StatusCode.ALREADY_EXISTS: "exists",
}
_HTTP_KINDS: dict[int, Kind] = {404: "missing", 409: "exists", 408: "gone"}
#: The cause that such an error names at its end, where the request is what is wrong.
_WRONG_REQUEST = ("wrong input", "bad request", "validation error")


@dataclass(frozen=True, slots=True)
class Fault:
    """``reason`` is one line. ``retry_after``: seconds that the server asks for before the next try, or 0."""

    kind: Kind
    reason: str
    retry_after: float = 0.0

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later."""
        return self.kind in ("gone", "nameless", "node", "busy")


def fault_of(error: Exception) -> Fault | None:
    """What an exception of the client means; None for one that is not about the server."""
    if isinstance(error, ResourceExhaustedResponse):
        return Fault("busy", _line(str(error)), max(0.0, float(error.retry_after_s)))
    if isinstance(error, grpc.RpcError):
        return _grpc_fault(error)
    if isinstance(error, UnexpectedResponse):
        return _http_fault(error)
    if isinstance(error, ResponseHandlingException):
        return _handling_fault(error.source)
    if isinstance(error, QdrantException):  # the client's word for a Retry-After that is a date
        return Fault("busy", _line(str(error)))
    without_result = isinstance(error, AssertionError) and str(error).endswith("returned None")  # the client's word
    if without_result or isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
        return Fault("foreign", _EMPTY)
    return None


def _grpc_fault(error: Any) -> Fault:
    code: grpc.StatusCode | None = error.code() if callable(getattr(error, "code", None)) else None
    text = _line(str(error.details() or "")) if callable(getattr(error, "details", None)) else ""
    status = grpc.StatusCode
    if code == status.DEADLINE_EXCEEDED:
        return Fault("gone", "it did not answer in time")
    if code == status.UNAVAILABLE or (code is status.INTERNAL and "RST_STREAM" in text):
        return Fault("gone", text or "no connection")
    if code in (status.CANCELLED, status.UNKNOWN) and not text.startswith("Service"):
        return Fault("gone", text or "the connection was cut")
    if code in _GRPC_KINDS:
        return Fault(_GRPC_KINDS[code], text)
    return _said(text or str(code), internal=code in (status.INTERNAL, status.UNKNOWN, status.CANCELLED))


def _http_fault(error: UnexpectedResponse) -> Fault:
    status = error.status_code or 0
    try:
        answer = json.loads(error.content)
        stated = answer["status"]["error"] if isinstance(answer["status"], dict) else answer["status"]
        text = _line(str(stated))
    except (ValueError, KeyError, TypeError, RecursionError):
        text = ""
    if status in (429, 502, 503, 504):
        return Fault("busy" if status == 429 else "gone", text or f"HTTP {status}", _retry_after(error))
    if status in (401, 403):
        return Fault("key", text)
    if not text:
        return Fault("foreign", f"HTTP {status} without a word that Qdrant would say")
    if status in _HTTP_KINDS:
        return Fault(_HTTP_KINDS[status], text)
    return _said(text, internal=status >= 500)


def _handling_fault(source: Exception) -> Fault | None:
    if isinstance(source, httpx.TransportError):
        text = _line(str(source)) or type(source).__name__
        if _caused_by(source, ssl.SSLError) and not _caused_by(source, ssl.SSLEOFError):  # which was cut off
            return Fault("tls", text)
        if _caused_by(source, socket.gaierror):
            return Fault("nameless", text)
        if isinstance(source, httpx.TimeoutException):
            return Fault("gone", "it did not answer in time")
        if isinstance(source, httpx.RemoteProtocolError) and "illegal" in text.lower():
            return Fault("foreign", text)
        if isinstance(source, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return Fault("refused", text)
        return Fault("gone", text)
    if isinstance(source, ValueError):  # pydantic's and json's: an answer in no form of Qdrant's
        return Fault("foreign", _EMPTY)
    return None


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False


def _said(text: str, *, internal: bool) -> Fault:
    """A refusal, sorted by its words where the status is too coarse."""
    lower = text.lower()
    if "no space left" in lower or "out of disk" in lower:
        return Fault("disk", text)
    if "already exists" in lower:
        return Fault("exists", text)
    wrong = any(words in lower for words in _WRONG_REQUEST)
    if internal and not wrong and any(words in lower for words in _NODE_AWAY):
        return Fault("node", text)
    return Fault("refused", text)


def _retry_after(error: UnexpectedResponse) -> float:
    try:
        return max(0.0, float(error.headers.get("retry-after", 0)))
    except (TypeError, ValueError, AttributeError):
        return 0.0


def _line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:297] + "..."


def missing_shards(client: QdrantClient, collection: str) -> str:
    """``shard 1 (on http://b:6335)``: those of which no replica is both active and on a node that answers.

    Empty where none is missing. Raises what the client does, also where the server is no cluster.
    """
    asked = client.http.distributed_api
    cluster = asked.cluster_status().result
    found = asked.collection_cluster_info(collection).result
    if found is None or not isinstance(cluster, models.ClusterStatusOneOf1):
        return ""
    names = {peer: info.uri.rstrip("/") for peer, info in cluster.peers.items()}
    silent = {uri.rstrip("/") for uri in cluster.message_send_failures}
    active = models.ReplicaState.ACTIVE
    homes: dict[int, list[str]] = {}
    there = {one.shard_id for one in found.local_shards if one.state == active}
    for shard in found.remote_shards:
        uri = names.get(str(shard.peer_id), f"node {shard.peer_id}")
        homes.setdefault(shard.shard_id, []).append(uri)
        if shard.state == active and uri not in silent:
            there.add(shard.shard_id)
    return ", ".join(
        f"shard {shard} (on {' and '.join(uris)})" for shard, uris in sorted(homes.items()) if shard not in there
    )

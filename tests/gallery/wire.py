"""qdrant-client's in-memory mode behind real sockets: gRPC, and REST for what concerns collections.

For transport only: what travels, and what happens when it does not arrive. It proves nothing about a server's
answers, which come from the in-memory mode here and are converted by the client's own code in both directions.
"""

from __future__ import annotations

import json
import ssl
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from qdrant_client import grpc as pb
from qdrant_client import models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc, grpc_to_payload
from qdrant_client.grpc import collections_service_pb2_grpc, points_service_pb2_grpc, qdrant_pb2_grpc
from qdrant_client.http.exceptions import UnexpectedResponse

_CODES = {400: grpc.StatusCode.INVALID_ARGUMENT, 404: grpc.StatusCode.NOT_FOUND, 409: grpc.StatusCode.ALREADY_EXISTS}
_INDEXES = {0: "keyword", 1: "integer", 2: "float", 5: "bool"}


class Server:
    """Serves a client's in-memory collections on two free ports of this machine. ``calls`` counts requests by name."""

    def __init__(self, client, *, key="", version="1.16.3", certificate=None):
        """certificate: files of a certificate and its key; TLS on both ports."""
        self.client, self.key, self.version = client, key, version
        self.peer = uuid.uuid4().int >> 65
        self.calls: dict[str, int] = {}
        self.keys: list[str | None] = []  # that came by gRPC
        self.refuse: list[tuple[grpc.StatusCode, str]] = []  # answers for the next requests, in order
        self.pages: dict[str, dict] = {}  # REST answers by path; any other path has the first page's
        self.lock = threading.Lock()
        self._grpc = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        points_service_pb2_grpc.add_PointsServicer_to_server(_Points(self), self._grpc)
        collections_service_pb2_grpc.add_CollectionsServicer_to_server(_Collections(self), self._grpc)
        qdrant_pb2_grpc.add_QdrantServicer_to_server(_Root(self), self._grpc)
        if certificate is None:
            self.grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")
        else:
            chain, secret = (one.read_bytes() for one in certificate)
            own = grpc.ssl_server_credentials([(secret, chain)])
            self.grpc_port = self._grpc.add_secure_port("127.0.0.1:0", own)
        self._grpc.start()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _http_handler(self))
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.rest_port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self):
        self._grpc.stop(0).wait(5)
        self._http.shutdown()
        self._http.server_close()

    def answer(self, context, name, action):
        """Carry out one request, one at a time: the in-memory mode knows no threads."""
        with self.lock:
            self.calls[name] = self.calls.get(name, 0) + 1
            self.keys.append(dict(context.invocation_metadata()).get("api-key"))
            if self.key and self.keys[-1] != self.key:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "Invalid API key or JWT")
            if self.refuse:
                context.abort(*self.refuse.pop(0))
            try:
                return action(self.client)
            except UnexpectedResponse as error:
                text = json.loads(error.content)["status"]["error"]
                context.abort(_CODES[error.status_code], text)


def _http_handler(server):
    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            path = self.path.split("?")[0]
            status, result = 200, {"title": "qdrant - vector search engine", "version": server.version}
            if self.path in server.pages:
                result = server.pages[self.path]
            elif path != "/":
                status, result = self.reply(path.strip("/").split("/"), json.loads(body or b"{}"))
            data = json.dumps(result).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

        def reply(self, path, body):
            if server.key and self.headers.get("api-key") != server.key:
                return 401, {"status": {"error": "Invalid API key or JWT"}}
            try:
                with server.lock:
                    result = _over_rest(server, self.command, path, body)
            except UnexpectedResponse as error:
                return error.status_code, json.loads(error.content)
            return 200, {"time": 0.0, "status": "ok", "result": result}

        def log_message(self, *_args):
            pass

    return Handler


def _over_rest(server, method, path, body):
    """What concerns collections, as the server's REST interface has it."""
    client, name = server.client, path[1] if len(path) > 1 else ""
    match method, path:
        case "GET", ["collections"]:
            return client.get_collections().model_dump(mode="json")
        case "GET", ["aliases"]:
            return client.get_aliases().model_dump(mode="json")
        case "POST", ["collections", "aliases"]:
            actions = models.ChangeAliasesOperation.model_validate(body).actions
            return client.update_collection_aliases(actions)
        case "GET", ["collections", _]:
            return client.get_collection(name).model_dump(mode="json")
        case "GET", ["collections", _, "cluster"]:
            client.get_collection(name)
            shards = {"local_shards": [], "remote_shards": [], "shard_transfers": []}
            return {"peer_id": server.peer, "shard_count": 1, **shards}
        case "PUT", ["collections", _]:
            wanted = models.CreateCollection.model_validate(body)
            return client.create_collection(name, vectors_config=wanted.vectors, metadata=body.get("metadata"))
        case "PATCH", ["collections", _]:
            return client.update_collection(name, metadata=body.get("metadata"))
        case "DELETE", ["collections", _]:
            return client.delete_collection(name)
    raise AssertionError(f"the stub has no {method} {'/'.join(path)}")


class _Root(qdrant_pb2_grpc.QdrantServicer):
    def __init__(self, server):
        self.server = server

    def HealthCheck(self, _request, _context):  # noqa: N802 - the protocol's names
        return pb.HealthCheckReply(title="qdrant - vector search engine", version=self.server.version)


def _filter(request, name="filter"):
    return GrpcToRest.convert_filter(getattr(request, name)) if request.HasField(name) else None


def _done():
    return pb.PointsOperationResponse(result=pb.UpdateResult(operation_id=0, status=pb.UpdateStatus.Completed))


def _scored(point):
    return RestToGrpc.convert_scored_point(point.model_copy(update={"payload": point.payload or {}}))


def _record(record):
    return RestToGrpc.convert_record(record.model_copy(update={"payload": record.payload or {}}))


class _Points(points_service_pb2_grpc.PointsServicer):
    def __init__(self, server):
        self.server = server

    def Upsert(self, request, context):  # noqa: N802
        points = [GrpcToRest.convert_point_struct(one) for one in request.points]
        self.server.answer(context, "Upsert", lambda c: c.upsert(request.collection_name, points))
        return _done()

    def Delete(self, request, context):  # noqa: N802
        selector = GrpcToRest.convert_points_selector(request.points)
        self.server.answer(context, "Delete", lambda c: c.delete(request.collection_name, selector))
        return _done()

    def UpdateBatch(self, request, context):  # noqa: N802
        operations = [GrpcToRest.convert_points_update_operation(one) for one in request.operations]
        self.server.answer(context, "UpdateBatch", lambda c: c.batch_update_points(request.collection_name, operations))
        result = pb.UpdateResult(operation_id=0, status=pb.UpdateStatus.Completed)
        return pb.UpdateBatchResponse(result=[result] * len(operations))

    def CreateFieldIndex(self, request, context):  # noqa: N802
        schema = _INDEXES[request.field_type]
        self.server.answer(
            context,
            "CreateFieldIndex",
            lambda c: c.create_payload_index(request.collection_name, request.field_name, schema),
        )
        return _done()

    def DeleteFieldIndex(self, request, context):  # noqa: N802
        self.server.answer(
            context, "DeleteFieldIndex", lambda c: c.delete_payload_index(request.collection_name, request.field_name)
        )
        return _done()

    def Get(self, request, context):  # noqa: N802
        records = self.server.answer(
            context,
            "Get",
            lambda c: c.retrieve(
                request.collection_name,
                [GrpcToRest.convert_point_id(one) for one in request.ids],
                GrpcToRest.convert_with_payload_interface(request.with_payload),
                GrpcToRest.convert_with_vectors_selector(request.with_vectors),
            ),
        )
        return pb.GetResponse(result=[_record(one) for one in records])

    def Scroll(self, request, context):  # noqa: N802
        offset = GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None
        records, after = self.server.answer(
            context,
            "Scroll",
            lambda c: c.scroll(
                request.collection_name,
                scroll_filter=_filter(request),
                limit=request.limit,
                offset=offset,
                with_payload=GrpcToRest.convert_with_payload_interface(request.with_payload),
                with_vectors=GrpcToRest.convert_with_vectors_selector(request.with_vectors),
            ),
        )
        return pb.ScrollResponse(
            result=[_record(one) for one in records],
            next_page_offset=None if after is None else RestToGrpc.convert_extended_point_id(after),
        )

    def Count(self, request, context):  # noqa: N802
        found = self.server.answer(
            context, "Count", lambda c: c.count(request.collection_name, count_filter=_filter(request))
        )
        return pb.CountResponse(result=pb.CountResult(count=int(found.count)))

    def Facet(self, request, context):  # noqa: N802
        found = self.server.answer(
            context,
            "Facet",
            lambda c: c.facet(request.collection_name, request.key, facet_filter=_filter(request), limit=request.limit),
        )
        return pb.FacetResponse(hits=[RestToGrpc.convert_facet_value_hit(one) for one in found.hits])

    def QueryBatch(self, request, context):  # noqa: N802
        queries = [GrpcToRest.convert_query_points(one) for one in request.query_points]
        found = self.server.answer(
            context, "QueryBatch", lambda c: c.query_batch_points(request.collection_name, queries)
        )
        return pb.QueryBatchResponse(
            result=[pb.BatchResult(result=[_scored(one) for one in answer.points]) for answer in found]
        )


class _Collections(collections_service_pb2_grpc.CollectionsServicer):
    def __init__(self, server):
        self.server = server

    def Get(self, request, context):  # noqa: N802
        info = self.server.answer(context, "GetCollection", lambda c: c.get_collection(request.collection_name))
        return pb.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))

    def List(self, _request, context):  # noqa: N802
        found = self.server.answer(context, "List", lambda c: c.get_collections())
        names = [pb.CollectionDescription(name=one.name) for one in found.collections]
        return pb.ListCollectionsResponse(collections=names)

    def Create(self, request, context):  # noqa: N802
        self.server.answer(
            context,
            "Create",
            lambda c: c.create_collection(
                request.collection_name,
                vectors_config=GrpcToRest.convert_vectors_config(request.vectors_config),
                metadata=grpc_to_payload(request.metadata),
            ),
        )
        return pb.CollectionOperationResponse(result=True)

    def Update(self, request, context):  # noqa: N802
        metadata = grpc_to_payload(request.metadata) or None
        self.server.answer(context, "Update", lambda c: c.update_collection(request.collection_name, metadata=metadata))
        return pb.CollectionOperationResponse(result=True)

    def CollectionClusterInfo(self, request, context):  # noqa: N802
        self.server.answer(context, "Cluster", lambda c: c.get_collection(request.collection_name))
        return pb.CollectionClusterInfoResponse(peer_id=self.server.peer, shard_count=1)

    def Delete(self, request, context):  # noqa: N802
        self.server.answer(context, "DeleteCollection", lambda c: c.delete_collection(request.collection_name))
        return pb.CollectionOperationResponse(result=True)

    def UpdateAliases(self, request, context):  # noqa: N802
        actions = [GrpcToRest.convert_alias_operations(one) for one in request.actions]
        self.server.answer(context, "UpdateAliases", lambda c: c.update_collection_aliases(actions))
        return pb.CollectionOperationResponse(result=True)

    def ListAliases(self, _request, context):  # noqa: N802
        found = self.server.answer(context, "ListAliases", lambda c: c.get_aliases())
        aliases = [RestToGrpc.convert_alias_description(one) for one in found.aliases]
        return pb.ListAliasesResponse(aliases=aliases)

"""The server engine over real sockets: gRPC as it travels, and REST where its port does not answer."""

from __future__ import annotations

import json
import socket
import warnings

import grpc
import pytest
from qdrant_client.http.exceptions import UnexpectedResponse

from siamese_search.errors import StoreError
from siamese_search.gallery.qdrant import address, keys
from siamese_search.gallery.qdrant.connection import Connection
from siamese_search.gallery.qdrant.faults import fault_of
from siamese_search.gallery.qdrant.store import ServerStore
from siamese_search.settings import ServerSettings

from .. import contract, memory, wire

MODEL = contract.MODEL
KEY = "s3cret-of-the-server"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def serve():
    warnings.simplefilter("ignore")
    servers = []

    def start(**options):
        servers.append(wire.Server(memory.memory_client(), **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def connect(server, *, key=None, grpc_port=None, notice=lambda _text: None, **settings):
    place = address.Address("http", "127.0.0.1", server.rest_port)
    connection = Connection(
        place,
        key=None if key is None else keys.ApiKey(key),
        grpc_port=grpc_port or server.grpc_port,
        notice=notice,
    )
    return ServerStore(connection, ServerSettings(**{"wait": 5, **settings}))


class TestOverGrpc(contract.GalleryContract):
    """The whole contract once more, so that every request and answer goes through gRPC's types."""

    @pytest.fixture
    def open_engine(self, serve):
        store = connect(serve())
        yield lambda model, mode="w": store.open("default", model=model, create=mode == "w", mode=mode)
        assert store._connection.grpc
        store.close()

    # Half a minute of the in-memory mode's time, with the same requests as the tests beside it.
    test_ids_alone_are_those_of_the_hits = None


def test_grpc_is_spoken_where_its_port_answers_and_rest_elsewhere(serve):
    server = serve()
    with connect(server) as store:
        assert store.names() == []
        assert store._connection.grpc
    with connect(server, grpc_port=free_port()) as store:
        with pytest.raises(
            StoreError, match="not a Qdrant server"
        ):  # the stub has no REST but its first page
            store.names()
        assert not store._connection.grpc


def test_an_old_server_and_a_strange_one_are_one_line(serve):
    with pytest.raises(StoreError, match=r"runs Qdrant 1\.15\.5, which is too old: upgrade it to 1\.16"):
        connect(serve(version="1.15.5")).names()
    with pytest.raises(StoreError, match="not a Qdrant server"):
        connect(serve(version="unknown")).names()


def test_int4_needs_a_server_that_has_it(serve):
    with pytest.raises(StoreError, match=r"runs Qdrant 1\.16: quantisation = \"int4\" needs 1\.18"):
        connect(serve(), quantisation="int4").open("a", model=MODEL, create=True, mode="w")
    connect(serve(version="1.18.0"), quantisation="int4").open("a", model=MODEL, create=True, mode="w")


@pytest.mark.parametrize("given", [None, "a-wrong-key"])
def test_a_wrong_key_is_one_line_without_it(serve, given):
    server = serve(key=KEY)
    with pytest.raises(StoreError, match="refuses access") as caught, connect(server, key=given) as store:
        store.names()
    assert "\n" not in str(caught.value)
    assert "wrong-key" not in str(caught.value)
    with connect(server, key=KEY) as store:
        assert store.names() == []


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        (grpc.StatusCode.INTERNAL, "Service internal error: No space left on device: WAL", "disk is full"),
        (grpc.StatusCode.INVALID_ARGUMENT, "Wrong input: strange", "refused: Wrong input: strange"),
        (grpc.StatusCode.INVALID_ARGUMENT, "no field 'timeout'", "refused: no field 'timeout'"),
        (
            grpc.StatusCode.INTERNAL,
            "Service internal error: 1 out of 3 shards failed to apply operation. First error captured: Wrong input: x",
            "refused: Service internal error: 1 out of 3",
        ),
        (grpc.StatusCode.PERMISSION_DENIED, "read only", "refuses access"),
    ],
)
def test_what_the_server_refuses_is_not_tried_again(serve, code, text, words):
    server = serve()
    with connect(server) as store, store.open("a", model=MODEL, create=True, mode="w") as gallery:
        contract.fill(gallery, 3)
        before = server.calls["Upsert"]
        server.refuse.append((code, text))
        with pytest.raises(StoreError, match=words):
            contract.fill(gallery, 3)
        assert server.calls["Upsert"] == before + 1


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Rate limiting exceeded"),
        (grpc.StatusCode.UNAVAILABLE, "Shard temporarily unavailable"),
        (grpc.StatusCode.INTERNAL, "Service internal error: 1 of 2 replicas failed"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, ""),
    ],
)
def test_what_may_pass_is_tried_again(serve, code, text):
    server = serve()
    with connect(server) as store, store.open("a", model=MODEL, create=True, mode="w") as gallery:
        server.refuse += [(code, text)] * 2
        contract.fill(gallery, 3)
        assert gallery.count() == 3


#: As a cluster of three said them while one of its nodes was away: shards of that node, and no leader yet.
SHARDS = (
    "Service internal error: 2 out of 3 shards failed to apply operation. First error captured: Service internal"
    ' error: Tonic status error: status: Unavailable, message: "tcp connect error", details: [], metadata: {}'
)
LEADER = "Service internal error: Failed to propose operation: leader is not established within 10s"
CLUSTER = [(grpc.StatusCode.INTERNAL, SHARDS), (grpc.StatusCode.INTERNAL, LEADER)]


def test_a_cluster_without_a_node_or_leader_is_waited_for_in_writes_reads_and_collection_calls(serve):
    server, said = serve(), []
    with connect(server, notice=said.append) as store:
        server.refuse += CLUSTER
        gallery = store.open("a", model=MODEL, create=True, mode="w")  # a collection call
        server.refuse += CLUSTER
        contract.fill(gallery, 3)
        server.refuse += CLUSTER
        assert gallery.count() == 3
        server.refuse += CLUSTER
        assert len(list(gallery.scroll())) == 3
        server.refuse += CLUSTER
        store.drop("a")
        assert store.names() == []
        assert not server.refuse
    assert said == []  # shorter than is worth telling


def test_the_same_over_rest():
    def answer(text):
        return fault_of(UnexpectedResponse(500, "", json.dumps({"status": {"error": text}}).encode(), None))

    assert [answer(text).kind for text in (SHARDS, LEADER, "Service internal error: odd")] == [
        "node",
        "node",
        "refused",
    ]
    assert answer(SHARDS).transient


def test_a_node_that_stays_away_is_told_with_the_shards_that_are_missing(serve):
    server, said = serve(), []
    peers = {str(n): {"uri": f"http://node{n}:6335/"} for n in (1, 2, 3)}
    raft = {"term": 3, "commit": 9, "pending_operations": 0, "leader": 1, "role": "Leader", "is_voter": True}
    with connect(server, notice=said.append) as store:
        gallery = store.open("a", model=MODEL, create=True, mode="w")
        server.pages = {
            "/cluster": {
                "result": {
                    "status": "enabled",
                    "peer_id": 1,
                    "peers": peers,
                    "raft_info": raft,
                    "consensus_thread_status": {"consensus_thread_status": "stopped"},
                    "message_send_failures": {"http://node3:6335/": {"count": 4, "latest_error": "refused"}},
                }
            },
            f"/collections/{gallery.collection}/cluster": {
                "result": {
                    "peer_id": 1,
                    "shard_count": 3,
                    "local_shards": [{"shard_id": 0, "points_count": 5, "state": "Active"}],
                    "remote_shards": [
                        {"shard_id": 0, "peer_id": 3, "state": "Dead"},  # a replica of what is here
                        {"shard_id": 1, "peer_id": 2, "state": "Active"},
                        {"shard_id": 2, "peer_id": 3, "state": "Active"},  # its last one, so never marked
                    ],
                    "shard_transfers": [],
                }
            },
        }
        gallery._wait = 3.0
        server.refuse += CLUSTER[:1] * 50
        with pytest.raises(
            StoreError, match=r"without shard 2 \(on http://node3:6335\) of its cluster for \d s \(.*"
        ) as caught:
            contract.fill(gallery, 3)
        assert "bring the node back" in str(caught.value)
        assert [text.split(" (")[0].partition(" ")[2] for text in said] == ["misses a node or a leader"]
        server.refuse.clear()

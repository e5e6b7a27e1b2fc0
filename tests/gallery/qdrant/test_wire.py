"""The server engine over real sockets: gRPC as it travels, and REST where its port does not answer."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import warnings

import grpc
import pytest
from qdrant_client.http.exceptions import UnexpectedResponse

from siamese_search.errors import SettingsError, StoreError
from siamese_search.gallery.qdrant import address
from siamese_search.gallery.qdrant import store as server_store
from siamese_search.gallery.qdrant.connection import Connection
from siamese_search.gallery.qdrant.faults import fault_of
from siamese_search.gallery.qdrant.store import ServerStore
from siamese_search.settings import ServerSettings, Settings

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
        place, key=None if key is None else address.ApiKey(key), grpc_port=grpc_port or server.grpc_port, notice=notice
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


def make_gallery(server, **options):
    with connect(server, **options) as store, store.open("a", model=MODEL, create=True, mode="w") as gallery:
        contract.fill(gallery, 3)
        return store._connection.grpc


def test_grpc_is_spoken_where_its_port_is_set_and_is_the_same_server(serve):
    server, said = serve(), []
    assert make_gallery(server)
    assert server.calls["Upsert"] == 1
    place = address.Address("http", "127.0.0.1", server.rest_port)
    with ServerStore(Connection(place, notice=said.append)) as store, store.open("a"):
        assert not store._connection.grpc
    assert said == []
    with connect(server, grpc_port=free_port(), notice=said.append) as store, store.open("a"):
        assert not store._connection.grpc
    assert len(said) == 1
    assert "does not answer" in said[0]


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("theirs", [{}, {"version": "1.17.0"}, {"key": "another"}, {"key": KEY}])
def test_another_server_behind_the_grpc_port_is_told_apart_and_left_alone(serve, key, theirs):
    """Also where it has a gallery of the same name; a key goes there only if it wants one as ours does."""
    ours, other, said = serve(key=key or ""), serve(**theirs), []
    make_gallery(other, key=theirs.get("key"))
    make_gallery(ours, key=key)
    before, other.keys = other.client.count("a").count, []
    with connect(ours, key=key, grpc_port=other.grpc_port, notice=said.append) as store:
        with store.open("a", mode="w") as gallery:
            assert not store._connection.grpc
            assert gallery.model == MODEL
        store.drop("a")
        assert store.names() == []
    assert len(said) == 1
    assert f"gRPC port {other.grpc_port} belongs to another server" in said[0]
    assert other.client.count("a").count == before
    if not theirs.get("key") or not key:
        assert set(other.keys) <= {None}


@pytest.fixture
def authority(tmp_path):
    """A CA of our own, and a certificate of it for 127.0.0.1: (CA, (certificate, key))."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=tmp_path)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=own", "-days", "2")
    openssl("req", *new, "-keyout", "own.key", "-out", "own.csr", "-subj", "/CN=127.0.0.1")
    (tmp_path / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        *("x509", "-req", "-in", "own.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-out", "own.pem", "-days", "2", "-extfile", "ext"),
    )
    return tmp_path / "ca.pem", (tmp_path / "own.pem", tmp_path / "own.key")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_private_authority_is_trusted_by_rest_and_grpc_where_ca_file_names_it(serve, authority, capfd):
    ca, certificate = authority
    server = serve(certificate=certificate)
    url = f"https://127.0.0.1:{server.rest_port}"

    def open_with(ca_file):
        settings = ServerSettings(grpc_port=server.grpc_port, ca_file=ca_file, wait=1)
        return server_store.connect(url, settings=Settings(server=settings))

    with open_with("") as store, pytest.raises(StoreError, match="ca-file") as caught:
        store.names()
    assert "\n" not in str(caught.value)
    with open_with(str(ca)) as store, store.open("a", model=MODEL, create=True, mode="w"):
        assert store._connection.grpc
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", [None, "", "no certificate", "é", "-----BEGIN CERTIFICATE-----\nAA==\n"])
def test_a_ca_file_that_is_none_is_one_line(tmp_path, content):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    settings = Settings(server=ServerSettings(ca_file=str(file)))
    with pytest.raises(SettingsError, match=r"ca\.pem \(ca-file\): (cannot be read|holds no)") as caught:
        server_store.connect("https://127.0.0.1:1", settings=settings)
    assert "\n" not in str(caught.value)


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
        gallery = store.open("a", model=MODEL, create=True, mode="w")
        server.refuse += CLUSTER
        contract.fill(gallery, 3)
        server.refuse += CLUSTER
        assert gallery.count() == 3
        server.refuse += CLUSTER
        assert len(list(gallery.scroll())) == 3
        server.refuse += CLUSTER
        store.drop("a")  # collection calls
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

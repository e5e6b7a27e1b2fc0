"""What stands at a store's URL may be anything: each answer of it is taken, or ends in one line, within bounds."""

from __future__ import annotations

import gzip
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from siamese_search.errors import StoreError
from siamese_search.gallery.qdrant import connection
from siamese_search.gallery.qdrant.address import Address
from siamese_search.gallery.qdrant.connection import Connection
from siamese_search.gallery.qdrant.generation import holder
from siamese_search.gallery.qdrant.store import ServerStore

from .. import contract, memory

MODEL = contract.MODEL


@contextmanager
def answering(answer):
    """A store whose server gives this to whatever is asked. answer: called with the handler."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        with ServerStore(Connection(Address("http", "127.0.0.1", server.server_port))) as store:
            yield store
    finally:
        server.shutdown()
        server.server_close()


def said(body=b"", status=200, **headers):
    def answer(handler):
        handler.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def hello(version):
    return json.dumps({"title": "qdrant", "version": version}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"[" * 100_000, b"\xff\xfe", b'{"title": {}}', b"<html>", b"NaN",
        *map(hello, ["1", "", "x.y", "\u00b2.\u00b2", "9" * 5000 + ".1", "-1.-1"]),
    ],
)  # fmt: skip
def test_what_is_no_hello_of_qdrant_is_one_line(body):
    with answering(said(body)) as store, pytest.raises(StoreError, match="is not a Qdrant server"):
        store.names()


@pytest.mark.parametrize("pause", ["Wed, 21 Oct 2035 07:28:00 GMT", "1e999", "-5", "9" * 5000])
def test_a_pause_may_be_asked_for_in_any_words(pause):
    with answering(said(b"{}", 429, Retry_After=pause)) as store, pytest.raises(StoreError, match="does not answer"):
        store._connection.call(lambda client: client.get_aliases(), wait=0.3)


def pour(handler, piece, pause=0.0):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    waiting = threading.Event()
    try:
        while not waiting.wait(pause):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    except OSError:
        handler.close_connection = True


def test_an_answer_without_end_ends(monkeypatch):
    monkeypatch.setattr(connection, "MAX_BYTES", 1 << 20)
    with (
        answering(lambda one: pour(one, b" " * 65536)) as store,
        pytest.raises(StoreError, match="more than 1,048,576"),
    ):
        store.names()


def test_an_answer_that_unpacks_to_more_than_there_is_room_for_ends(monkeypatch):
    monkeypatch.setattr(connection, "MAX_BYTES", 1 << 20)
    bomb = gzip.compress(b" " * (1 << 26))
    with (
        answering(said(bomb, Content_Encoding="gzip")) as store,
        pytest.raises(StoreError, match="more than 1,048,576"),
    ):
        store.names()


def test_an_answer_that_trickles_is_given_up(monkeypatch):
    monkeypatch.setattr(connection, "_HELLO_TIMEOUT", 1)
    with (
        answering(lambda one: pour(one, b" ", 0.05)) as store,
        pytest.raises(StoreError, match="did not answer in time"),
    ):
        store._connection.call(lambda client: client.get_aliases(), wait=0.3)


@pytest.fixture
def filled():
    """A store in memory with three points, and the client that stands for its server."""
    client = memory.memory_client()
    with memory.memory_store(client) as store, store.open("a", model=MODEL, create=True, mode="w") as gallery:
        contract.fill(gallery, 3)
        yield gallery, client._client


@pytest.mark.parametrize("shown", [0, 2])
def test_pages_that_come_again_and_again_end(filled, monkeypatch, shown):
    gallery, client = filled
    real = client.scroll
    first = next(iter(gallery.scroll())).id
    monkeypatch.setattr(client, "scroll", lambda *args, **kwargs: (real(*args, **kwargs)[0][:shown], first))
    with pytest.raises(StoreError, match="again and again"):
        list(gallery.scroll())


def test_ties_that_never_end_end(filled, monkeypatch):
    gallery, client = filled

    def ask(requests, **_):
        assert requests[0].limit < 1000
        point = SimpleNamespace(id=contract.make_ids(1)[0], score=0.5, payload={}, vector=None)
        return [SimpleNamespace(points=[point] * one.limit) for one in requests]

    monkeypatch.setattr(client, "query_batch_points", ask)
    assert gallery.query_ids(np.eye(1, MODEL.dim, dtype=np.float32), 1)


def test_fewer_answers_than_questions_are_one_line(filled, monkeypatch):
    gallery, client = filled
    monkeypatch.setattr(client, "query_batch_points", lambda *_, **__: [])
    with pytest.raises(StoreError, match="0 answers"):
        gallery.query(np.eye(1, MODEL.dim, dtype=np.float32)[0], 1)


@pytest.mark.parametrize(
    "vector", [[1.0], {}, {"a": [1.0] * MODEL.dim}, [[1.0] * MODEL.dim] * 2, [[1.0], [1.0, 2.0]], []]
)
def test_a_vector_of_another_form_is_a_lost_one(filled, monkeypatch, vector):
    gallery, client = filled
    point = SimpleNamespace(id=contract.make_ids(1)[0], payload={}, vector=vector)
    monkeypatch.setattr(client, "scroll", lambda *_, **__: ([point], None))
    assert [one.vector for one in gallery.scroll(with_vectors=True)] == [None]


@pytest.mark.parametrize("seen", [10**400, -(10**400), float("inf"), float("nan"), 1e300, None, "x", [], {}])
def test_a_lease_may_have_been_seen_at_any_time(seen):
    holder({"host": "h", "pid": 1, "process": "p", "seen": seen})

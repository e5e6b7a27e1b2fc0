"""Dropped, delayed and cut connections between the client and a stub: nothing lost, nothing doubled, bounded waits."""

from __future__ import annotations

import socket
import threading
import time
import warnings
from contextlib import suppress

import numpy as np
import pytest

from siamese_search.errors import StoreError
from siamese_search.gallery.qdrant import address, connection
from siamese_search.gallery.qdrant.connection import Connection
from siamese_search.gallery.qdrant.store import ServerStore
from siamese_search.settings import ServerSettings

from .. import contract, memory, proxy, wire

MODEL = contract.MODEL


@pytest.fixture
def line():
    """A stub server and proxies before both of its ports."""
    warnings.simplefilter("ignore")
    server = wire.Server(memory.memory_client())
    rest, grpc = proxy.Proxy(server.rest_port), proxy.Proxy(server.grpc_port)
    yield server, rest, grpc
    for one in (rest, grpc, server):
        one.stop()


@pytest.fixture
def said():
    return []


@pytest.fixture
def store(line, said):
    _, rest, grpc = line
    place = address.Address("http", "127.0.0.1", rest.port)
    opened = ServerStore(Connection(place, grpc_port=grpc.port, notice=said.append), ServerSettings(wait=20))
    yield opened
    opened.close()


def write(gallery, batches=12, n=25):
    """Upsert batch after batch; the ids and rows that must be there afterwards."""
    rng = np.random.default_rng(0)
    ids, rows = contract.make_ids(batches * n), contract.unit(rng, batches * n)
    for start in range(0, len(ids), n):
        part = slice(start, start + n)
        gallery.upsert(ids[part], rows[part], [{"size": start}] * n)
    return ids, rows


def is_whole(gallery, ids, rows):
    points = gallery.retrieve(ids, with_vectors=True)
    assert gallery.count() == len(ids)
    assert all(np.array_equal(point.vector, row) for point, row in zip(points, rows, strict=True))


def test_connections_that_are_cut_in_the_middle_of_a_batch_lose_and_double_nothing(line, store):
    _, _, grpc = line
    grpc.cut_after = [10**9, 6_000, 9_000, 5_000]  # the first is the probe of the port
    with store.open("a", model=MODEL, create=True, mode="w") as gallery:
        ids, rows = write(gallery)
        is_whole(gallery, ids, rows)
    assert grpc.cuts >= 1


def test_a_slow_line_is_no_outage(line, store, said):
    _, _, grpc = line
    grpc.delay = 0.02
    with store.open("a", model=MODEL, create=True, mode="w") as gallery:
        is_whole(gallery, *write(gallery, 3))
    assert said == []


def test_a_writer_waits_for_a_server_that_went_says_so_once_and_goes_on(line, store, said):
    _, rest, grpc = line
    with store.open("a", model=MODEL, create=True, mode="w") as gallery:
        write(gallery, 1)
        for one in (rest, grpc):
            one.vanish()
            proxy.later(3.0, one.come_back)
        is_whole(gallery, *write(gallery))
    assert len(said) == 2
    assert "does not answer" in said[0]
    assert "waiting up to" in said[0]
    assert "is back after" in said[1]


def test_a_server_gone_for_good_ends_the_command_and_a_later_one_finishes(line, store):
    _, rest, grpc = line
    with store.open("a", model=MODEL, create=True, mode="w") as gallery:
        write(gallery, 4)
        gallery._wait = 1.5
        grpc.vanish()
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"what was committed is kept: run the command again"):
            write(gallery)
        assert time.monotonic() - began < 60  # a bound, not a measurement
    grpc.come_back()
    with store.open("a", model=MODEL, create=True, mode="w") as gallery:
        assert gallery.count() == 4 * 25
        is_whole(gallery, *write(gallery))
    assert rest.connections >= 1


def test_a_reader_waits_a_little_only(line, store):
    _, rest, grpc = line
    for one in (rest, grpc):
        one.vanish()
    with pytest.raises(StoreError, match="does not answer"):
        store.open("a", wait=0.5)


def test_a_server_that_takes_everything_and_says_nothing_is_given_up(line, store, monkeypatch):
    monkeypatch.setattr(connection, "_HELLO_TIMEOUT", 1)
    _, rest, grpc = line
    rest.swallow()
    grpc.swallow()
    with pytest.raises(StoreError, match="did not answer in time"):
        store.open("a", wait=0.5)


def test_a_lost_answer_is_asked_for_again(line, store):
    """The request arrived and was carried out; what got lost is the word that it was."""
    server, _, grpc = line
    with store.open("a", model=MODEL, create=True, mode="w") as gallery:
        write(gallery, 1)
        real, done = server.client.upsert, []

        def carried_out_and_cut(*args, **kwargs):
            result = real(*args, **kwargs)
            if not done:
                done.append(True)
                grpc.cut()
                time.sleep(0.2)
            return result

        server.client.upsert = carried_out_and_cut
        is_whole(gallery, *write(gallery, 2))
        assert done


@pytest.mark.parametrize(
    ("code", "words"),
    [(socket.EAI_NONAME, "Name or service not known"), (socket.EAI_AGAIN, "Temporary failure in name resolution")],
)
def test_a_name_that_does_not_exist_is_a_mistake_at_once(monkeypatch, code, words):
    """Whatever the resolver says: one that cannot be reached says that it failed for now."""
    asked, real = [], socket.getaddrinfo

    def resolve(host, *args, **kwargs):
        if host != b"no-such-host.invalid" and host != "no-such-host.invalid":
            return real(host, *args, **kwargs)
        asked.append(host)
        raise socket.gaierror(code, words)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    place = address.Address("http", "no-such-host.invalid", 6333)
    with pytest.raises(StoreError, match=r"no-such-host\.invalid:6333: this host's name leads nowhere.*check"):
        ServerStore(Connection(place), ServerSettings()).open("a", wait=60)
    assert len(asked) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("hears", [0, 64])
def test_a_connection_that_is_cut_before_an_answer_is_waited_for_over_tls_too(scheme, hears, said):
    """As a balancer does whose server is away: it takes the connection, perhaps the first bytes, and shuts it."""
    met = []

    def cut(listener):
        with suppress(OSError):
            while True:
                with listener.accept()[0] as taken:
                    met.append(taken.recv(hears) if hears else b"")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=cut, args=(listener,), daemon=True).start()
        place = address.Address(scheme, "127.0.0.1", listener.getsockname()[1])
        with pytest.raises(StoreError, match="does not answer"):
            ServerStore(Connection(place, notice=said.append), ServerSettings()).open("a", wait=1)
        assert len(met) > 1
        listener.shutdown(socket.SHUT_RDWR)

"""The metrics port against those who open connections and say nothing."""

import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge
from watching import wait_until

from ingest import metrics


@pytest.fixture
def port():
    registry = CollectorRegistry()
    Gauge("answered", "It.", registry=registry).set(1)
    server = metrics.Endpoint("127.0.0.1", 0, registry)
    yield server.server_port
    server.shutdown()
    server.server_close()


def scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return "answered 1.0" in answer.read().decode()


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_half_requests_take_few_threads_and_descriptors_and_keep_nobody_out(port):
    before, threads = descriptors(), threading.active_count()
    clients = []
    for _ in range(200):
        clients.append(socket.create_connection(("127.0.0.1", port), timeout=10))
        clients[-1].sendall(b"GET /metrics HTTP/1.1\r\nX")
    wait_until(lambda: descriptors() - before - 200 <= metrics.MOST, "the oldest connections are closed")
    assert threading.active_count() - threads <= metrics.MOST
    assert all(scrape(port) for _ in range(3))
    for client in clients:
        client.close()
    wait_until(lambda: descriptors() <= before, "all connections are closed")


def test_a_connection_ends_also_where_it_sends_a_byte_now_and_then(port, monkeypatch):
    monkeypatch.setattr(metrics, "LIFETIME", 0.5)
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.settimeout(0.1)
    began = time.monotonic()
    while time.monotonic() - began < 20:
        try:
            client.sendall(b"G")
            if client.recv(1000) == b"":
                return
        except TimeoutError:
            continue
        except OSError:
            return
    pytest.fail("it was held for 20 s")

"""The port for Prometheus: a few connections at a time, each for a few seconds.

Whoever reaches it may open connections and say nothing. They are not to take the threads and descriptors of the ingest.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

#: Connections at a time; of more, the oldest is closed: one that asks at once has its answer within milliseconds.
MOST = 16
#: Seconds for one connection, request and answer together.
LIFETIME = 10.0


class _Handler(WSGIRequestHandler):
    timeout = LIFETIME

    def log_message(self, *_: Any) -> None:
        """A scrape is no event."""


class Endpoint(ThreadingMixIn, WSGIServer):
    """A server of one registry's metrics in a thread of its own. Raises OSError, OverflowError for the port."""

    daemon_threads = True

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        self._began: dict[Any, float] = {}
        self._lock = threading.Lock()
        super().__init__((host, port), _Handler)
        self.set_app(make_wsgi_app(registry))
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            for oldest in list(self._began)[: max(0, len(self._began) - MOST + 1)]:
                self._cut(oldest)
            self._began[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Called twice a second: end what takes too long, also where it sends a byte now and then."""
        with self._lock:
            for request, began in list(self._began.items()):
                if time.monotonic() - began > LIFETIME:
                    self._cut(request)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._began.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that are cut are no news; the log is for what concerns the ingest."""

    def _cut(self, request: Any) -> None:
        """End a connection; its thread then closes it."""
        del self._began[request]
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

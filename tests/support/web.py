"""A web server on this machine that serves a dict, and misbehaves where it is told to."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """files: path (with a slash) to bytes. faults: path to a kind of misbehaviour. asked: (method, path) so far."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, object] = {}
        self.asked: list[tuple[str, str]] = []
        self.url = ""

    def count(self, method):
        return sum(one == method for one, _ in self.asked)


@contextmanager
def serve():
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            path, _, _ = self.path.partition("?")
            site.asked.append((self.command, self.path))
            fault = site.faults.get(path)
            if isinstance(fault, list):  # that many times, then well
                fault = fault.pop() if fault else None
            data = site.files.get(path)
            if isinstance(fault, str) and fault.startswith("->"):
                self.send_response(302)
                self.send_header("Location", fault[2:])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if isinstance(fault, int) or data is None:
                self.send_response(fault or 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault == "slow":
                time.sleep(1.5)
            self.send_response(200)
            if fault == "endless" and body:
                self.send_header("Connection", "close")
                self.end_headers()
                try:
                    while True:
                        self.wfile.write(b"x" * 65536)
                except OSError:
                    self.close_connection = True
                return
            self.send_header("Content-Length", str(len(data) + (100 if fault == "truncated" else 0)))
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("ETag", f'"{hash(data)}"')
            self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
            self.end_headers()
            if body:
                self.wfile.write(data)
            if fault == "truncated":
                self.close_connection = True

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()

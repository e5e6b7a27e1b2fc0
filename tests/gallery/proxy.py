"""A TCP proxy that fails on purpose: between the client and whatever endpoint a test has."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable


class Proxy:
    """Forwards a free port of this machine to another one.

    cut_after: bytes from the client after which a connection is cut, once, per item of the list.
    delay: seconds before each block from the client goes on. :meth:`vanish` drops everything and refuses new
    connections until :meth:`come_back`; :meth:`swallow` takes everything and answers nothing.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.cut_after: list[int] = []
        self.delay = 0.0
        self.swallowing = False
        self.cuts = self.connections = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self.port = 0
        self.come_back()

    def come_back(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def vanish(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            # accept() in the other thread would keep the port open.
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut()

    def swallow(self) -> None:
        self.swallowing = True

    def cut(self) -> None:
        """Cut every connection there is."""
        with self._lock:
            sockets, self._open = self._open, set()
        for one in sockets:
            _close(one)

    stop = vanish

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                return
            server.settimeout(None)
            self.connections += 1
            limit = self.cut_after.pop(0) if self.cut_after else None
            with self._lock:
                self._open |= {client, server}
            for source, sink, left in ((client, server, limit), (server, client, None)):
                threading.Thread(target=self._pump, args=(source, sink, left), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, left: int | None) -> None:
        try:
            while data := source.recv(65536):
                if self.delay:
                    time.sleep(self.delay)
                if left is not None:
                    left -= len(data)
                    if left < 0:
                        self.cuts += 1
                        break
                if not self.swallowing:
                    sink.sendall(data)
        except OSError:
            pass
        finally:
            _close(source)
            _close(sink)


def _close(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    finally:
        one.close()


def later(seconds: float, action: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer

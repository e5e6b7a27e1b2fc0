"""serve(): one process that keeps a gallery and its model at hand, and answers until it is told to end."""

from __future__ import annotations

import gc
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from siamese_search.errors import MissingExtraError, SiameseSearchError, UsageError, printable
from siamese_search.io.resources import own_signals
from siamese_search.web.options import ServeOptions
from siamese_search.web.security import METRICS_VARIABLE, VARIABLE, Security, is_loopback, read_key

if TYPE_CHECKING:
    import uvicorn

    from siamese_search.web.service import GalleryService

#: Connections at a time; who comes later is told that the server is busy.
_MOST_CONNECTIONS = 256
#: Seconds that answers have after SIGTERM.
_GRACE = 5


def serve(options: ServeOptions, *, started: Callable[[str], None] = lambda _url: None) -> None:
    """Serve until SIGINT or SIGTERM; ``started`` is told the URL. Raises UsageError (port, key), MissingExtraError."""
    if not all(map(find_spec, ("fastapi", "multipart", "prometheus_client", "uvicorn"))):
        raise MissingExtraError("sss serve", "web")

    key = read_key(options.key_file)
    security = Security(key, metrics_key=read_key(None, variable=METRICS_VARIABLE))
    if key is None and not is_loopback(options.host):
        raise UsageError(
            f"--host {printable(options.host)} is reached from other machines: set {VARIABLE}, or name a file of"
            " your own with --key-file"
        )
    with _listen(options.host, options.port) as listening:
        with _uncollected():
            from siamese_search.web.service import GalleryService

            service = GalleryService(options)
            # The gallery is opened and the network loaded while what speaks HTTP is imported.
            threading.Thread(target=_warm, args=(service,), name="warm", daemon=True).start()
            server = _server(service, security)
        url = _url(options.host, listening.getsockname()[1])
        started(url)
        if options.open:
            import webbrowser

            threading.Timer(0.5, webbrowser.open, (url,)).start()
        try:
            server.run(sockets=[listening])
        finally:
            service.close()


@contextmanager
def _uncollected() -> Iterator[None]:
    """What is made meanwhile stays as long as the process: no collection looks for garbage in it, now or later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _server(service: GalleryService, security: Security) -> uvicorn.Server:
    import uvicorn

    from siamese_search.web.app import create_app

    class Server(uvicorn.Server):
        _silent: Set[tuple[Any, Any]] = frozenset()

        async def on_tick(self, counter: int) -> bool:
            """Ten times a second. Who sends no whole head of a request is let go: uvicorn would wait for ever."""
            if counter % round(10 * service.limits.arrival) == 0:
                held = ((one, vars(one).get("cycle", False)) for one in self.server_state.connections)
                silent = {(one, last) for one, last in held if last is None or (last and last.response_complete)}
                for one, _ in silent & self._silent:
                    one.transport.close()
                self._silent = silent
            return await super().on_tick(counter)

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """As uvicorn's own, but the end is a clean one: the signal is not raised again."""
            with own_signals(self.handle_exit):
                yield

    config = uvicorn.Config(
        create_app(service, security),
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE,
    )
    return Server(config)


def _warm(service: GalleryService) -> None:
    """Load while the first visitor is still on the way; what fails is said, and tried again by who asks."""
    try:
        service.warm()
    except Exception:
        logging.getLogger(__name__).exception("the gallery cannot be opened")
    if service.trouble is not None:
        sys.stderr.write(f"sss: {service.trouble}\n")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with ExitStack() as undo:
            made = undo.enter_context(socket.socket(family, kind, number))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.listen(128)
            undo.pop_all()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        hint = "; name another with --port, or 0 for any that is free" if port else ""
        raise SiameseSearchError(f"cannot listen at {printable(host)} port {port}: {why.lower()}{hint}") from None
    return made


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}/"

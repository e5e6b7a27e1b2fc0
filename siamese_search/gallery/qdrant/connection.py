"""A connection to a Qdrant server: made once, watched over, and patient.

REST is spoken, and gRPC (which moves vectors several times as fast) where the settings name its port and a collection
proves that the same server is behind both. Every operation that goes through :meth:`Connection.call` may be repeated
without harm: points are replaced by id, the rest states what shall be, not what shall change.
"""

from __future__ import annotations

import logging
import random
import re
import socket
import ssl
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import httpx
from qdrant_client import QdrantClient

from siamese_search.errors import StoreError, printable
from siamese_search.gallery.qdrant.address import Address, ApiKey
from siamese_search.gallery.qdrant.faults import Fault, fault_of, missing_shards
from siamese_search.io.location import MAX_BYTES

T = TypeVar("T")

#: Of the first server that keeps metadata with a collection.
OLDEST_VERSION = (1, 16)
#: Seconds for one request. The client's own 5 is too short for a batch into a busy cluster.
TIMEOUT = 60
#: Seconds for the first word, which costs a server nothing.
_HELLO_TIMEOUT = 5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
#: A hiccup shorter than this is not worth telling.
_WORTH_TELLING = 1.0

#: Bytes per second below which an answer that goes on and on is none.
_SLOWEST = 10_000

_log = logging.getLogger(__name__)


class MissingCollectionError(StoreError):
    """The server has no such collection."""


class CollectionExistsError(StoreError):
    """The server has a collection or alias of that name already."""


class Connection:
    """One server. Nothing is sent before the first :meth:`call`. Thread-safe, as the client is.

    location: the server, safe to print. notice: told once when the server has gone and once when it is back.
    """

    def __init__(
        self,
        address: Address,
        *,
        key: ApiKey | None = None,
        grpc_port: int = 0,
        authorities: str = "",
        withheld: str = "",
        notice: Callable[[str], None] = _log.warning,
    ) -> None:
        """grpc_port: 0 speaks REST alone. authorities: certificates (PEM) to trust in place of the system's.

        withheld: why there is a key that was not sent; part of the message when the server wants one.
        """
        self.location = address.url
        self._address, self._key, self._grpc_port = address, key, grpc_port
        self._authorities, self._withheld, self._notice = authorities, withheld, notice
        self._lock, self._contacting = threading.Lock(), threading.Lock()
        self._client: QdrantClient | None = None
        self._closed = False
        self._told = False
        self.version: tuple[int, int] = (0, 0)
        self.grpc = False

    def call(self, operation: Callable[[QdrantClient], T], *, wait: float, collection: str = "") -> T:
        """``operation(client)``, repeated with growing pauses for ``wait`` seconds after its first failure.

        Only what may be repeated without harm: a request whose answer was lost may have been carried out.
        collection: the one that it is about; the error then names the shards of it that a cluster misses.
        Raises MissingCollectionError, CollectionExistsError and otherwise StoreError, each one line.
        """
        self._contact(wait)
        client = self._client
        if client is None or self._closed:
            raise StoreError(f"{self.location} is closed")
        return self._patiently(lambda: operation(client), wait, collection)

    def try_grpc(self, collection: str, *, wait: float) -> None:
        """From now on speak gRPC, if its port is set and the server there holds this very collection.

        Asked once; where it is not so, the notice says why and REST goes on.
        """
        with self._contacting:
            port, self._grpc_port = self._grpc_port, 0
        if not port:
            return
        client = self._make(grpc_port=port, timeout=_HELLO_TIMEOUT, key=False)
        keyed = self._make(grpc_port=port, timeout=_HELLO_TIMEOUT)
        try:
            problem = self._not_ours(collection, port, client, keyed, wait)
        finally:
            for one in (client, keyed):
                _quietly(one.close)
        if problem:
            self._notice(f"{self.location}: speaking REST, because gRPC port {port} {problem}")
            return
        with self._lock:
            if not self._closed:
                former, self._client = self._client, self._make(grpc_port=port, timeout=TIMEOUT)
                self.grpc = True
                if former is not None:
                    _quietly(former.close)

    def _not_ours(self, collection: str, port: int, client: QdrantClient, keyed: QdrantClient, wait: float) -> str:
        """Why what listens at the gRPC port is not this server; "" when it is.

        The proof is a number that each node of Qdrant draws for itself. No key is sent before what answers has this
        server's version and build and wants a key as this server does.
        """
        another = "belongs to another server: correct [server] grpc-port"
        try:
            # Asked first: gRPC itself would go on trying to connect.
            socket.create_connection((self._address.host, port), timeout=3).close()
            info = self.call(lambda one: one.info(), wait=wait)
            hello = client.info()
            if (hello.version, hello.commit or info.commit) != (info.version, info.commit or hello.commit):
                return another
            here = self.call(lambda one: _nodes(one, collection), wait=wait)
            try:
                there = _nodes(client, collection)
            except Exception as error:
                fault = fault_of(error)
                if fault is None or fault.kind != "key" or not self._wants_key():
                    raise
                there = _nodes(keyed, collection)
        except OSError:
            return "does not answer"
        except Exception as error:
            fault = fault_of(error)
            if fault is None:
                raise
            return "does not answer" if fault.transient else another
        return "" if here & there else another

    def _wants_key(self) -> bool:
        """Whether this server, asked by REST, refuses who has no key."""
        client = self._make(timeout=_HELLO_TIMEOUT, key=False)
        try:
            client.get_collections()
        except Exception as error:
            fault = fault_of(error)
            return fault is not None and fault.kind == "key"
        finally:
            _quietly(client.close)
        return False

    def close(self) -> None:
        """Close the client. Safe to call twice."""
        with self._lock:
            client, self._client, self._closed = self._client, None, True
        if client is not None:
            _quietly(client.close)

    def _patiently(self, operation: Callable[[], T], wait: float, collection: str = "", *, first: bool = False) -> T:
        """See :meth:`call`. first: nobody has answered there yet, so a name that does not exist is a mistake."""
        began: float | None = None
        pause = _FIRST_PAUSE
        while True:
            try:
                result = operation()
            except Exception as error:
                fault = fault_of(error)
                if fault is None:
                    raise
                now = time.monotonic()
                began = now if began is None else began
                left = began + wait - now
                if not fault.transient or left <= 0 or (first and fault.kind == "nameless"):
                    missing = self._missing(collection) if fault.kind == "node" else ""
                    raise self._error(fault, now - began, missing) from self._cause(error)
                # Jitter: workers that lost the server together must not come back together.
                wish = max(pause * random.uniform(0.5, 1.0), fault.retry_after)
                if now - began >= _WORTH_TELLING or wish >= _WORTH_TELLING:
                    what = "misses a node or a leader" if fault.kind == "node" else "does not answer"
                    self._tell(True, f"{what} ({fault.reason}); waiting up to {left:.0f} s for it")
                time.sleep(min(wish, left))
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                if began is not None:
                    self._tell(False, f"is back after {time.monotonic() - began:.0f} s; going on")
                return result

    def _tell(self, gone: bool, words: str) -> None:
        """Once when the server has gone, once when it is back."""
        with self._lock:
            told, self._told = self._told, gone
        if told != gone:
            self._notice(self._redact(f"{self.location} {words}"))

    def _missing(self, collection: str) -> str:
        client = self._client
        if client is None or not collection:
            return ""
        # Only said in addition: a cluster that has lost a node may not be able to tell.
        with suppress(Exception):
            return printable(missing_shards(client, collection)[:300])
        return ""

    def _contact(self, wait: float) -> None:
        """Find out, once, who answers there and of which version."""
        with self._contacting:
            if self._client is not None or self._closed:
                return
            client = self._make(timeout=_HELLO_TIMEOUT)
            try:
                info = self._patiently(client.info, wait, first=True)
                _quietly(client.close)
                client = self._make(timeout=TIMEOUT)
                self._adopt(client, info)
            except BaseException:
                _quietly(client.close)
                raise

    def _adopt(self, client: QdrantClient, info: Any) -> None:
        found = re.match(r"([0-9]{1,9})\.([0-9]{1,9})", str(info.version))
        if "qdrant" not in str(info.title).lower() or found is None:
            title = printable(str(info.title)[:80])
            raise StoreError(f"{self.location} is not a Qdrant server: it calls itself {title!r}")
        self.version = (int(found[1]), int(found[2]))
        if self.version < OLDEST_VERSION:
            raise StoreError(
                f"{self.location} runs Qdrant {printable(str(info.version)[:40])}, which is too old: upgrade it to"
                f" {OLDEST_VERSION[0]}.{OLDEST_VERSION[1]} or later"
            )
        self._client = client

    def _make(self, *, timeout: int, grpc_port: int = 0, key: bool = True) -> QdrantClient:
        """A client of its own, which has asked nothing yet. grpc_port: 0 for REST."""
        options: dict[str, Any] = {
            # gRPC's own pauses between attempts to connect grow to two minutes: ours decide.
            "grpc.initial_reconnect_backoff_ms": 200,
            "grpc.min_reconnect_backoff_ms": 5000,
            "grpc.max_reconnect_backoff_ms": 2000,
            "grpc.enable_http_proxy": int(not self._address.loopback),
        }
        more: dict[str, Any] = {"event_hooks": {"response": [partial(_read_bounded, timeout)]}}
        if self._authorities:
            options["root_certificates"] = self._authorities.encode("ascii")
            more["verify"] = ssl.create_default_context(cadata=self._authorities)
        with warnings.catch_warnings():
            # "Api key is used with an insecure connection": check_encryption has settled that.
            warnings.simplefilter("ignore")
            return QdrantClient(
                url=self._address.url,
                prefer_grpc=grpc_port > 0,
                grpc_port=grpc_port,
                api_key=self._key.reveal() if key and self._key is not None else None,
                timeout=timeout,
                check_compatibility=False,
                grpc_options=options,
                pool_size=1,
                # A proxy for the world outside has no business between us and this machine.
                trust_env=not self._address.loopback,
                **more,
            )

    def _error(self, fault: Fault, waited: float, missing: str = "") -> StoreError:
        reason = printable(fault.reason)
        tried = f" for {waited:.0f} s" if waited >= 1 else ""
        which = f"{missing} of its cluster" if missing else "a node of its cluster or the leader"
        kept = f"{tried} ({reason}); what was committed is kept:"
        advice = self._withheld or (
            "set SSS_API_KEY or SSS_API_KEY_FILE" if self._key is None else "the key is wrong, or may not do this"
        )
        words = {
            "nameless": f": this host's name leads nowhere ({reason}); check the URL",
            "node": f" has been without {which}{kept} bring the node back, then run the command again",
            "gone": f" does not answer{kept} run the command again",
            "busy": f" does not answer{kept} run the command again",
            "key": f" refuses access: {advice}",
            "disk": f": the server's disk is full ({reason}); what was committed is kept: free space there, then run"
            " the command again",
            "tls": f": no safe connection: {reason}; check the certificate (ca-file in [server] names an authority of"
            " your own), or whether the server speaks https at all",
            "foreign": f" is not a Qdrant server: {reason}",
        }
        kind = {"missing": MissingCollectionError, "exists": CollectionExistsError}.get(fault.kind, StoreError)
        return kind(self._redact(self.location + words.get(fault.kind, f": the server refused: {reason}")))

    def _cause(self, error: Exception) -> Exception | None:
        """The cause to show with --debug; None where the key would show in it."""
        if self._key is None:
            return error
        shown = "".join(traceback.format_exception(error)) + repr(getattr(error, "source", ""))
        return error if self._redact(shown) == shown else None

    def _redact(self, text: str) -> str:
        return text if self._key is None else self._key.redact(text)


def _read_bounded(timeout: float, response: httpx.Response) -> None:
    """Read an answer, which the client would do without end: not more than is taken of anybody, nor a mere trickle."""
    parts, size, began = list[bytes](), 0, time.monotonic()
    for part in response.iter_bytes():
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise httpx.RemoteProtocolError(f"illegal answer of more than {MAX_BYTES:,} bytes")
        if time.monotonic() - began > timeout + size / _SLOWEST:
            raise httpx.ReadTimeout("")
    response._content = b"".join(parts)


def _nodes(client: QdrantClient, collection: str) -> set[int]:
    """The numbers of the nodes that hold a collection, and of the one that was asked."""
    info = client.collection_cluster_info(collection)
    return {info.peer_id} | {shard.peer_id for shard in info.remote_shards}


def _quietly(close: Callable[[], None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        close()

"""Who may ask, and who may change: the key, sessions, the tokens of forms, and the names of the server."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from siamese_search.errors import UsageError, printable
from siamese_search.io.files import read_private
from siamese_search.io.location import is_loopback as is_loopback

VARIABLE = "SSS_SERVE_KEY"
METRICS_VARIABLE = "SSS_SERVE_METRICS_KEY"
_SHORTEST_KEY = 16
#: Seconds that a session lasts.
SESSION_SECONDS = 12 * 3600
_MOST_ADDRESSES = 10_000
_LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})


def read_key(
    key_file: str | os.PathLike[str] | None, environment: Mapping[str, str] = os.environ, variable: str = VARIABLE
) -> str | None:
    """The key: of the file, else of the variable; ``None`` for none. Raises UsageError for one that protects nobody."""
    if key_file is None:
        key, origin = environment.get(variable, ""), variable
        if not key:
            return None
    else:
        origin = printable(key_file)
        try:
            key = read_private(Path(key_file), 4096).decode().strip()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"{origin}: the key cannot be read: {why}") from None
    if len(key) < _SHORTEST_KEY or not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(
            f"{origin}: a key has at least {_SHORTEST_KEY} letters and digits; make one with: openssl rand -hex 24"
        )
    return key


@dataclass(slots=True)
class Visit:
    """What a request says of who asks. session: the visitor's own, "" until a page shows its token. fresh: it came with
    none. program: neither cookie nor anything else that a browser sends along. bearer: it came with the key itself."""

    session: str
    fresh: bool
    signed_in: bool
    bearer: bool
    program: bool
    shown: bool = False  # whether the session's token went into a page


class Security:
    """The key of this server, if there is one; signs sessions and tokens. failed: keys that one address may try.

    metrics_key: of who may read the metrics and nothing else. Raises UsageError where it is the key, or there is none.
    """

    def __init__(self, key: str | None, failed: int = 10, metrics_key: str | None = None) -> None:
        if metrics_key is not None and key in (metrics_key, None):
            needed = f"set {VARIABLE}, too, to another one"
            raise UsageError(f"{METRICS_VARIABLE} opens the metrics of a server that asks for a key: {needed}")
        self.key, self._metrics_key = key, metrics_key
        # Of a key, so that a restart signs nobody out.
        made_of = secrets.token_bytes(32) if key is None else key.encode()
        self._secret = hmac.digest(made_of, b"sss serve sessions", "sha256")
        self._most_failed = failed
        self._failed: OrderedDict[str, list[float]] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def knows(self, key: str) -> bool:
        """Whether this is the key, in the same time for every other one."""
        return _same(key, self.key)

    def knows_for_metrics(self, key: str) -> bool:
        """Whether this key opens the metrics."""
        return _same(key, self._metrics_key)

    def blocked(self, address: str) -> bool:
        """Whether this address has tried too many keys in the last minute."""
        return len(self._recent(address)) >= self._most_failed

    def failed(self, address: str) -> None:
        """A wrong key came from there."""
        self._failed[address] = [*self._recent(address), time.monotonic()]
        self._failed.move_to_end(address)
        while len(self._failed) > _MOST_ADDRESSES:
            self._failed.popitem(last=False)

    def _recent(self, address: str) -> list[float]:
        since = time.monotonic() - 60
        return [at for at in self._failed.get(address, ()) if at > since]

    def new_session(self, *, signed_in: bool) -> str:
        text = f"{'in' if signed_in else 'out'}.{int(time.time()) + SESSION_SECONDS}.{secrets.token_urlsafe(18)}"
        return f"{text}.{self._mac('session', text)}"

    def session(self, text: str) -> tuple[str, bool] | None:
        """(session, whether signed in) of a cookie; ``None`` for one that is not ours, has ended or is too old."""
        body, _, mac = text.rpartition(".")
        if not hmac.compare_digest(mac.encode("utf-8", "replace"), self._mac("session", body).encode()):
            return None
        kind, until, _ = body.split(".", 2)
        if int(until) < time.time() or text in self._ended:
            return None
        return text, kind == "in"

    def end(self, session: str) -> None:
        """Sign out."""
        self._ended[session] = None
        while len(self._ended) > _MOST_ADDRESSES:
            self._ended.popitem(last=False)

    def token(self, session: str) -> str:
        return self._mac("form", session)

    def _mac(self, what: str, text: str) -> str:
        return hmac.new(self._secret, f"{what}:{text}".encode("utf-8", "replace"), "sha256").hexdigest()


def _same(given: str, own: str | None) -> bool:
    sums = (hashlib.sha256(key.encode("utf-8", "replace")).digest() for key in (given, own or ""))
    return hmac.compare_digest(*sums) and own is not None


def cookie_name(scope_host: str) -> str:
    """Browsers keep cookies by name and host, not by port: two servers of one machine must not share one."""
    port = scope_host.rpartition(":")[2]
    return f"sss_session_{port}" if port.isdecimal() and len(port) < 6 else "sss_session"


def allowed_hosts(host: str, named: tuple[str, ...]) -> frozenset[str] | None:
    """Against DNS rebinding: a server of this machine answers to its own names only, any other to those that are
    named, and where none is to all, for it has a key.
    """
    return _LOCAL.union(map(str.lower, named)) if named or is_loopback(host) else None

"""Who may ask, and who may change: the key, sessions and the tokens of forms.

A page that changes something is a POST with ``csrf_token`` (a form field, or the header ``X-CSRF-Token``), and its
route has the dependency :func:`checked_write`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import HTTPException, Request

from siamese_search.errors import UsageError, printable
from siamese_search.io.files import read_regular

VARIABLE = "SSS_SERVE_KEY"
_SHORTEST_KEY = 16
#: Seconds that a session lasts.
_LASTS = 12 * 3600
_MOST_ADDRESSES = 10_000


def read_key(
    key_file: str | os.PathLike[str] | None, environment: Mapping[str, str] = os.environ
) -> str | None:
    """The key: of the file, else of the variable; ``None`` for none. Raises UsageError for one that protects nobody."""
    if key_file is None:
        key, origin = environment.get(VARIABLE, ""), VARIABLE
        if not key:
            return None
    else:
        path, origin = Path(key_file), printable(key_file)
        try:
            status = path.stat()
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise UsageError(
                    f"{origin}: others can read this key; take that away with: chmod 600 {origin}"
                )
            key = read_regular(path, 4096).decode().strip()
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
    """What a request says of who asks. session: the visitor's own. fresh: it was made for this request.

    program: neither cookie nor anything else that a browser sends along. bearer: it came with the key itself.
    """

    session: str
    fresh: bool
    signed_in: bool
    bearer: bool
    program: bool
    shown: bool = False  # whether the session's token went into a page


class Security:
    """The key of this server, if there is one; signs sessions and tokens. failed: keys that one address may try."""

    def __init__(self, key: str | None, failed: int = 10) -> None:
        self.key = key
        # Of a key, so that a restart signs nobody out.
        made_of = secrets.token_bytes(32) if key is None else key.encode()
        self._secret = hmac.digest(made_of, b"sss serve sessions", "sha256")
        self._most_failed = failed
        self._failed: OrderedDict[str, list[float]] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def knows(self, key: str) -> bool:
        """Whether this is the key, in the same time for every other one."""
        own = hashlib.sha256((self.key or "").encode()).digest()
        return hmac.compare_digest(hashlib.sha256(key.encode("utf-8", "replace")).digest(), own) and (
            self.key is not None
        )

    def blocked(self, address: str) -> bool:
        """Whether this address has tried too many keys in the last minute."""
        return len(self._recent(address)) >= self._most_failed

    def failed(self, address: str) -> None:
        """A wrong key came from there."""
        recent = [*self._recent(address), time.monotonic()]
        self._failed[address] = recent
        self._failed.move_to_end(address)
        while len(self._failed) > _MOST_ADDRESSES:
            self._failed.popitem(last=False)

    def _recent(self, address: str) -> list[float]:
        since = time.monotonic() - 60
        return [at for at in self._failed.get(address, ()) if at > since]

    def new_session(self, *, signed_in: bool) -> str:
        text = f"{'in' if signed_in else 'out'}.{int(time.time()) + _LASTS}.{secrets.token_urlsafe(18)}"
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


def cookie_name(scope_host: str) -> str:
    """Browsers keep cookies by name and host, not by port: two servers of one machine must not share one."""
    port = scope_host.rpartition(":")[2]
    return f"sss_session_{port}" if port.isdecimal() and len(port) < 6 else "sss_session"


def csrf_token(request: Request) -> str:
    """The token that this visitor's forms carry."""
    visit: Visit = request.scope["sss.visit"]
    visit.shown = True
    security: Security = request.app.state.security
    return security.token(visit.session)


async def checked_write(request: Request) -> None:
    """A dependency: refuses (403) what does not come from a page of ours, or from a program with the key.

    Where there is no key, a program is who sends nothing that browsers send; a page of another site cannot do that.
    """
    visit: Visit = request.scope["sss.visit"]
    if visit.bearer:
        return
    if request.app.state.security.key is None and visit.program and request.url.path.startswith("/api/"):
        return
    given = request.headers.get("x-csrf-token")
    if given is None and request.headers.get("content-type", "").startswith(
        ("application/x-www-form-urlencoded", "multipart/form-data")
    ):
        field = (await request.form()).get("csrf_token")
        given = field if isinstance(field, str) else None
    own = request.app.state.security.token(visit.session)
    if given is None or not hmac.compare_digest(given.encode("utf-8", "replace"), own.encode()):
        raise HTTPException(
            403, "this form is too old or not ours: load the page again, and send it once more"
        )

"""What stands before every route: host, origin, key, the bounds of a request, the headers of an answer; and counts."""

from __future__ import annotations

import asyncio
import hmac
import time
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import quote, urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from siamese_search.web.options import Limits
from siamese_search.web.security import Security, Visit, cookie_name

#: Who has no key sees that the server is there, and how to sign in.
_OPEN = ("/healthz", "/readyz", "/login", "/static/", "/favicon.ico")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_KINDS = (("/api/", "api"), ("/static/", "static"), ("/image", "image"), ("/healthz", "probe"), ("/readyz", "probe"))


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """An answer in place of the application's. location: of a redirect."""

    def __init__(self, status: int, text: str, location: str = "") -> None:
        super().__init__(text)
        self.status, self.location = status, location


class Metrics:
    """Counters in a registry of their own, so that several can live in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "sss_serve_requests", "Requests by kind and status.", ["kind", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "sss_serve_request_seconds", "Seconds until the answer was sent.", ["kind"], buckets=_BUCKETS,
            registry=self._registry,
        )  # fmt: skip
        self._ready = Gauge("sss_serve_ready", "Whether the gallery answers.", registry=self._registry)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """One request has its answer."""
        kind = next((kind for start, kind in _KINDS if path.startswith(start)), "page")
        self._requests.labels(kind, str(status)).inc()
        self._seconds.labels(kind).observe(seconds)

    def text(self, *, ready: bool) -> bytes:
        """In Prometheus' format."""
        self._ready.set(ready)
        return generate_latest(self._registry)


class Guard:
    """ASGI middleware. hosts: names under which browsers may reach the server, ``None`` for any."""

    def __init__(
        self, app: ASGIApp, security: Security, limits: Limits, metrics: Metrics, hosts: frozenset[str] | None
    ) -> None:
        self._app, self._security, self._limits, self._metrics = app, security, limits, metrics
        self._hosts = hosts
        self._rates: dict[str, tuple[int, int]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._limits)
        try:
            self._check(scope)
            if scope["method"] == "HEAD":  # what GET says; the server leaves the body out
                scope = {**scope, "method": "GET"}
            await self._app(scope, exchange.receive, exchange.send)
        except Refusal as refusal:
            exchange.problem = refusal
        finally:
            if exchange.problem is not None and exchange.status is None:
                await exchange.refuse()
            self._metrics.answered(scope["path"], exchange.status or 500, time.perf_counter() - exchange.began)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        address = (scope.get("client") or ("", 0))[0]
        path, method = scope["path"], scope["method"]
        host = headers.get("host", "")
        scope["sss.visit"] = visit = self._visit(headers, host)
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        scraped = path == "/metrics" and self._security.key is not None  # by its address, which has no name
        if self._hosts is not None and name.lower() not in self._hosts and not scraped:
            raise Refusal(421, "this server is not known by that name; name it with --allow-host")
        self._count(address)
        link = method in _SAFE and headers.get("sec-fetch-mode") == "navigate"
        foreign = headers.get("sec-fetch-site", "") in ("cross-site", "same-site") and not link
        if foreign or (method not in _SAFE and "origin" in headers and _place(headers["origin"]) != host):
            raise Refusal(403, "requests from pages of other sites are refused")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 15 or int(length) > self._limits.bytes:
            raise Refusal(413, f"a request has at most {self._limits.bytes >> 20} MiB")
        if self._security.key is None or path.startswith(_OPEN) or visit.signed_in:
            return
        given = headers.get("authorization", "")
        if given[:7].lower() == "bearer ":
            if self._security.blocked(address):
                raise Refusal(429, "too many wrong keys; wait a minute")
            key = given[7:].strip()
            if self._security.knows(key):
                visit.bearer = True
                return
            if path == "/metrics" and self._security.knows_for_metrics(key):
                return
            self._security.failed(address)
            raise Refusal(401, "this is not the key")
        if path.startswith("/api/") or path == "/metrics" or method not in _SAFE:
            raise Refusal(401, "this server asks for its key: Authorization: Bearer KEY")
        query = scope["query_string"].decode("latin-1")
        raise Refusal(303, "sign in", f"/login?back={quote(path + ('?' + query if query else ''), safe='')}")

    def _visit(self, headers: Headers, host: str) -> Visit:
        program = not any(name in headers for name in ("cookie", "origin", "sec-fetch-site"))
        try:
            held = SimpleCookie(headers.get("cookie", "")).get(cookie_name(host))
        except CookieError:
            held = None
        known = None if held is None else self._security.session(held.value)
        session, signed_in = known or ("", False)
        return Visit(session, known is None, signed_in, False, program)

    def _count(self, address: str) -> None:
        """Requests of one address within a minute; not of this machine, behind whose proxy all may come."""
        if address in ("127.0.0.1", "::1", ""):
            return
        minute = int(time.monotonic() // 60)
        at, count = self._rates.get(address, (minute, 0))
        count = count + 1 if at == minute else 1
        if len(self._rates) > 10_000:
            self._rates = {key: one for key, one in self._rates.items() if one[0] == minute}
            if len(self._rates) > 10_000:
                self._rates.clear()
        self._rates[address] = (minute, count)
        if count > self._limits.per_minute:
            raise Refusal(429, "too many requests; wait a minute")


def _place(origin: str) -> str:
    """Host and port of an origin; "" for what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


class _Exchange:
    """One request and its answer: counts what comes in, adds to what goes out."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self._scope, self._receive, self._send, self._limits = scope, receive, send, limits
        self.began = time.perf_counter()
        self._until = time.monotonic() + limits.arrival
        self._bytes = 0
        self._whole = False
        self.problem: Refusal | None = None
        self.status: int | None = None

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._until - time.monotonic()))
        except TimeoutError:
            self.problem = Refusal(408, "the request took too long to arrive")
            raise self.problem from None
        self._bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._bytes > self._limits.bytes:
            self.problem = Refusal(413, f"a request has at most {self._limits.bytes >> 20} MiB")
            raise self.problem
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self.problem is not None:
                return  # what the application makes of it: refuse() says it better
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
            visit: Visit | None = self._scope.get("sss.visit")
            if visit is not None and visit.shown and visit.fresh:
                headers.append("set-cookie", session_cookie(self._scope, visit.session))
        elif self.status is None:
            return
        await self._send(message)

    async def refuse(self) -> None:
        refusal, self.problem = self.problem, None
        assert refusal is not None
        headers = {"connection": "close"}
        headers |= {"location": refusal.location} if refusal.location else {}
        headers |= {"www-authenticate": "Bearer"} if refusal.status == 401 else {}
        answer = JSONResponse({"error": str(refusal)}, refusal.status, headers)
        await answer(self._scope, self._receive, self.send)


def session_cookie(scope: Any, session: str, *, lasts: int | None = None) -> str:
    """``Set-Cookie``. lasts: seconds; 0 takes it away, ``None`` is until the browser ends."""
    host = Headers(scope=scope).get("host", "")
    age = "" if lasts is None else f"; Max-Age={lasts}"
    secure = "; Secure" if scope.get("scheme") == "https" else ""
    return f"{cookie_name(host)}={session}; Path=/; HttpOnly; SameSite=Strict{secure}{age}"


def csrf_token(request: Request) -> str:
    """The token that this visitor's forms carry."""
    visit: Visit = request.scope["sss.visit"]
    visit.shown = True
    security: Security = request.app.state.security
    visit.session = visit.session or security.new_session(signed_in=False)
    return security.token(visit.session)


async def checked_write(request: Request) -> None:
    """A dependency of each route that changes something: refuses (403) what does not come from a form of ours, with
    its ``csrf_token`` (or the header ``X-CSRF-Token``), or from a program with the key.

    Where there is no key, a program is who sends nothing that browsers send; a page of another site cannot do that.
    """
    visit: Visit = request.scope["sss.visit"]
    security: Security = request.app.state.security
    if visit.bearer or (security.key is None and visit.program and request.url.path.startswith("/api/")):
        return
    given = request.headers.get("x-csrf-token")
    kind = request.headers.get("content-type", "")
    if given is None and kind.startswith(("application/x-www-form-urlencoded", "multipart/form-data")):
        field = (await request.form()).get("csrf_token")
        given = field if isinstance(field, str) else None
    own = security.token(visit.session)
    if given is None or not hmac.compare_digest(given.encode("utf-8", "replace"), own.encode()):
        raise HTTPException(403, "this form is too old or not ours: load the page again, and send it once more")

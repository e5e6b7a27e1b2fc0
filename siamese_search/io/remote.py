"""Reading objects by URL through fsspec ([cloud] extra): bounded, patient, and silent about credentials.

s3:// (s3fs), gs:// (gcsfs) and https:// (aiohttp). Credentials come from where the providers look for them (variables,
profiles, the machine's role) and from nowhere else. Plain http:// is for this machine, or asked for with --insecure.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import functools
import hashlib
import io
import ipaddress
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

from siamese_search.errors import DataError, ImageError, MissingExtraError, SiameseSearchError, UsageError, printable
from siamese_search.io.location import (
    CHANGED,
    MAX_BYTES,
    PROTOCOLS,
    FileStamp,
    RemotePath,
    TooLargeError,
    protocol_of,
    redacted,
    redacted_text,
)

T = TypeVar("T")


#: Seconds for one request, connect and body.
TIMEOUT = 60.0
_CONNECT_TIMEOUT = 10.0
#: Tries of a request that fails in a way that may pass, and seconds before the second and third.
TRIES = 3
_PAUSES = (0.3, 1.5)
#: Bytes asked of a stream at a time, so that an endless one ends at the limit.
_BLOCK = 1 << 20
#: Connections at a time, by which waits of 50 ms each are hidden.
THREADS = 32

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HERE = "this machine"


def check_url(url: str) -> str:
    """The URL's protocol. Raises UsageError for one that is not read here or not safe, MissingExtraError."""
    from siamese_search.settings import load_settings

    protocol = protocol_of(url)
    shown = printable(redacted(url))
    if protocol not in PROTOCOLS:
        raise UsageError(f"{shown}: images are read from directories, s3://, gs:// and https://")
    if protocol in ("http", "https"):
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise UsageError(f"{shown}: user and password in a URL end up in histories and logs; use a signed URL")
        if protocol == "http" and parts.hostname not in _LOOPBACK and not load_settings().insecure:
            raise UsageError(f"{shown}: plain http:// to another machine; use https://, or say --insecure")
    _filesystem(protocol)
    return protocol


async def _check_redirect(_session: Any, _context: Any, seen: Any) -> None:
    """The rules of URLs hold wherever a server sends us; and nobody sends us further in than he is himself."""
    from yarl import URL  # aiohttp's own, so that both read a URL in the same way

    headers = seen.response.headers
    target = seen.url.join(URL(headers.get("Location") or headers.get("URI") or ""))
    try:
        check_url(str(target))
    except UsageError as error:
        raise UsageError(f"the server redirects to {error}") from None
    place, sender = _place(str(target.raw_host), resolve=False), str(seen.url.raw_host)
    if (place == _HERE and sender not in _LOOPBACK) or (place and not _place(sender, resolve=True)):
        raise UsageError(f"the server redirects to {place}")


def _place(host: str, *, resolve: bool) -> str:
    """Where a host is that not everybody reaches, in words; else "", also for a name, unless it is to be resolved."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return _HERE
    try:  # the system's own reading, to which 127.1, 2130706433 and 0x7f000001 are addresses, too
        found = socket.getaddrinfo(name, None, flags=0 if resolve else socket.AI_NUMERICHOST)
        address = ipaddress.ip_address(found[0][4][0])
    except (OSError, ValueError):
        return ""
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback or address.is_unspecified:
        return _HERE
    return "" if address.is_global else "an address of an inner network"


@functools.cache
def _filesystem(protocol: str) -> Any:
    """fsspec's file system, one per process; it is asked from many threads."""
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    try:
        import fsspec

        if protocol in ("http", "https"):
            import aiohttp

            timeout = aiohttp.ClientTimeout(total=TIMEOUT, connect=_CONNECT_TIMEOUT)
            redirects = aiohttp.TraceConfig()
            redirects.on_request_redirect.append(_check_redirect)
            options |= {"client_kwargs": {"timeout": timeout, "trace_configs": [redirects]}, "max_redirects": 5}
        elif protocol == "s3":
            config = {"connect_timeout": _CONNECT_TIMEOUT, "read_timeout": TIMEOUT}
            options["config_kwargs"] = {**config, "retries": {"max_attempts": 5, "mode": "standard"}}
        elif protocol == "gs":
            options["timeout"] = TIMEOUT
        elif protocol == "memory":
            options = {}
        return fsspec.filesystem(protocol, **options)
    except ImportError:
        raise MissingExtraError(f"{protocol}://", "cloud") from None


def fetch(path: RemotePath, expected: FileStamp | None = None, *, limit: int = MAX_BYTES) -> bytes:
    """All bytes of the object. expected: the state that a listing saw; another size counts as changed.

    Raises ImageError when it is not there, may not be read, is empty or over ``limit`` bytes, ends early, or does not
    come within :data:`TRIES` tries of :data:`TIMEOUT` seconds.
    """
    expected = expected or path.stamp
    if expected is not None and expected.size > limit:
        raise ImageError(path, f"object of {expected.size} bytes is over the limit of {limit}")
    try:
        check_url(path.address)
        data = _patiently(lambda: _read(path, expected, limit))
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(path, reason_of(error)) from None
    if not data:
        raise ImageError(path, "empty file")
    if expected is not None and expected.size and len(data) != expected.size:
        raise ImageError(path, CHANGED)
    return data


def _read(path: RemotePath, expected: FileStamp | None, limit: int) -> bytes:
    protocol = protocol_of(path.address)
    assert protocol is not None
    filesystem = _filesystem(protocol)
    if protocol not in ("http", "https"):
        size = filesystem.info(path.address)["size"] if expected is None else expected.size
        if size > limit:
            raise TooLargeError(path, f"object of {size} bytes is over the limit of {limit}")
        return bytes(filesystem.cat_file(path.address))
    known = 0 if expected is None else expected.size
    limit, size = known or limit, 0
    parts = io.BytesIO()  # which gives its bytes away without a copy
    # As a stream, because what a web server says of the length is not to be relied on. With a size fsspec does not ask.
    with filesystem.open(path.address, "rb", block_size=0, size=1) as stream:
        while data := stream.read(min(_BLOCK, limit + 1 - size)):
            parts.write(data)
            size += len(data)
            if size > limit and known:
                raise ImageError(path, CHANGED)
            if size > limit:
                raise TooLargeError(path, f"object is over the limit of {limit} bytes")
    return parts.getvalue()


def stamp_of(info: Mapping[str, Any]) -> FileStamp:
    """Size and state of an object, of what a listing says about it.

    The time is that of the last change to the second; its fraction stands for the ETag (or the provider's checksum), so
    that whatever changes one of them is a change.
    """
    times = (info.get(name) for name in ("LastModified", "Last-Modified", "updated", "mtime", "created"))
    seconds = next((_seconds(value) for value in times if value is not None), 0)
    tag = next((str(info[name]) for name in ("md5Hash", "ETag", "etag", "Content-MD5") if info.get(name)), "")
    fraction = int.from_bytes(hashlib.blake2b(tag.encode(), digest_size=8).digest(), "big") if tag else 0
    return FileStamp(int(info.get("size") or 0), seconds * 1_000_000_000 + fraction % 1_000_000_000)


def _seconds(value: Any) -> int:
    if isinstance(value, str):
        for parsed in (datetime.datetime.fromisoformat, email.utils.parsedate_to_datetime):  # the last: HTTP headers
            with suppress(ValueError):
                return int(parsed(value).timestamp())
    if isinstance(value, datetime.datetime):
        return int(value.timestamp())
    return int(value) if isinstance(value, (int, float)) else 0


def list_objects(url: str) -> Iterator[tuple[str, FileStamp]]:
    """(key below the prefix, its state) of every object below ``url``, in the order of the keys.

    The whole listing is made before the first comes: it is complete, or an error. Raises DataError.
    """
    protocol = check_url(url)
    filesystem = _filesystem(protocol)
    try:
        found = _patiently(lambda: filesystem.find(url, detail=True, withdirs=False, maxdepth=None))
    except Exception as error:
        raise DataError(f"{printable(redacted(url))}: cannot be listed: {reason_of(error)}") from None
    prefix = str(filesystem._strip_protocol(url)).rstrip("/") + "/"
    for name in sorted(map(str, found)):
        if name.startswith(prefix) and not name.endswith("/"):
            yield name[len(prefix) :], stamp_of(found[name])


def look_up(address: str) -> FileStamp:
    """Size and state of one object (a HEAD request). Raises ImageError."""
    protocol = check_url(address)
    try:
        return stamp_of(_patiently(lambda: _info(protocol, address)))
    except Exception as error:
        raise ImageError(RemotePath.of(address), reason_of(error)) from None


def _info(protocol: str, address: str) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = _filesystem(protocol).info(address)
    except FileNotFoundError as error:
        if isinstance(error.__cause__, Exception):  # fsspec calls all that can happen to an https:// so
            raise error.__cause__ from None
        raise
    return found


def _patiently(ask: Callable[[], T]) -> T:
    """The answer, after up to :data:`TRIES` tries; what cannot pass is raised at once."""
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_chain, wait_fixed

    return Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(TRIES),
        wait=wait_chain(*map(wait_fixed, _PAUSES)),
        sleep=_sleep,
        reraise=True,
    )(ask)


_sleep = time.sleep


def _may_pass(error: BaseException) -> bool:
    final = (FileNotFoundError, PermissionError, IsADirectoryError, SiameseSearchError, ValueError)
    if isinstance(error, final) or not isinstance(error, Exception):
        return False
    status = getattr(error, "status", None)
    return not isinstance(status, int) or status >= 500 or status in (408, 429)


def reason_of(error: BaseException) -> str:
    """Why a request failed, in words that can stand in a list; nothing of a URL but where it leads."""
    if isinstance(error, (UsageError, MissingExtraError)):
        return str(error)
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return "no such file"
    if isinstance(error, PermissionError) or status in (401, 403):
        return "permission denied"
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)) or type(error).__name__ == "FSTimeoutError":
        return f"no answer within {TIMEOUT:.0f} s"
    if isinstance(status, int) and status > 0:
        return f"the server answers {status}"
    if type(error).__name__ == "ClientPayloadError":
        return "the connection ended before the whole file had come"
    text = printable(" ".join(redacted_text(str(error)).split()))[:160]
    return f"cannot be read: {text or type(error).__name__}"

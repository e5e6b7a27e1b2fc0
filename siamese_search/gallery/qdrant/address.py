"""The address of a server, checked before anything is sent to it.

A key that travels in the clear, or to a host that somebody else's ``./sss.toml`` named, is a key lost. So plain
HTTP beyond this machine must be asked for, and credentials inside a URL (which end up in shell histories, process
lists and messages) are refused.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from siamese_search.errors import SettingsError, UsageError, printable
from siamese_search.io.files import read_regular
from siamese_search.settings import Settings

REST_PORT = 6333
#: Of a file of certificates; the system's own bundle has a quarter of that.
_MAX_CA_BYTES = 1 << 20
_URL = re.compile(r"(?i)[a-z][a-z0-9+.-]*://")
_HOST = re.compile(r"[A-Za-z0-9._:-]+")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server's REST interface is. ``host`` has no brackets; ``prefix`` is a path such as ``/qdrant`` or ""."""

    scheme: str
    host: str
    port: int
    prefix: str = ""

    @property
    def url(self) -> str:
        """Safe to print: nothing secret can be in it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"

    @property
    def encrypted(self) -> bool:
        return self.scheme == "https"

    @property
    def loopback(self) -> bool:
        """Whether it is this machine. Other names may resolve to anything, so only this one counts."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def is_url(location: str) -> bool:
    """Whether a store's location is a URL, of whatever scheme, and not a directory."""
    return bool(_URL.match(location))


def parse_address(location: str) -> Address:
    """The address in a URL ``http[s]://host[:port][/prefix]``; the port is 6333 where there is none.

    Raises UsageError, in which nothing of the URL but scheme and host is repeated, for another scheme,
    credentials, a query or fragment, and what cannot be a host or port.
    """
    try:
        parts = urlsplit(location.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise UsageError("the store's URL cannot be read: write http(s)://HOST:PORT") from None
    shown = f"{printable(parts.scheme)}://{printable(host)}"
    if "@" in parts.netloc:
        raise UsageError(
            f"the store's URL holds credentials: write {shown} without them, and give the key in SSS_API_KEY"
        )
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"{shown}: a store is a directory or a Qdrant server's http:// or https:// URL")
    if not _HOST.fullmatch(host) or port == 0:
        raise UsageError(f"{shown}: not a host and port; write http(s)://HOST:PORT")
    if parts.query or parts.fragment:
        raise UsageError(
            f"{shown}: a store's URL has no ?query and no #fragment; the key goes into SSS_API_KEY"
        )
    return Address(parts.scheme, host, port or REST_PORT, parts.path.rstrip("/"))


def check_encryption(address: Address, settings: Settings) -> None:
    """Raise UsageError for plain HTTP to another machine, unless the user has said that this is meant."""
    if not (address.encrypted or address.loopback or settings.insecure):
        raise UsageError(
            f"{address.url}: plain HTTP to another machine shows the key and the vectors to the network; use"
            " https://, or say that the network is safe with --insecure (or SSS_INSECURE=1)"
        )


def gets_key(address: Address, settings: Settings) -> bool:
    """Whether the API key may go there: not where ``./sss.toml`` names the host and the user does not trust it."""
    named = []
    for value in settings.project_values():
        if is_url(value):
            try:
                named.append(parse_address(value).host.lower())
            except UsageError:
                continue
    host = address.host.lower()
    trusted = {one.lower() for one in settings.trusted_hosts}
    return host not in named or bool(trusted & {host, f"{host}:{address.port}"})


def read_authorities(settings: Settings) -> str:
    """The certificates in ``[server] ca-file``, as PEM; "" where it is not set. Raises SettingsError."""
    if not settings.server.ca_file:
        return ""
    path = Path(settings.server.ca_file).expanduser()
    shown = f"{printable(path)} (ca-file)"
    try:
        text = read_regular(path, _MAX_CA_BYTES).decode("ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ValueError, ssl.SSLError):
        raise SettingsError(f"{shown}: holds no certificate in PEM form") from None
    except OSError as error:
        raise SettingsError(f"{shown}: cannot be read: {error.strerror}") from None
    return text

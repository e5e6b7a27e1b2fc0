"""The address of a server and its key, checked before anything is sent to it.

A key that travels in the clear, or to a host that somebody else's ``./sss.toml`` named, is a key lost. So plain HTTP
beyond this machine must be asked for, and credentials inside a URL are refused.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from siamese_search.errors import SettingsError, UsageError, printable
from siamese_search.io.files import expanded, read_private, read_regular
from siamese_search.io.location import is_loopback, protocol_of
from siamese_search.settings import Settings

REST_PORT = 6333
#: Of a file of certificates; the system's own bundle has a quarter of that.
_MAX_CA_BYTES = 1 << 20
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
    def loopback(self) -> bool:
        """Whether it is this machine."""
        return is_loopback(self.host)


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
    shown = f"{printable(parts.scheme)}://{printable(host)}{'' if port is None else f':{port}'}"
    if "@" in parts.netloc:
        raise UsageError(
            f"the store's URL holds credentials: write {shown} without them, and give the key in SSS_API_KEY"
        )
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"{shown}: a store is a directory or a Qdrant server's http:// or https:// URL")
    if not _HOST.fullmatch(host) or port == 0:
        raise UsageError(f"{shown}: not a host and port; write http(s)://HOST:PORT")
    if parts.query or parts.fragment:
        raise UsageError(f"{shown}: a store's URL has no ?query and no #fragment; the key goes into SSS_API_KEY")
    return Address(parts.scheme, host, port or REST_PORT, parts.path.rstrip("/"))


def check_encryption(address: Address, settings: Settings) -> None:
    """Raise UsageError for plain HTTP to another machine, unless the user has said that this is meant."""
    if not (address.scheme == "https" or address.loopback or settings.insecure):
        raise UsageError(
            f"{address.url}: plain HTTP to another machine shows the key and the vectors to the network; use"
            " https://, or say that the network is safe with --insecure (or SSS_INSECURE=1)"
        )


def gets_key(address: Address, settings: Settings) -> bool:
    """Whether the API key may go there: not where ``./sss.toml`` names the host and the user does not trust it."""
    named = []
    for value in filter(protocol_of, settings.project_values()):
        with suppress(UsageError):
            named.append(parse_address(value).host.lower())
    host = address.host.lower()
    trusted = {one.lower() for one in settings.trusted_hosts}
    return host not in named or bool(trusted & {host, f"{host}:{address.port}"})


def read_authorities(settings: Settings) -> str:
    """The certificates in ``[server] ca-file``, as PEM; "" where it is not set. Raises SettingsError."""
    if not settings.server.ca_file:
        return ""
    path = Path(settings.server.ca_file)
    shown = f"{printable(path)} (ca-file)"
    try:
        text = read_regular(path, _MAX_CA_BYTES).decode("ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ValueError, ssl.SSLError):
        raise SettingsError(f"{shown}: holds no certificate in PEM form") from None
    except OSError as error:
        raise SettingsError(f"{shown}: cannot be read: {error.strerror}") from None
    return text


KEY_VARIABLE = "SSS_API_KEY"
FILE_VARIABLE = "SSS_API_KEY_FILE"
_MAX_BYTES = 8192


class ApiKey:
    """A key that shows itself in no ``repr``, message or traceback; only :meth:`reveal` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def redact(self, text: str) -> str:
        """The text with the key blotted out."""
        return text.replace(self._value, "[key]")

    def __repr__(self) -> str:
        return "ApiKey([key])"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("an API key is not written anywhere")


def read_key(env: Mapping[str, str] | None = None) -> ApiKey | None:
    """The key in ``SSS_API_KEY``, or in the file named by ``SSS_API_KEY_FILE``; None where neither is set.

    Raises SettingsError, which never repeats the key, for both at once, for a file that cannot be read or that
    others than its owner may read (its mode must be 0600 or narrower), and for what cannot be a key.
    """
    env = os.environ if env is None else env
    text, file = env.get(KEY_VARIABLE, ""), env.get(FILE_VARIABLE, "")
    if text and file:
        raise SettingsError(f"{KEY_VARIABLE} and {FILE_VARIABLE} are both set: unset one")
    if file:
        try:
            text = read_private(expanded(file), _MAX_BYTES).decode("utf-8", "replace")
        except OSError as error:
            raise SettingsError(f"{printable(file)}: the key cannot be read: {error.strerror}") from None
        return _checked(text, printable(file))
    return _checked(text, KEY_VARIABLE) if text else None


def _checked(text: str, where: str) -> ApiKey:
    value = text.strip()
    if not value:
        raise SettingsError(f"{where}: the API key is empty")
    # Checked here, because the libraries below repeat a header value that they refuse.
    if len(value) > _MAX_BYTES or not all(33 <= ord(one) <= 126 for one in value):
        raise SettingsError(f"{where}: not an API key: it holds blanks or characters beyond ASCII, or is too long")
    return ApiKey(value)


def key_for(address: Address, settings: Settings) -> tuple[ApiKey | None, str]:
    """The API key to send there, and why there is one that is not sent ("" where there is no such reason)."""
    key = read_key()
    if key is None or gets_key(address, settings):
        return key, ""
    return None, (
        f"the key was not sent, because the URL stands in ./sss.toml; if you trust {address.host}, add it to"
        " trusted_hosts in your own settings (~/.config/sss/sss.toml)"
    )

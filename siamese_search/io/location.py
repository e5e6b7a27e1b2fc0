"""RemotePath: an image in object storage or on the web, where a ``Path`` stands for a local one.

It is told from a local file by its type alone, because a local file may have any name, and shows itself without
credentials. (A ``Path`` makes ``s3:/`` of ``s3://``.) And the bytes of a local one, copied into memory before any
decoder sees them: one that maps a file would die of SIGBUS when somebody truncates it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast
from urllib.parse import urlsplit, urlunsplit

from siamese_search.errors import ImageError

MAX_BYTES = 1 << 30


class TooLargeError(ImageError):
    """An object has more bytes than were asked for."""


#: Reason given for a file that did not hold still.
CHANGED = "changed while it was read; run the command again when it is complete"

#: What stands before ``://`` in a root that is not on this machine. ``memory`` is fsspec's, within one process.
PROTOCOLS = ("s3", "gs", "https", "http", "memory")

_URL = re.compile(r"(?i)([a-z][a-z0-9+.-]*)://")
_IN_TEXT = re.compile(r"(?i)\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+")


class FileStamp(NamedTuple):
    """What tells one state of a file from another: its size in bytes and when it was modified."""

    size: int
    mtime_ns: int


def protocol_of(location: str | os.PathLike[str]) -> str | None:
    """The scheme of a URL, in lower case; ``None`` for a local path."""
    match = _URL.match(os.fspath(location))
    return match[1].lower() if match else None


def redacted(url: str) -> str:
    """A URL without user, password, query and fragment: signed URLs carry their signature there."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.split("?")[0].split("#")[0].rpartition("@")[2]
    if parts.scheme.lower() not in ("http", "https"):
        return url  # in a bucket's keys ? and # are characters like others, and nothing is signed
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address. Other names may resolve to anything."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def redacted_text(text: str) -> str:
    """A message of a library, with every URL in it redacted."""
    return _IN_TEXT.sub(lambda match: redacted(match[0]), text)


@dataclass(frozen=True, slots=True)
class RemotePath(os.PathLike[str]):
    """``os.fspath`` and ``str`` give the URL that may be stored and shown; ``address`` is what is asked for.

    stamp: size and state when it was listed; ``None`` where nobody has looked.
    """

    url: str
    address: str = field(repr=False)
    stamp: FileStamp | None = None

    @classmethod
    def of(cls, address: str, stamp: FileStamp | None = None) -> RemotePath:
        return cls(redacted(address), address, stamp)

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return os.path.splitext(self.name)[0]  # noqa: PTH122

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.name)[1]  # noqa: PTH122

    def __fspath__(self) -> str:
        return self.url

    def __str__(self) -> str:
        return self.url

    def as_path(self) -> Path:
        """Itself, for whoever holds images as ``Path`` and hands them to a reader."""
        return cast(Path, self)


def located(text: str) -> Path:
    """Where a stored image is: a ``Path``, or what stands for one (:class:`RemotePath`)."""
    return RemotePath.of(text).as_path() if protocol_of(text) in PROTOCOLS else Path(text)


#: Without O_NONBLOCK, opening a FIFO waits for a writer; without O_NOCTTY, a terminal may become ours.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))

_PNG = b"\x89PNG\r\n\x1a\n"
_NO_PIXELS = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})


def read_bytes(path: str | os.PathLike[str], expected: FileStamp | None = None) -> bytes:
    """All bytes of the regular file at ``path``; links are followed.

    expected: the state that a scan saw; a file in another state counts as changed. Raises ImageError when it is no
    regular file, empty, over :data:`MAX_BYTES`, cannot be read, or changes while it is read.
    """
    try:
        # Before it is opened, because opening a device can already do something.
        _regular(path, os.stat(path))  # noqa: PTH116 - also takes surrogate-escaped names
        descriptor = os.open(path, _FLAGS)
        try:
            before = _regular(path, os.fstat(descriptor))
            if before.size == 0 and expected in (None, before):
                raise ImageError(path, "empty file")
            if before.size > MAX_BYTES:
                raise ImageError(path, f"file of {before.size} bytes is over the limit of {MAX_BYTES}")
            data = _read(descriptor, before.size)
            after = _regular(path, os.fstat(descriptor))
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise ImageError(path, "no such file") from None
    except PermissionError:
        raise ImageError(path, "permission denied") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        text = getattr(error, "strerror", None) or str(error)
        raise ImageError(path, f"cannot be read: {text.lower()}") from None
    if len(data) != before.size or after != (expected or before):
        raise ImageError(path, CHANGED)
    return data


def _regular(path: str | os.PathLike[str], status: os.stat_result) -> FileStamp:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(path, "not a regular file")
    return FileStamp(status.st_size, status.st_mtime_ns)


def _read(descriptor: int, size: int) -> bytes:
    """Up to ``size`` + 1 bytes: one more than there should be shows that the file has grown."""
    data = os.read(descriptor, size + 1)
    if len(data) in (size, size + 1):  # nearly always: the kernel reads regular files in one go
        return data
    parts, left = [data], size + 1 - len(data)
    while left and (data := os.read(descriptor, left)):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


def without_text(data: bytes) -> bytes:
    """A PNG without its text and colour profile, whatever their size; anything else as it is."""
    if not data.startswith(_PNG):
        return data
    parts, at = [data[: len(_PNG)]], len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")  # length, type and checksum are 12 bytes
        if data[at + 4 : at + 8] not in _NO_PIXELS:
            parts.append(data[at:end])
        at = end
    return b"".join([*parts, data[at:]])

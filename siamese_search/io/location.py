"""RemotePath: an image in object storage or on the web, where a ``Path`` stands for a local one.

It is told from a local file by its type alone, because a local file may have any name, and shows itself without
credentials. (A ``Path`` makes ``s3:/`` of ``s3://``.)
"""

from __future__ import annotations

import os
import re
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

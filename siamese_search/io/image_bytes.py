"""read_bytes(): the whole content of one regular file, as it is at one moment, or the reason why not.

Copied into memory before any decoder sees it: one that maps a file would die of SIGBUS when somebody truncates it.
"""

from __future__ import annotations

import os
import stat

from siamese_search.errors import ImageError
from siamese_search.io.location import CHANGED, MAX_BYTES, FileStamp

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
        _check_kind(path, os.stat(path))  # noqa: PTH116 - also takes surrogate-escaped names
        descriptor = os.open(path, _FLAGS)
        try:
            before = os.fstat(descriptor)
            _check_kind(path, before)
            if before.st_size == 0 and expected in (None, _stamp(before)):
                raise ImageError(path, "empty file")
            if before.st_size > MAX_BYTES:
                raise ImageError(path, f"file of {before.st_size} bytes is over the limit of {MAX_BYTES}")
            data = _read(descriptor, before.st_size)
            after = _stamp(os.fstat(descriptor))
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise ImageError(path, "no such file") from None
    except PermissionError:
        raise ImageError(path, "permission denied") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        text = getattr(error, "strerror", None) or str(error)
        raise ImageError(path, f"cannot be read: {text.lower()}") from None
    if len(data) != before.st_size or after != (expected or _stamp(before)):
        raise ImageError(path, CHANGED)
    return data


def _check_kind(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(path, "not a regular file")


def _stamp(status: os.stat_result) -> FileStamp:
    return FileStamp(status.st_size, status.st_mtime_ns)


def _read(descriptor: int, size: int) -> bytes:
    """Up to ``size`` + 1 bytes: one more than there should be shows that the file has grown."""
    data = os.read(descriptor, size + 1)
    if len(data) in (size, size + 1):  # nearly always: the kernel reads regular files in one go
        return data
    parts = [data]
    left = size + 1 - len(data)
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

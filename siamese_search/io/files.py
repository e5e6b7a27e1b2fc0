"""Files that never have their final name before they are whole: write aside, fsync, rename."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: 128 bits: two different files of ten million share a digest with a probability of 1.5e-25.
_DIGEST_BYTES = 16


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on a clean exit it is fsynced and renamed to ``path``.

    On an exception the temporary file is removed and ``path`` stays as it was. The parent directory is
    made where missing. The file gets ordinary permissions (0666 less the umask).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=".part", dir=path.parent)
    os.close(descriptor)
    aside = Path(name)
    try:
        yield aside
        with aside.open("rb") as handle:
            os.fsync(handle.fileno())
        aside.chmod(0o666 & ~_umask())
        aside.replace(path)
        fsync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` as one atomic step."""
    with atomic_path(path) as aside:
        aside.write_bytes(data)


def atomic_write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, as one atomic step."""
    atomic_write_bytes(path, text.encode("utf-8"))


def fsync_directory(path: Path) -> None:
    """Make renames inside ``path`` survive a power loss (a no-op where directories cannot be opened)."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def digest_file(path: str | os.PathLike[str]) -> str:
    """BLAKE2b-128 of a file's content, 32 hexadecimal digits. Raises OSError, for what is no regular file too."""
    # Non-blocking: between the scan and now the file may have become a pipe, on which open() would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb", buffering=0) as handle:  # noqa: PTH123 - a descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "not a regular file")
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).hexdigest()

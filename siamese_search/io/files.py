"""Files that never have their final name before they are whole: write aside, fsync, rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any

from siamese_search.errors import SiameseSearchError, printable

#: 128 bits: two different files of ten million share a digest with a probability of 1.5e-25.
_DIGEST_BYTES = 16
#: What pictures that are drawn here say of themselves, in a text chunk before the pixels.
OWN_TEXT = ("Software", "siamese-search")
OWN_MARK = "tEXt{}\0{}".format(*OWN_TEXT).encode()
MARKED = 256


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with ``~`` as the home that it means; where nobody has that home, a name like any other."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path's own raises there


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on a clean exit it is fsynced and renamed to ``path``.

    On an exception the temporary file is removed and ``path`` stays as it was. The parent directory is made where
    missing. The file gets ordinary permissions (0666 less the umask). Raises OSError, as :func:`_check_replaced` does.
    """
    _check_replaced(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=".part", dir=path.parent)
    os.close(descriptor)
    aside = Path(name)
    try:
        yield aside
        with aside.open("rb") as handle:
            os.fsync(handle.fileno())
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o666 & ~umask)
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


@contextmanager
def writing(out: Path, what: str = "", error: type[SiameseSearchError] = SiameseSearchError) -> Iterator[None]:
    """Raises ``error``, which names ``out``, for whatever the disk refuses inside. what: ``the map ``, for people."""
    try:
        yield
    except OSError as refused:
        raise error(f"{printable(out)}: {what}cannot be written: {refused.strerror or refused}") from None


def check_output(path: Path, *, directory: bool = False, error: type[SiameseSearchError] = SiameseSearchError) -> None:
    """Raise ``error`` now where a file (or a directory) could not be written at ``path`` later. Leaves nothing."""
    with writing(path, error=error):
        if path.exists() and path.is_dir() != directory:
            code = errno.ENOTDIR if directory else errno.EISDIR
            raise OSError(code, os.strerror(code))
        _check_replaced(path)
        place = path if directory else path.parent
        while not place.exists():
            place = place.parent  # what is missing is made with the file
        with tempfile.TemporaryFile(dir=place):
            pass


def _check_replaced(path: Path) -> None:
    """Raise OSError where a rename would put a file in the place of a pipe or device, or of an image not drawn here."""
    if os.path.realpath(path.parent) == "/dev" or (path.exists() and not path.is_file() and not path.is_dir()):
        raise OSError(errno.EINVAL, "pipes and devices are no place for a file; name another")
    if path.suffix.lower() == ".png" and path.is_file():
        with path.open("rb") as file:
            head = file.read(MARKED)
        if head and OWN_MARK not in head:
            raise OSError(errno.EEXIST, "an image is there that was not drawn here; choose another name")


def open_own(path: str | Path, flags: int) -> int:
    """A descriptor of a regular file in a directory that may come from a stranger, made with 0666 less the umask.

    Never through a symbolic link, which could lead to any file of the user's, nor to write into one that has a second
    name, and never of a pipe or device, which could hold us for ever. An ``opener`` of ``open()``. Raises OSError.
    """
    # Emptied only once it is known to be nobody else's.
    more = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = _regular(os.open(path, flags & ~os.O_TRUNC | more, 0o666))
    if flags & (os.O_WRONLY | os.O_RDWR) and os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "a hard link, which another file may be")
    if flags & os.O_TRUNC:
        os.ftruncate(descriptor, 0)
    return descriptor


def read_own(path: Path, limit: int) -> bytes:
    """What such a file holds. Raises OSError, also where that is more than ``limit`` bytes."""
    return _read(open_own(path, os.O_RDONLY), limit)


def read_regular(path: Path, limit: int) -> bytes:
    """What a regular file holds, perhaps behind a link. Raises OSError, as :func:`read_own`."""
    return _read(_open_regular(path), limit)


def read_private(path: Path, limit: int) -> bytes:
    """What a file with a key holds. Raises OSError, as :func:`read_regular`, and where others can read it."""
    descriptor = _open_regular(path)
    if os.fstat(descriptor).st_mode & 0o077:
        os.close(descriptor)
        raise PermissionError(errno.EACCES, f"others can read this key: chmod 600 {quote(printable(path))}")
    return _read(descriptor, limit)


def read_json(path: Path, limit: int = 64 << 20) -> Any:
    """What a regular file of JSON holds. Raises OSError, as :func:`read_regular`, and ValueError for anything else."""
    try:
        return json.loads(read_regular(path, limit).decode("utf-8"))
    except RecursionError:
        raise ValueError("values within values without end") from None


def check_regular(path: Path, unpacked: int | None = None) -> None:
    """Raise OSError now for what a library would open by itself, and wait at for ever: a pipe, or a device.

    unpacked: bytes that the members of a zip file may hold together; ValueError for more.
    """
    os.close(_open_regular(path))
    if unpacked is not None and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as members:
            size = sum(member.file_size for member in members.infolist())
        if size > unpacked:
            raise ValueError(f"unpacked it has {size:,} bytes, more than {unpacked:,}")


def _open_regular(path: str | os.PathLike[str]) -> int:
    return _regular(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))


def _regular(descriptor: int) -> int:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor


def _read(descriptor: int, limit: int) -> bytes:
    with open(descriptor, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"more than {limit:,} bytes")
    return data


def foreign_entry(directory: Path) -> Path | None:
    """The first entry below ``directory`` that is no directory or regular file of one name; itself, if it is a link.

    For directories that a library opens by itself. Raises OSError where they cannot be looked through.
    """
    if directory.is_symlink():
        return directory
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if (found := foreign_entry(Path(entry.path))) is not None:
                    return found
            elif not entry.is_file(follow_symlinks=False) or entry.stat(follow_symlinks=False).st_nlink > 1:
                return Path(entry.path)
    return None


def fsync_directory(path: Path) -> None:
    """Make renames inside ``path`` survive a power loss (a no-op where directories cannot be opened)."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def digest_file(path: str | os.PathLike[str]) -> str:
    """BLAKE2b-128 of a file's content, 32 hexadecimal digits. Raises OSError, for what is no regular file too."""
    # Between the scan and now the file may have become a pipe, on which a plain open() would wait for ever.
    with open(_open_regular(path), "rb", buffering=0) as handle:
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).hexdigest()

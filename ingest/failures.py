"""FailureLog: every failure of an ingest as a line of JSON, for a program that mends or moves the files."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from siamese_search.errors import DataError, UsageError, printable
from siamese_search.io.images import is_image_name

_FIRST_BYTES = b'{"path"'


class FailureLog:
    """``{"path": …, "reason": …}``, one object per line and failure, in the order in which they were met.

    The file is made anew. Each line reaches the operating system at once, so that a crash or a ``kill -9`` keeps
    what was listed; :meth:`close` makes it survive a power loss. All of it is ASCII: line breaks in names are
    ``\\n``, bytes that are not UTF-8 are ``\\udcXX``, which ``os.fsencode`` makes the real name of again.

    Raises UsageError for a file that is not such a list (an image named by mistake must not be emptied) or that another
    run has open, as shards do that were given the same name; DataError where it cannot be written: on the call itself
    when it cannot be made, else in :meth:`close`, because a full disk must not end the ingest. Not thread-safe.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._error: OSError | None = None
        _check_ours(self.path)
        try:
            # Emptied only once it is ours: of two runs that are given the same file one would lose its list.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._file: IO[str] = os.fdopen(descriptor, "w", buffering=1, encoding="ascii", newline="\n")
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                self._lock()
                os.ftruncate(descriptor, 0)
        except OSError as error:
            raise self._failed(error) from None

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UsageError(
                f"{printable(self.path)}: another run is listing its failures there; give each its own file"
            ) from None
        except OSError:  # a file system without locks
            return

    def write(self, path: str | os.PathLike[str], reason: str) -> None:
        """Add one failure. ``path``: the real one, not printable text."""
        if self._error is None:
            try:
                self._file.write(json.dumps({"path": os.fspath(path), "reason": reason}) + "\n")
            except OSError as error:
                self._error = error

    def close(self) -> None:
        """Sync and close; safe to call twice."""
        if not self._file.closed:
            try:
                with self._file:
                    if stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):  # a pipe has nothing to sync
                        os.fsync(self._file.fileno())
            except OSError as error:
                self._error = self._error or error
        if self._error is not None:
            first, self._error = self._error, None
            raise self._failed(first)

    def _failed(self, error: OSError) -> DataError:
        return DataError(
            f"{printable(self.path)}: the list of failures cannot be written ({error.strerror or error});"
            " name another file with --failures"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            with suppress(DataError):  # what ended the ingest matters more
                self.close()


def _check_ours(path: Path) -> None:
    """Refuse what nobody can have meant to overwrite."""
    if is_image_name(path.name):
        raise UsageError(f"{printable(path)} has the name of an image; name another file with --failures")
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return
        with path.open("rb") as handle:
            start = handle.read(len(_FIRST_BYTES))
    except OSError:
        return  # opening it for writing will say what is wrong
    if start and start != _FIRST_BYTES:
        raise UsageError(
            f"{printable(path)} is there and is not a list of failures; name another file with --failures"
        )

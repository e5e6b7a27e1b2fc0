"""The turnstile: one holder at a time, waiters queue, and the holder can tell that somebody waits.

Two lock files beside the data, both ``flock``\\ ed, so that the kernel cleans up after a killed process:

``turnstile.lock``
    Held by whoever is next in line, until it has the data. The holder of the data probes it to learn that
    somebody waits; having given way, it must pass the turnstile itself and so cannot barge in again.
``shard.lock``
    Held while the data is open. Its text says who holds it, for the people who are kept waiting.
    (``build.lock`` for the right to fill a new generation.)
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from siamese_search.errors import StoreBusyError, StoreError, printable
from siamese_search.gallery.edge.layout import refuse_link
from siamese_search.io.files import open_own, read_own
from siamese_search.io.location import redacted_text

_POLL_SECONDS = 0.003
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


class Turnstile:
    """A queueing exclusive lock on a directory, between processes and between objects of one process.

    Not reentrant and not thread-safe: its owner holds a mutex. ``what`` names the guarded thing in errors,
    ``name`` is the file that is held.
    """

    def __init__(self, directory: Path, what: str, name: str = "shard.lock") -> None:
        self.directory = directory
        self._what = what
        self._name = name
        self._gate: int | None = None
        self._hold: int | None = None

    def acquire(self, wait: float) -> None:
        """Queue for the lock for at most ``wait`` seconds.

        Where nothing can be written, the lock files are held as they are; none that is not there is needed, because
        nobody else can make it either. Raises StoreBusyError naming the holder when the time is up, FileNotFoundError
        when the directory is gone.
        """
        assert self._hold is None
        refuse_link(self.directory)  # else the lock files would be made where it leads
        deadline = time.monotonic() + wait
        try:
            self._gate = self._open("turnstile.lock")
            self._hold = self._open(self._name)
            self._lock(self._gate, deadline, wait)
            self._lock(self._hold, deadline, wait)
            if self._gate is not None:
                fcntl.flock(self._gate, fcntl.LOCK_UN)
            if self._hold is not None:
                _sign(self._hold)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let the next one in. Harmless when nothing is held."""
        gate, hold, self._gate, self._hold = self._gate, self._hold, None, None
        for descriptor in (hold, gate):
            if descriptor is not None:
                # Unlock, do not merely close: a child forked meanwhile still shares the open file.
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)

    def in_place(self) -> bool:
        """Whether what we hold is still the lock that others find: not where its directory was replaced."""
        if self._hold is None:
            return True  # nobody can replace it
        try:
            there = (self.directory / self._name).stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._hold))

    def wanted(self) -> bool:
        """Whether somebody queues behind the holder. Costs two system calls."""
        if self._gate is None:
            return False
        try:
            fcntl.flock(self._gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        return False

    def holder(self) -> str:
        """Who holds the lock, for people: ``process 123 (sss ingest ...) for 12 s``."""
        try:
            note = json.loads(read_own(self.directory / self._name, 4096))
            pid, here = int(note["pid"]), note["host"] == socket.gethostname()
            seconds = max(0, round(time.time() - float(note["since"])))
            where = _command(pid) if here else f" on {printable(str(note['host']))[:100]}"
            return f"process {pid}{where} for {seconds} s"
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
            return "another process"

    def _open(self, name: str) -> int | None:
        path = self.directory / name
        try:
            try:
                return open_own(path, os.O_RDWR | os.O_CREAT)
            except OSError as error:
                if error.errno not in _UNWRITABLE:
                    raise
                return open_own(path, os.O_RDONLY)
        except FileNotFoundError:
            if not self.directory.is_dir():
                raise
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EINVAL, errno.ENXIO):
                raise StoreError(
                    f"{printable(path)} is no file of a store but a link or a device: somebody else made it; nothing"
                    " was written"
                ) from error
            raise StoreError(f"cannot open {printable(path)}: {error.strerror}") from error

    def _lock(self, descriptor: int | None, deadline: float, wait: float) -> None:
        while descriptor is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StoreBusyError(
                        f"{self._what} is busy: held by {self.holder()}; gave up after {round(wait, 2):g} s,"
                        " try again later"
                    ) from None
            except OSError as error:
                if error.errno == errno.EBADF:  # NFS locks nothing that is open for reading only
                    return
                raise
            # Polled rather than blocking: flock(2) has no timeout, and a blocked call would swallow Ctrl-C.
            time.sleep(_POLL_SECONDS)


def _command(pid: int) -> str:
    """What runs under this number here, for people; asked of the system, for what a file says may be a stranger's."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()[:1000].decode("utf-8", "replace").split("\0")
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2][1:2]
    except OSError:
        return ""
    named = [word for word in words if word]
    if len(named) > 1 and Path(named[0]).name.startswith("python"):
        named = named[1:]  # what it runs says more
    # A signed URL is a key, and a process list is no reason to show it.
    command = " ".join([Path(named[0]).name, *map(redacted_text, named[1:])])[:200] if named else ""
    stopped = f", stopped until kill -CONT {pid}" if state in b"Tt" else ""
    return f" ({printable(command)}{stopped})" if command else ""


def _sign(descriptor: int) -> None:
    """Say who holds it: numbers and the host's name, nothing that a stranger could have chosen."""
    note = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
    # Only a courtesy to those who wait: a full disk must not keep anyone from searching.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(note).encode(), 0)

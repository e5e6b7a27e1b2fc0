"""Settling: paths that something happened to, held back until nothing happens to them any more."""

from __future__ import annotations

import heapq
import os
import stat
from collections.abc import Iterator

#: What tells whether a path is still changing: (inode, size, mtime in ns); of a directory, whose entries have
#: events of their own, the inode alone. ``None``: it is not there.
Signature = tuple[int, int, int] | None


class Settling:
    """Paths below ``base`` with the moment at which each was last seen to change.

    A path is settled once ``seconds`` have passed in which it had no event and looked the same before and after.
    Not thread-safe.
    """

    def __init__(self, base: str, seconds: float) -> None:
        self._base, self._seconds = base, seconds
        self._waiting: dict[str, tuple[float, Signature]] = {}
        self._due: list[tuple[float, str]] = []  # a heap; entries that _waiting does not confirm are stale

    def __len__(self) -> int:
        return len(self._waiting)

    def touch(self, path: str, now: float) -> None:
        """Something happened to ``path`` (relative to the base) at ``now``, in seconds of a monotonic clock."""
        self._wait(path, now + self._seconds, signature_of(os.path.join(self._base, path)))  # noqa: PTH118

    def settled(self, now: float) -> Iterator[str]:
        """Take out the paths that have settled by ``now``, those that waited longest first."""
        while self._due and self._due[0][0] <= now:
            due, path = heapq.heappop(self._due)
            waiting = self._waiting.get(path)
            if waiting is None or waiting[0] != due:
                continue
            signature = signature_of(os.path.join(self._base, path))  # noqa: PTH118
            if signature == waiting[1]:
                del self._waiting[path]
                yield path
            else:  # it grew without our hearing of it
                self._wait(path, now + self._seconds, signature)

    def due(self, now: float) -> bool:
        """Whether :meth:`settled` has something to look at."""
        return bool(self._due) and self._due[0][0] <= now

    def clear(self) -> None:
        """Forget them all."""
        self._waiting.clear()
        self._due.clear()

    def _wait(self, path: str, due: float, signature: Signature) -> None:
        self._waiting[path] = (due, signature)
        heapq.heappush(self._due, (due, path))


def signature_of(path: str) -> Signature:
    """What ``path`` looks like now; a link is looked through, and one that leads nowhere is not there."""
    try:
        status = os.stat(path)  # noqa: PTH116 - hot, and takes surrogate-escaped names
    except OSError:
        return None
    if stat.S_ISDIR(status.st_mode):
        return (status.st_ino, 0, 0)
    return (status.st_ino, status.st_size, status.st_mtime_ns)

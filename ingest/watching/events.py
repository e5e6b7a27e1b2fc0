"""File events below one root, from watchfiles, in a thread of its own.

What watchfiles cannot do, and what is done about it here:

- It loses the events around a name that is not UTF-8, and after any error of the system's watcher. Then it is
  started anew, and the root is reported as ``lost``: only a scan can tell what happened.
- The kernel drops events when too many come at once, and says so to nobody above. A delivery of more than
  :data:`STORM` changes is therefore reported as ``lost`` too.
- Where the system has no watches left (``fs.inotify.max_user_watches``), it fails. Then the directory is read
  again every few seconds instead: ``polling``.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

#: The kernel queues 16,384 events by default, and a new file makes about four.
STORM = 2000
POLL_MILLISECONDS = 2000
_GROUP_MILLISECONDS = 200
_STEP_MILLISECONDS = 50
_RETRY_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Delivery:
    """changed: these paths (relative to the base) had events. lost: any path may have. polling: events are at
    an end, for the ``reason``, and the directory is read again and again from now on."""

    kind: Literal["changed", "lost", "polling"]
    paths: frozenset[str] = frozenset()
    reason: str = ""


class Events:
    """Watches ``base`` and everything below it, or just the ``directories`` (absolute) where those are given.

    ``deliver`` is called from the thread. Hidden names are left out, as in a scan.
    """

    def __init__(
        self,
        base: str,
        deliver: Callable[[Delivery], None],
        *,
        directories: Sequence[str] | None = None,
        poll: bool = False,
    ) -> None:
        self._base, self._deliver = base, deliver
        self._prefix = os.path.join(base, "")  # noqa: PTH118
        self._directories = directories
        self.polling = poll or bool(os.environ.get("WATCHFILES_FORCE_POLLING"))
        # Not from the start: with it, watchfiles also passes over directories for which no watches are left.
        self._pass_over_denied = False
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether nothing that happens from now on can be missed. On a large tree the system takes a while."""
        return self._ready.is_set()

    def close(self) -> None:
        """End the thread (within a fraction of a second)."""
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        loss = ""
        while not self._stop.is_set():
            try:
                storm = 0
                for paths in self._changes():
                    self._ready.set()
                    if loss:  # only now that the new watch stands does a scan see all
                        self._deliver(Delivery("lost", reason=loss))
                        loss = ""
                    if paths:
                        self._deliver(Delivery("changed", paths))
                    storm = max(storm, len(paths)) if len(paths) > STORM or storm else 0
                    if storm and len(paths) < STORM / 4:  # over: new directories may be without a watch
                        loss = f"{storm} changes came at once"
                        break
                if not loss:
                    return
            except (OSError, RuntimeError) as error:  # watchfiles' own error is a RuntimeError
                if isinstance(error, PermissionError) and not self._pass_over_denied:
                    self._pass_over_denied = True
                    continue
                if not os.path.isdir(self._base):  # noqa: PTH112
                    return  # the root's owner looks after that
                loss = " ".join(str(error).split())
                if not self.polling and is_limit(loss):
                    self.polling = True
                    self._deliver(Delivery("polling", reason=loss))
                # Told at once as well: errors may come faster than a new watch stands.
                self._deliver(Delivery("lost", reason=loss))
                self._stop.wait(_RETRY_SECONDS)

    def _changes(self) -> Iterator[frozenset[str]]:
        from watchfiles import watch

        directories = self._directories
        for changes in watch(
            *([self._base] if directories is None else filter(os.path.isdir, directories)),
            watch_filter=None,
            debounce=_GROUP_MILLISECONDS,
            step=_STEP_MILLISECONDS,
            rust_timeout=_GROUP_MILLISECONDS,
            yield_on_timeout=True,
            stop_event=self._stop,
            raise_interrupt=False,
            force_polling=self.polling,
            poll_delay_ms=POLL_MILLISECONDS,
            recursive=directories is None,
            ignore_permission_denied=self._pass_over_denied,
        ):
            yield frozenset(
                path[len(self._prefix) :]
                for _, path in changes
                if path.startswith(self._prefix) and "/." not in path[len(self._prefix) - 1 :]
            )


def is_limit(reason: str) -> bool:
    """Whether an error of the system's watcher says that there are no watches or no watchers left."""
    text = reason.lower()
    return "watch limit" in text or "too many open files" in text or "no space left" in text


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
        self._waiting: OrderedDict[str, tuple[float, Signature]] = OrderedDict()  # the first is due first

    def __len__(self) -> int:
        return len(self._waiting)

    def touch(self, path: str, now: float) -> None:
        """Something happened to ``path`` (relative to the base) at ``now``, in seconds of a monotonic clock."""
        self._waiting[path] = (now + self._seconds, signature_of(os.path.join(self._base, path)))  # noqa: PTH118
        self._waiting.move_to_end(path)

    def settled(self, now: float) -> Iterator[str]:
        """Take out the paths that have settled by ``now``, those that waited longest first."""
        while self.due(now):
            path, (_, before) = self._waiting.popitem(last=False)
            if signature_of(os.path.join(self._base, path)) == before:  # noqa: PTH118
                yield path
            else:  # it grew without our hearing of it
                self.touch(path, now)

    def due(self, now: float) -> bool:
        """Whether :meth:`settled` has something to look at."""
        return bool(self._waiting) and next(iter(self._waiting.values()))[0] <= now

    def clear(self) -> None:
        """Forget them all."""
        self._waiting.clear()


def signature_of(path: str) -> Signature:
    """What ``path`` looks like now; a link is looked through, and one that leads nowhere is not there."""
    try:
        status = os.stat(path)  # noqa: PTH116 - hot, and takes surrogate-escaped names
    except OSError:
        return None
    if stat.S_ISDIR(status.st_mode):
        return (status.st_ino, 0, 0)
    return (status.st_ino, status.st_size, status.st_mtime_ns)

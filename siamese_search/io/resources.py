"""What this process may use: processors, memory, and the bytes in flight at one moment; and when it is to stop.

A container's limits count, not the machine's size: a control group that bounds its memory kills who exceeds it.
"""

from __future__ import annotations

import functools
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Self

_ROOT, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
#: Where nothing can be found out.
_MEMORY = 8 << 30


def available_cpus() -> int:
    """CPUs that this process may use: its affinity mask, and no more than its control group's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return max(1, cpus if quota == math.inf else min(cpus, math.ceil(quota)))


@functools.cache
def available_memory() -> int:
    """Bytes that this process may take: the machine's, and no more than its control group's limit."""
    found = [_MEMORY]
    with suppress(ValueError, OSError, AttributeError):
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for place in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            found += [int(word) for word in _text(place / name).split()[:1] if word.isdigit()]
    return max(min(found), 1)


@functools.cache
def _quota() -> float:
    """Processors that the control groups allow, as a fraction; infinite where none says so."""
    found = [math.inf]
    for place in _groups("cpu"):
        old = f"{_text(place / 'cpu.cfs_quota_us')} {_text(place / 'cpu.cfs_period_us')}"
        words = (_text(place / "cpu.max") or old).split()
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            found.append(int(words[0]) / int(words[1]))
    return min(found)


def _groups(controller: str) -> list[Path]:
    """The control group of this process and those above it, of version 1 and 2, as a container sees them."""
    places = [_ROOT, _ROOT / controller]
    for line in _text(_OWN).splitlines():
        _, names, path = [*line.split(":", 2), "", ""][:3]
        top = _ROOT if not names else _ROOT / controller if controller in names.split(",") else None
        if top is not None:
            inner = Path(path.lstrip("/"))
            places += [top / one for one in (inner, *inner.parents)]
    return list(dict.fromkeys(places))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


class Room:
    """Bytes that all threads together may hold. What is larger than all of it waits until it is alone.

    Whoever holds a part of one room may wait for another, always in the same order, so that nobody waits in a circle.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Hold ``size`` bytes; waits for them."""
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + size <= self.size)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


class Closing:
    """What is closed at the end of its ``with`` block."""

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def own_signals(handler: Callable[[int, FrameType | None], object] | None = None) -> Iterator[None]:
    """Whatever the block makes of SIGINT, SIGTERM and SIGHUP, afterwards they do what they did before.

    handler: called by them within, but by none that ``nohup`` has ignored. SIGINT is always heard: a shell ignores it
    in what a script starts with ``&``, which that script ends by just this. Nothing outside the main thread.
    """
    main = threading.current_thread() is threading.main_thread()
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if main}
    try:
        for number, former in before.items():
            if handler is not None and (number == signal.SIGINT or former != signal.SIG_IGN):
                signal.signal(number, handler)
        yield
    finally:
        for number, former in before.items():
            if former is not None:
                signal.signal(number, former)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Within the block, SIGINT, SIGTERM and SIGHUP set the yielded event instead of ending the process.

    See :func:`own_signals`. The second raises KeyboardInterrupt. Outside the main thread the event is never set.
    """
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    with own_signals(on_signal):
        yield stop

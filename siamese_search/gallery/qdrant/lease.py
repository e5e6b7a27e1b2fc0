"""Who builds a generation on a server: a lease in its metadata, because there is no lock there.

The builder renews it whenever it writes. One that has not been renewed for LEASE_SECONDS, or whose process is
known to have died on this machine, may be taken over.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Mapping
from typing import Any

from siamese_search.errors import StoreBusyError
from siamese_search.gallery.qdrant.generation import Generation

#: Longer than a batch takes to be embedded, shorter than anybody waits for a machine that has died.
LEASE_SECONDS = 120.0
RENEW_SECONDS = 10.0

#: This process: a number of its own, because process numbers come again (in a container it is always 1).
PROCESS = uuid.uuid4().hex


def lease() -> dict[str, Any]:
    """A lease of this process, from now on."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "process": PROCESS, "seen": int(time.time())}


def holder(builder: Mapping[str, Any], now: float | None = None) -> str | None:
    """Who holds a lease that is still good, this process included, in words; None where nobody does."""
    if not builder:
        return None
    host, pid, process = builder.get("host"), builder.get("pid"), builder.get("process")
    age = max(0.0, (time.time() if now is None else now) - float(builder.get("seen") or 0))
    if process != PROCESS:
        if age > LEASE_SECONDS:
            return None
        if host == socket.gethostname() and (pid == os.getpid() or not _alive(pid)):
            return None  # an earlier process of this number, or one that has ended
    return f"process {pid} on {host}, which was last seen {age:.0f} s ago"


def check_mine(generation: Generation) -> None:
    """Raise StoreBusyError where another process has taken the lease over."""
    if generation.builder.get("process") != PROCESS:
        who = holder(generation.builder) or "nobody"
        raise StoreBusyError(
            f"gallery {generation.gallery!r} is now being re-indexed by {who}: this run stops"
        )


def _alive(pid: object) -> bool:
    if type(pid) is not int or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

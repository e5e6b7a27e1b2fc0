"""Whereabouts: whether the file of a stored point is there, has gone, or cannot be known to have.

A point is only ever removed for a file that is certainly gone. A disk that is not mounted, a directory that may
not be entered, a server that does not answer: none of these says anything about the files behind them.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from siamese_search.datasets.records import decode_key

FSTAB = Path("/etc/fstab")

State = Literal["there", "gone", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """there: a regular file. gone: certainly no such file. unknown: the ``reason`` why nobody can tell.

    elsewhere: unknown only because the directory that the point was last seen under is not there itself.
    """

    state: State
    reason: str = ""
    elsewhere: bool = False


_THERE = Finding("there")
_GONE = Finding("gone")


def look(path: str, unmounted: Sequence[str] = ()) -> Finding:
    """What is at ``path`` (with surrogates for undecodable bytes). unmounted: :func:`unmounted_places`.

    Something else under the same name, a directory or a pipe, is not the file. A link that is there while what
    it leads to is not may lead to a disk that is not mounted: unknown.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - also takes surrogate-escaped names
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):  # noqa: PTH114
            return Finding("unknown", "a link that leads nowhere")
        for place in unmounted:
            if path.startswith(place):
                return Finding("unknown", f"{place} is not mounted")
        return _GONE
    except (OSError, ValueError) as error:
        return Finding("unknown", (getattr(error, "strerror", None) or "cannot be read").lower())
    return _THERE if stat.S_ISREG(mode) else _GONE


def find(payload: Mapping[str, Any], bases: Sequence[str], unmounted: Sequence[str] = ()) -> Finding:
    """Where the file of a stored point is: below ``bases``, the present directories of its source, or at its path.

    It is gone when it is in none of these places. Where it was last seen under another directory, and that one is
    not there at all (another machine's, or not mounted), nobody can tell.
    """
    key, path = payload.get("key"), payload.get("path")
    if not isinstance(key, str) or not isinstance(path, str):
        return Finding("unknown", "it is not known which file it is of")
    relative, stored = decode_key(key), decode_key(path)
    places = [os.path.join(base, relative) for base in bases]  # noqa: PTH118
    verdict = _GONE
    for place in places if stored in places else [*places, stored]:
        found = look(place, unmounted)
        if found.state == "there":
            return found
        if found.state == "unknown":
            verdict = found
    if verdict is _GONE and stored not in places:
        base = stored.removesuffix(f"/{relative}")
        if not os.path.isdir(base):  # noqa: PTH112
            return Finding("unknown", f"last seen below {base}, which is not there", elsewhere=True)
    return verdict


def unmounted_places(fstab: Path | None = None) -> list[str]:
    """The mount points that /etc/fstab declares and where nothing is mounted now, each with a ``/`` at its end.

    An empty list where there is no such file, as in containers.
    """
    try:
        text = os.fsdecode((FSTAB if fstab is None else fstab).read_bytes())
    except OSError:
        return []
    places = []
    for line in text.splitlines():
        columns = line.split()
        if len(columns) >= 2 and not columns[0].startswith("#") and columns[1].startswith("/"):
            place = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), columns[1])
            if not os.path.ismount(place):
                places.append(place.rstrip("/") + "/")
    return places

"""Walk a directory of images as a stream, in one order on every machine."""

from __future__ import annotations

import errno
import operator
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

from siamese_search.errors import DataError, printable
from siamese_search.io.images import IMAGE_SUFFIXES

MAX_DEPTH = 64

#: Called with what is passed over below the root (a path relative to it, as images are), and why.
Skipped = Callable[[str, str], None]

_SUFFIXES = tuple(IMAGE_SUFFIXES)


@dataclass(frozen=True, slots=True)
class PassedOver:
    """What a walk passes over: a path relative to the root, as images are, and why.

    error: what a walk that must miss nothing raises instead; ``None`` for what is no image of the root anyway.
    """

    relative: str
    reason: str
    error: DataError | None = None


def walk_images(
    root: Path, *, follow_links: bool = False, inside: bool = False, skipped: Skipped | None = None
) -> Iterator[str]:
    """Yield the image files below ``root`` as ``/``-joined relative paths, in the order of :func:`walk`.

    skipped: handed what is passed over; the walk goes on. Without it FIFOs, sockets, devices and links are passed
    over silently, and a directory that cannot be read or is nested deeper than :data:`MAX_DEPTH` raises DataError,
    as ``root`` itself always does.
    """
    for one in walk(root, follow_links=follow_links, inside=inside):
        if isinstance(one, str):
            yield one
        elif skipped is not None:
            skipped(one.relative, one.reason)
        elif one.error is not None:
            raise one.error


def walk(root: Path, *, follow_links: bool = False, inside: bool = False) -> Iterator[str | PassedOver]:
    """Yield the image files below ``root`` (undecodable bytes as surrogates), and what is passed over there.

    Entries are sorted by name within each directory, and a directory's images come where its name sorts:
    the order depends on names alone. Memory is bounded by the largest single directory.

    Names that start with a dot and names without an image suffix do not count; of the others, whatever is not a
    regular file is passed over (FIFOs, sockets, devices, broken links). Links to files count as files, with
    ``inside`` only where they lead to a file below ``root``; links to directories are followed only with
    ``follow_links``, and never into a directory that is already open above them, so a loop ends.
    Raises DataError where ``root`` itself cannot be read.
    """
    base = os.fspath(root)
    status = os.stat(base)  # noqa: PTH116 - also takes surrogate-escaped names
    above = [(status.st_dev, status.st_ino)]  # identities of the open directories, for loops
    stack = [("", iter(_entries(base, "")))]
    while stack:
        prefix, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            above.pop()
            continue
        name = entry.name
        if name.startswith("."):
            continue
        relative = prefix + name
        try:
            if entry.is_dir(follow_symlinks=follow_links):
                status = entry.stat()
                here = (status.st_dev, status.st_ino)
                if here in above:
                    yield PassedOver(relative, "a link back to a directory above it")
                elif len(stack) >= MAX_DEPTH:
                    reason = f"folders nested deeper than {MAX_DEPTH}"
                    yield PassedOver(
                        relative, reason, DataError(f"{printable(relative)}: {reason}; flatten them")
                    )
                elif isinstance(found := _entries(base, relative), PassedOver):
                    yield found
                else:
                    stack.append((relative + "/", iter(found)))
                    above.append(here)
            elif entry.is_symlink():
                refused = refused_link(base, relative, name, inside)
                if refused is None:
                    yield relative
                elif refused:
                    yield PassedOver(relative, refused)
            elif name.lower().endswith(_SUFFIXES):
                yield relative if entry.is_file() else PassedOver(relative, "not a regular file")
        except OSError as error:  # it vanished, or is a link to itself
            if error.errno == errno.ELOOP:
                yield PassedOver(relative, "a loop of symbolic links")


def link_leads_out(base: str | os.PathLike[str], relative: str) -> bool:
    """Whether the file ``relative`` lies outside ``base`` once all links are followed."""
    inside = os.path.join(os.path.realpath(base), "")  # noqa: PTH118
    return not os.path.realpath(os.path.join(base, relative)).startswith(inside)  # noqa: PTH118


def refused_link(base: str, relative: str, name: str, inside: bool) -> str | None:
    """Why a link that is not entered as a directory is passed over; ``None`` for one to an image, "" for no image."""
    path = os.path.join(base, relative)  # noqa: PTH118
    if os.path.isdir(path):  # noqa: PTH112
        return "a link to a directory, which is not followed"
    if not name.lower().endswith(_SUFFIXES):
        return ""
    try:
        os.stat(path)  # noqa: PTH116
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a loop of symbolic links"
        return "a link that leads nowhere" if error.errno == errno.ENOENT else (error.strerror or "").lower()
    if not os.path.isfile(path):  # noqa: PTH113
        return "not a regular file"
    if inside and link_leads_out(base, relative):
        return "a link that leads out of the directory, which is not followed"
    return None


@overload
def _entries(base: str, relative: Literal[""]) -> list[os.DirEntry[str]]: ...
@overload
def _entries(base: str, relative: str) -> list[os.DirEntry[str]] | PassedOver: ...
def _entries(base: str, relative: str) -> list[os.DirEntry[str]] | PassedOver:
    """A directory's entries, sorted by name. Of the root, DataError where it cannot be read."""
    directory = os.path.join(base, relative)  # noqa: PTH118 - hot in scans
    try:
        with os.scandir(directory) as found:
            return sorted(found, key=operator.attrgetter("name"))
    except (FileNotFoundError, NotADirectoryError):
        if relative:
            return []  # removed or replaced while we walked
        raise DataError(f"{printable(directory)}: no such directory; check the path") from None
    except OSError as error:
        reason = error.strerror or str(error)
        failed = DataError(
            f"{printable(directory)}: cannot be read ({reason}); fix its permissions or move it away"
        )
        if not relative:
            raise failed from None
        return PassedOver(relative, f"the directory cannot be read ({reason.lower()})", failed)

"""Walk a directory of images as a stream, in one order on every machine."""

from __future__ import annotations

import errno
import operator
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from siamese_search.errors import DataError, printable
from siamese_search.images import IMAGE_SUFFIXES

MAX_DEPTH = 64

#: Called with what is passed over below the root (a path relative to it, as images are), and why.
Skipped = Callable[[str, str], None]

_SUFFIXES = tuple(IMAGE_SUFFIXES)


def walk_images(
    root: Path, *, follow_links: bool = False, inside: bool = False, skipped: Skipped | None = None
) -> Iterator[str]:
    """Yield the image files below ``root`` as ``/``-joined relative paths (undecodable bytes as surrogates).

    Entries are sorted by name within each directory, and a directory's images come where its name sorts:
    the order depends on names alone. Memory is bounded by the largest single directory.

    Names that start with a dot and names without an image suffix are skipped, and so is whatever is not a
    regular file (FIFOs, sockets, devices, broken links). Links to files count as files, with ``inside`` only
    where they lead to a file below ``root``; links to directories are followed only with ``follow_links``, and
    never into a directory that is already open above them, so a loop ends.

    skipped: handed each FIFO, socket, device and link that is passed over, and each directory that cannot be
    read or is nested deeper than :data:`MAX_DEPTH`; the walk goes on. Without it the former are passed over
    silently, and such a directory raises DataError, as ``root`` itself always does.
    """
    base = os.fspath(root)
    status = os.stat(base)  # noqa: PTH116 - also takes surrogate-escaped names
    above = [(status.st_dev, status.st_ino)]  # identities of the open directories, for loops
    stack = [("", iter(_entries(base, "", None)))]
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
                    if skipped is not None:
                        skipped(relative, "a link back to a directory above it")
                    continue
                if len(stack) >= MAX_DEPTH:
                    reason = f"folders nested deeper than {MAX_DEPTH}"
                    if skipped is None:
                        raise DataError(f"{printable(relative)}: {reason}; flatten them")
                    skipped(relative, reason)
                    continue
                stack.append((relative + "/", iter(_entries(base, relative, skipped))))
                above.append(here)
            elif entry.is_symlink():
                refused = refused_link(base, relative, name, inside)
                if refused is None:
                    yield relative
                elif refused and skipped is not None:
                    skipped(relative, refused)
            elif name.lower().endswith(_SUFFIXES):
                if entry.is_file():
                    yield relative
                elif skipped is not None:
                    skipped(relative, "not a regular file")
        except OSError as error:  # it vanished, or is a link to itself
            if error.errno == errno.ELOOP and skipped is not None:
                skipped(relative, "a loop of symbolic links")


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


def _entries(base: str, relative: str, skipped: Skipped | None) -> list[os.DirEntry[str]]:
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
        if skipped is not None and relative:
            skipped(relative, f"the directory cannot be read ({reason.lower()})")
            return []
        raise DataError(
            f"{printable(directory)}: cannot be read ({reason}); fix its permissions or move it away"
        ) from None

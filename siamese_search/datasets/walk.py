"""Walk a directory of images as a stream, in one order on every machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from siamese_search.errors import DataError, printable
from siamese_search.images import is_image_name

MAX_DEPTH = 64

#: Called with a directory below the root that is passed over (relative, as images are), and why.
Skipped = Callable[[str, str], None]


def walk_images(root: Path, *, follow_links: bool = False, skipped: Skipped | None = None) -> Iterator[str]:
    """Yield the image files below ``root`` as ``/``-joined relative paths (undecodable bytes as surrogates).

    Entries are sorted by name within each directory, and a directory's images come where its name sorts:
    the order depends on names alone. Memory is bounded by the largest single directory.

    Names that start with a dot and names without an image suffix are skipped, and so is whatever is not a
    regular file (FIFOs, sockets, devices, broken links). Links to files count as files; links to directories
    are followed only with ``follow_links``, and never into a directory that is already open above them, so a
    loop ends.

    A directory that cannot be read, or is nested deeper than :data:`MAX_DEPTH`, raises DataError; with
    ``skipped`` one below the root is handed to it instead, and the walk goes on.
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
        if entry.name.startswith("."):
            continue
        relative = prefix + entry.name
        try:
            if entry.is_dir(follow_symlinks=follow_links):
                status = entry.stat()
                here = (status.st_dev, status.st_ino)
                if here in above:
                    continue
                if len(stack) >= MAX_DEPTH:
                    reason = f"folders nested deeper than {MAX_DEPTH}"
                    if skipped is None:
                        raise DataError(f"{printable(relative)}: {reason}; flatten them")
                    skipped(relative, reason)
                    continue
                stack.append((relative + "/", iter(_entries(base, relative, skipped))))
                above.append(here)
            elif is_image_name(entry.name) and entry.is_file():
                yield relative
        except OSError:
            continue  # it vanished, or is a link that leads nowhere


def _entries(base: str, relative: str, skipped: Skipped | None) -> list[os.DirEntry[str]]:
    directory = os.path.join(base, relative)  # noqa: PTH118 - hot in scans
    try:
        with os.scandir(directory) as found:
            return sorted(found, key=lambda entry: entry.name)
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

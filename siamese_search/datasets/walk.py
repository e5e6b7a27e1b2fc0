"""Walk a directory of images as a stream, in one order on every machine."""

from __future__ import annotations

import errno
import operator
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from siamese_search.errors import DataError, printable
from siamese_search.io.images import is_image_name
from siamese_search.io.signatures import is_own_picture, may_be_image, refused_file

MAX_DEPTH = 64

#: Called with what is passed over below the root (a path relative to it, as images are), and why.
Skipped = Callable[[str, str], None]

#: Folders in which a system keeps thumbnails and what was deleted: of Synology, QNAP, Windows and so on.
_SYSTEM_FOLDERS = frozenset(
    {"@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@sharebin", "@tmp", "$recycle.bin"}
    | {"recycler", "recycled", "system volume information", "lost+found", "found.000", "~snapshot", "__macosx"}
    | {"network trash folder", "temporary items", "files_trashbin", "trashbox", "recycle bin", "recycle.bin"}
    | {"@__thumb", "@appstore", "@synodrive", "@synologydrive", "@synologydrivesharesync", "@transcode"}
)


def is_system_folder(name: str) -> bool:
    """Whether a folder of this name holds a system's thumbnails or deleted files, which are no images of the root."""
    return name.lower() in _SYSTEM_FOLDERS


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

    skipped: handed what is passed over. Without it a directory that cannot be read or is nested deeper than
    :data:`MAX_DEPTH` raises DataError, as ``root`` itself always does.
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

    The order depends on names alone; memory is bounded by the largest single directory. Hidden names do not count, nor
    files that are no images by suffix or first bytes, nor sheets that were drawn here. What is not a regular file or of
    a format that is not read is passed over. Links to files count as files, with ``inside`` only where they lead below
    ``root``; links to directories are followed only with ``follow_links``, and a loop ends. A system's folders
    (:func:`is_system_folder`) are named once per name, at the end. Raises DataError where ``root`` cannot be read.
    """
    base = os.fspath(root)
    status = os.stat(base)  # noqa: PTH116 - also takes surrogate-escaped names
    above = [(status.st_dev, status.st_ino)]  # identities of the open directories, for loops
    first = _entries(base, "")
    if isinstance(first, PassedOver):
        raise first.error or DataError(first.reason)
    stack = [("", iter(first))]
    system = SystemFolders()
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
                if is_system_folder(name):
                    system.add(relative)
                    continue
                status = entry.stat()
                here = (status.st_dev, status.st_ino)
                if here in above:
                    yield PassedOver(relative, "a link back to a directory above it")
                elif len(stack) >= MAX_DEPTH:
                    reason = f"folders nested deeper than {MAX_DEPTH}"
                    yield PassedOver(relative, reason, DataError(f"{printable(relative)}: {reason}; flatten them"))
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
            elif entry.is_file():
                # What has an image's suffix is not asked for: a scan comes by 20,000 files a second.
                refused = None if is_image_name(name) else refused_file(os.path.join(base, relative), name)  # noqa: PTH118
                if refused is None and not is_own_picture(base, relative):
                    yield relative
                elif refused:
                    yield PassedOver(relative, refused)
            elif is_image_name(name):
                yield PassedOver(relative, "not a regular file")
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link to itself
                yield PassedOver(relative, "a loop of symbolic links")
            elif error.errno not in (errno.ENOENT, errno.ENOTDIR):  # those vanished
                yield _unreadable(base, relative, error, "it")
    yield from system.passed_over()


class SystemFolders:
    """Those that were passed over, to be named once per name: of a NAS every folder has one."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._count: Counter[str] = Counter()
        self._last = ""

    def add(self, relative: str) -> None:
        """One more, or the last one again."""
        if relative != self._last:
            name = relative.rpartition("/")[2]
            self._first.setdefault(name, relative)
            self._count[name] += 1
            self._last = relative

    def passed_over(self) -> Iterator[PassedOver]:
        """The first of each name, with how many there are."""
        for name, first in self._first.items():
            count = self._count[name]
            others = f", like {count - 1} more called {printable(name)}" if count > 1 else ""
            yield PassedOver(first, f"a folder of the system's thumbnails or deleted files{others}: not entered")


def link_leads_out(base: str | os.PathLike[str], relative: str) -> bool:
    """Whether the file ``relative`` lies outside ``base`` once all links are followed."""
    inside = os.path.join(os.path.realpath(base), "")  # noqa: PTH118
    return not os.path.realpath(os.path.join(base, relative)).startswith(inside)  # noqa: PTH118


def refused_link(base: str, relative: str, name: str, inside: bool) -> str | None:
    """Why a link that is not entered as a directory is passed over; ``None`` for one to an image, "" for no image."""
    path = os.path.join(base, relative)  # noqa: PTH118
    if os.path.isdir(path):  # noqa: PTH112
        return "a link to a directory, which is not followed"
    if not may_be_image(name):
        return ""
    try:
        os.stat(path)  # noqa: PTH116
    except OSError as error:
        if "." in name and not is_image_name(name):  # without a suffix it was a folder of images, for all we know
            return ""
        if error.errno == errno.ELOOP:
            return "a loop of symbolic links"
        return "a link that leads nowhere" if error.errno == errno.ENOENT else (error.strerror or "").lower()
    if not os.path.isfile(path):  # noqa: PTH113
        return "not a regular file" if is_image_name(name) else ""
    refused = refused_file(path, name)
    if refused is None and inside and link_leads_out(base, relative):
        return "a link that leads out of the directory, which is not followed"
    return refused


def _entries(base: str, relative: str) -> list[os.DirEntry[str]] | PassedOver:
    """A directory's entries, sorted by name. Of the root, DataError where it is not there."""
    directory = os.path.join(base, relative)  # noqa: PTH118 - hot in scans
    try:
        with os.scandir(directory) as found:
            return sorted(found, key=operator.attrgetter("name"))
    except (FileNotFoundError, NotADirectoryError):
        if relative:
            return []  # removed or replaced while we walked
        raise DataError(f"{printable(directory)}: no such directory; check the path") from None
    except OSError as error:
        return _unreadable(base, relative, error, "the directory")


def _unreadable(base: str, relative: str, error: OSError, what: str) -> PassedOver:
    reason = error.strerror or str(error)
    path = printable(os.path.join(base, relative))  # noqa: PTH118
    failed = DataError(f"{path}: cannot be read ({reason}); fix its permissions or move it away")
    return PassedOver(relative, f"{what} cannot be read ({reason.lower()})", failed)

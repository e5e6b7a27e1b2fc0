"""Remove the points of files that have been deleted, which is an event here and not just an absence."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from ingest.watching.locate import Locator
from siamese_search.datasets.records import decode_key, label_text
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.filters import Condition

#: Points per call of the gallery.
_CHUNK = 1000


def remove_files(gallery: Gallery, locator: Locator, paths: Iterable[str]) -> int:
    """Remove the points of these files (relative to the root's base); the number that there were."""
    ids = (locator.point(path) for path in paths if not locator.shared(path))
    return _delete(gallery, ids)


def remove_below(gallery: Gallery, locator: Locator, directories: Sequence[str]) -> int:
    """Remove the points of everything that was below directories that are gone; their number.

    One pass over the points of the root's source (of the identities concerned, where folders are identities),
    because a directory that was moved away tells of itself only. Files that are still there keep their point.
    """
    fields = gallery.fields()
    if "source" not in fields or not directories:
        return 0
    where = [Condition("source", "=", (locator.source,))]
    if locator.survey.detection.layout == "folders" and fields.get("identity") == "str":
        names = sorted({label_text(directory.partition("/")[0]) for directory in directories})
        where.append(Condition("identity", "=", tuple(names)))
    gone = set(directories)

    def below() -> Iterator[str]:
        for point in gallery.scroll(where, fields=["key"]):
            path = decode_key(point.key)
            is_below = any(parent in gone for parent in parents(path))
            if is_below and not locator.shared(path) and absent(os.path.join(locator.base, path)):  # noqa: PTH118
                yield point.id

    # Collected first: a scroll need not go on undisturbed by what is deleted under it.
    return _delete(gallery, list(below()))


def absent(path: str) -> bool:
    """Whether there is certainly nothing at ``path``: a disk that fails or a door that is shut proves nothing."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def parents(path: str) -> Iterator[str]:
    """The directories above a relative path, nearest first; without the root itself."""
    while path := path.rpartition("/")[0]:
        yield path


def _delete(gallery: Gallery, ids: Iterable[str]) -> int:
    removed = 0
    stream = iter(ids)
    while chunk := list(islice(stream, _CHUNK)):
        there = [point.id for point in gallery.retrieve(chunk) if point is not None]
        if there:
            gallery.delete(there)
            removed += len(there)
    if removed:
        gallery.flush()
    return removed

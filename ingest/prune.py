"""Prune: remove the points of files that have gone, and of no others.

Each point's file is looked for by its own path, not among what the scan has found: what a scan did not come by (an
unreadable directory, a failing disk) is not gone. Whatever is doubtful is kept, and where much is doubtful or much
would go, nothing is removed at all.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import IO

from ingest.shards import Shard
from ingest.whereabouts import find, unmounted_places
from siamese_search.datasets.layouts import Survey
from siamese_search.datasets.records import encode_key
from siamese_search.errors import printable
from siamese_search.gallery.base import Gallery
from siamese_search.gallery.filters import Condition

#: Of one source's points more than this share is not believed to have gone.
MOST_GONE = 0.2
#: Points per call of the gallery.
_BATCH = 1000
#: Bytes of ids that are kept in memory, 37 each; further ones go to a temporary file.
_SPOOL_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Place:
    """A directory whose files are the points of ``source``, and which directory that was: device and inode."""

    source: str
    base: str
    identity: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Pruned:
    """removed: points. refused: why none were, or no more; ``None`` when all that has gone was removed."""

    removed: int = 0
    refused: str | None = None


@dataclass(slots=True)
class _Count:
    points: int = 0
    gone: int = 0
    unknown: int = 0
    first: str = ""


def places_of(surveys: Sequence[Survey], source: str | None = None) -> list[Place]:
    """Where the roots' points come from; to be asked before the scan. source: as for ``scan_files``."""
    places = []
    for survey in surveys:
        base = os.path.realpath(survey.detection.base)
        places.append(Place(source or encode_key(base), base, _identity(base)))
    return places


def prune(
    gallery: Gallery, places: Sequence[Place], *, anyway: bool = False, shard: Shard | None = None
) -> Pruned:
    """Remove the points of these places' sources whose file has gone. Points of other sources are not touched.

    Nothing is removed when a place is missing, empty or not the directory that it was (its disk was unmounted
    meanwhile); when a file cannot be looked for (an unreadable directory, a link that leads nowhere, a mount point
    of /etc/fstab without its disk); when it was last seen under a directory that is not there; or when more than
    :data:`MOST_GONE` of a source's points would go.

    anyway: remove what has gone in spite of the last rule, what was last seen under a directory that is not there,
    and leave out (instead of refusing) what cannot be looked for. A missing or empty place is refused all the same.

    shard: remove only its points; the others are another worker's to remove. Whether to remove any is asked of all
    points of the source nevertheless, as one run would: of a few files a fifth soon goes by chance, and what others
    have pruned or added meanwhile only makes the share that has gone smaller.

    Memory: bounded; the ids wait in a temporary file. A kill on the way leaves the rest to the next call.
    """
    if (reason := _fallen(places)) is not None:
        return Pruned(refused=reason)
    if gallery.fields().get("source") != "str":
        return Pruned()
    bases: dict[str, list[str]] = {}
    for place in places:
        bases.setdefault(place.source, []).append(place.base)
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES, "w+", encoding="ascii") as spool:
        for source, directories in bases.items():
            count = _gather(gallery, source, directories, spool, anyway, shard)
            if not anyway and (reason := _doubt(source, count)) is not None:
                return Pruned(refused=reason)
        spool.seek(0)
        return _remove(gallery, places, (line.rstrip() for line in spool))


def _gather(
    gallery: Gallery,
    source: str,
    bases: Sequence[str],
    spool: IO[str],
    anyway: bool,
    shard: Shard | None,
) -> _Count:
    """Write the ids of the points of ``source`` whose file has gone, a line each; of a shard only its own."""
    count = _Count()
    unmounted = unmounted_places()
    where = [Condition("source", "=", (source,))]
    for point in gallery.scroll(where, fields=["key", "path"]):
        count.points += 1
        found = find(point.payload, bases, unmounted)
        if found.state == "gone" or (anyway and found.elsewhere):
            count.gone += 1
            if shard is None or shard.has(str(point.payload.get("key"))):
                spool.write(f"{point.id}\n")
        elif found.state == "unknown":
            count.unknown += 1
            count.first = (
                count.first or f"{printable(str(point.payload.get('path')))}: {printable(found.reason)}"
            )
    return count


def _doubt(source: str, count: _Count) -> str | None:
    """Why what was counted should not be believed."""
    name = printable(source)
    if count.unknown:
        files = "a file" if count.unknown == 1 else f"{count.unknown} files"
        return (
            f"{files} of {name} cannot be looked for ({'the first is ' * (count.unknown > 1)}{count.first});"
            " mend that, or leave such files out with --prune-anyway"
        )
    if count.gone > MOST_GONE * count.points:
        return (
            f"{count.gone} of the {count.points} images of {name} have gone, which is more than {MOST_GONE:.0%};"
            " if that is right, say --prune-anyway"
        )
    return None


def _remove(gallery: Gallery, places: Sequence[Place], ids: Iterator[str]) -> Pruned:
    removed = 0
    while batch := list(islice(ids, _BATCH)):
        # A disk that was unmounted since the look makes no file of it any less there, but the look is then in doubt.
        if (reason := _fallen(places)) is not None:
            gallery.flush()
            return Pruned(removed, reason)
        gallery.delete(batch)
        removed += len(batch)
    if removed:
        gallery.flush()
    return Pruned(removed)


def _fallen(places: Sequence[Place]) -> str | None:
    """Why a place cannot vouch for its files."""
    for place in places:
        name = printable(place.base)
        try:
            identity = _identity(place.base)
            with os.scandir(place.base) as entries:
                empty = next(entries, None) is None
        except OSError as error:
            return f"{name} cannot be read ({(error.strerror or 'no reason given').lower()})"
        if identity is None or identity != place.identity:
            return f"{name} is not the directory that it was when the run began; is its disk still mounted?"
        if empty:
            return f"{name} is empty; is its disk mounted?"
    return None


def _identity(base: str) -> tuple[int, int] | None:
    try:
        status = os.stat(base)  # noqa: PTH116 - takes surrogates
    except OSError:
        return None
    return status.st_dev, status.st_ino

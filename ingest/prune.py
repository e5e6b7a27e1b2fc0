"""Prune: remove the points of files that have gone, and of no others.

Each point's file is looked for by its own path, not among what the scan has found: what a scan did not come by (an
unreadable directory, a failing disk, one that is not mounted, a server that does not answer) is not gone. Whatever is
doubtful is kept, and where much is doubtful or much would go, nothing is removed at all.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from ingest.scan import Shard
from ingest.summary import LeftBehind
from siamese_search.datasets.layouts import Survey
from siamese_search.datasets.records import decode_key
from siamese_search.datasets.remote_survey import RemoteSurvey
from siamese_search.errors import amount, printable
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.filters import Condition
from siamese_search.gallery.payload import LABELLED
from siamese_search.io.location import protocol_of

FSTAB = Path("/etc/fstab")

State = Literal["there", "gone", "unknown"]

#: Of one source's points more than this share is not believed to have gone.
MOST_GONE = 0.2
#: Where disks come and go together with their directories; of the last ones in a directory for each user.
_MOUNTS = ("/mnt", "/Volumes", "/media", "/run/media")
#: Points that have gone whose vectors are looked for among the others.
_MOST_RENAMED = 100_000
_CONTENT = ("size", "crc")
#: Points per call of the gallery.
_BATCH = 1000
#: Bytes of ids that are kept in memory, 37 each; further ones go to a temporary file.
_SPOOL_BYTES = 1 << 22


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
_NAMELESS = Finding("unknown", "it is not known which file it is of")


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
        place = next(filter(path.startswith, unmounted), None)
        return _GONE if place is None else Finding("unknown", f"{place} is not mounted")
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
        return _NAMELESS
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


def unmounted_places() -> list[str]:
    """The mount points that /etc/fstab declares and where nothing is mounted now, each with a ``/`` at its end.

    An empty list where there is no such file, as in containers.
    """
    try:
        text = os.fsdecode(FSTAB.read_bytes())
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


@dataclass(frozen=True, slots=True)
class Place:
    """A directory whose files are the points of ``source``, and which directory that was: device and inode.

    keys: of a place that is not on this machine, all that its listing has; the listing was complete, and is believed.
    gone: it was not there, and the user has said that all that was in it has gone.
    """

    source: str
    base: str
    identity: tuple[int, int] | None
    keys: frozenset[str] | None = None
    gone: bool = False


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
    renamed: int = 0
    first: str = ""
    contents: Counter[tuple[Any, Any]] = field(default_factory=Counter)


def places_of(surveys: Sequence[Survey], source: str | None = None, *, listed: bool = True) -> list[Place]:
    """Where the roots' points come from; to be asked before the scan. source: as for ``scan_files``.

    listed: with the keys of remote roots, which only pruning needs.
    """
    places = []
    for survey in surveys:
        if isinstance(survey, RemoteSurvey):
            keys = frozenset(survey.keys()) if listed else frozenset()
            places.append(Place(source or survey.source, survey.url, None, keys))
            continue
        base = os.path.realpath(survey.detection.base)
        gone = survey.images == 0 and not os.path.lexists(base)
        places.append(Place(source or survey.source, base, directory_identity(base), gone=gone))
    return places


def prune(gallery: Gallery, places: Sequence[Place], *, anyway: bool = False, shard: Shard | None = None) -> Pruned:
    """Remove the points of these places' sources whose file has gone. Points of other sources are not touched.

    Nothing is removed when a place is missing, empty or not the directory that it was (its disk was unmounted
    meanwhile); when a file cannot be looked for (an unreadable directory, a link that leads nowhere, a mount point
    of /etc/fstab without its disk); when it was last seen under a directory that is not there; or when more than
    :data:`MOST_GONE` of a source's points would go, those apart whose file is there by another name: of the same size,
    and with a vector of the same bits, as after a rename.

    anyway: remove what has gone in spite of the last rule, what was last seen under a directory that is not there,
    and leave out (instead of refusing) what cannot be looked for. An empty place is refused all the same, and one that
    is missing unless it was deleted, as far as the directory above it can tell.

    shard: remove only its points; the others are another worker's to remove. Whether to remove any is asked of all
    points of the source nevertheless, as one run would: of a few files a fifth soon goes by chance, and what others
    have pruned or added meanwhile only makes the share that has gone smaller.

    Memory: bounded; the ids wait in a temporary file. A kill on the way leaves the rest to the next call.
    """
    if (reason := _fallen(places)) is not None:
        return Pruned(refused=reason)
    if gallery.fields().get("source") != "str":
        return Pruned()
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES, "w+", encoding="ascii") as spool:
        for source in dict.fromkeys(place.source for place in places):
            theirs = [place for place in places if place.source == source]
            count = _gather(gallery, source, theirs, spool, anyway, shard)
            if not anyway and count.gone > MOST_GONE * count.points:
                count.renamed = _renamed(gallery, source, count.contents)
            if not anyway and (reason := _doubt(source, count)) is not None:
                return Pruned(refused=reason)
        spool.seek(0)
        return _remove(gallery, places, (line.rstrip() for line in spool))


def _gather(
    gallery: Gallery, source: str, places: Sequence[Place], spool: IO[str], anyway: bool, shard: Shard | None
) -> _Count:
    """Write the ids of the points of ``source`` whose file has gone, a line each; of a shard only its own."""
    count = _Count()
    bases = [place.base for place in places if place.keys is None]
    remote = [place for place in places if place.keys is not None]
    unmounted = unmounted_places()
    where = [Condition("source", "=", (source,))]
    for point in gallery.scroll(where, fields=["key", "path", *_CONTENT, LABELLED]):
        count.points += 1
        found = find_listed(point.payload, remote) if remote else None
        if found is None or (found.state != "there" and bases):
            local = find(point.payload, bases, unmounted)
            # Of an object that was in a listing before, no local directory says that it may still be there.
            found = local if found is None or not local.elsewhere else found
        if found.state == "gone" or (anyway and found.elsewhere):
            count.gone += 1
            # What a person has set would be lost with the old name.
            if LABELLED not in point.payload and len(count.contents) < _MOST_RENAMED:
                count.contents[_content(point.payload)] += 1
            if shard is None or shard.has(point.key):
                spool.write(f"{point.id}\n")
        elif found.state == "unknown":
            count.unknown += 1
            count.first = count.first or f"{printable(str(point.payload.get('path')))}: {printable(found.reason)}"
    return count


def _content(payload: Mapping[str, Any]) -> tuple[Any, Any]:
    return payload.get("size"), payload.get("crc")


def _renamed(gallery: Gallery, source: str, gone: Counter[tuple[Any, Any]]) -> int:
    """How many of the points that have gone (by content) are there once more, by another name."""
    points = gallery.scroll([Condition("source", "=", (source,))], fields=list(_CONTENT))
    there = Counter(content for point in points if (content := _content(point.payload)) in gone)
    return sum(min(count, there[content] - count) for content, count in gone.items())


def left_behind(gallery: Gallery, places: Sequence[Place], surveys: Sequence[Survey], stored: int) -> LeftBehind:
    """What the gallery holds of these sources beyond the ``stored`` files of a whole scan; looked for only if more."""
    sources = tuple({place.source for place in places if place.keys is None})
    if not sources or gallery.fields().get("source") != "str":
        return LeftBehind()
    where = [Condition("source", "=", sources)]
    if gallery.count(where) <= stored:
        return LeftBehind()
    bases: dict[str, list[str]] = {source: [] for source in sources}
    listed: dict[str, set[int] | None] = {}
    for place, survey in zip(places, surveys, strict=True):
        if place.keys is None:
            bases[place.source].append(place.base)
            known = listed.setdefault(place.source, set())
            if survey.rows is None:
                listed[place.source] = None  # a directory: whatever is there was come by
            elif known is not None:
                known.update(hash(record.key) for record in survey.rows)
    unmounted = unmounted_places()
    left = LeftBehind()
    for point in gallery.scroll(where, fields=["source", "key", "path"]):
        state = find(point.payload, bases[point.source], unmounted).state
        keys = listed[point.source]
        path = printable(point.place)
        if state == "gone":
            left = replace(left, gone=left.gone + 1, gone_example=left.gone_example or path)
        elif state == "there" and keys is not None and hash(point.key) not in keys:
            left = replace(left, unlisted=left.unlisted + 1, unlisted_example=left.unlisted_example or path)
    return left


def _doubt(source: str, count: _Count) -> str | None:
    """Why what was counted should not be believed."""
    name = printable(source)
    if count.unknown:
        return (
            f"{amount(count.unknown, 'file')} of {name} cannot be looked for"
            f" ({'the first is ' * (count.unknown > 1)}{count.first}); mend that, or leave such files out with"
            " --prune-anyway"
        )
    if count.gone - count.renamed > MOST_GONE * count.points:
        return (
            f"{count.gone} of the {amount(count.points, 'image')} of {name} have gone, which is more than"
            f" {MOST_GONE:.0%}; if that is right, say --prune-anyway"
        )
    return None


def find_listed(payload: Mapping[str, Any], places: Sequence[Place]) -> Finding:
    """Where the object of a stored point is: in one of the listings, or nowhere.

    One that was last seen below another URL, whose listing nobody has read, may still be there.
    """
    key, path = payload.get("key"), payload.get("path")
    if not isinstance(key, str) or not isinstance(path, str):
        return _NAMELESS
    if any(place.keys is not None and key in place.keys for place in places):
        return _THERE
    stored = decode_key(path)
    if any(stored.startswith(f"{place.base}/") for place in places) or protocol_of(stored) is None:
        return _GONE
    return Finding("unknown", f"last seen as {stored}, which was not listed", elsewhere=True)


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
        if place.keys is not None:
            continue
        name = printable(place.base)
        if place.gone:
            if not _parent_tells(place.base):
                return f"{name} is not there, and nor may its disk be"
            continue
        try:
            identity = directory_identity(place.base)
            with os.scandir(place.base) as entries:
                empty = next(entries, None) is None
        except OSError as error:
            return f"{name} cannot be read ({(error.strerror or 'no reason given').lower()})"
        if identity is None or identity != place.identity:
            return f"{name} is not the directory that it was when the run began; is its disk still mounted?"
        if empty:
            return f"{name} is empty; is its disk mounted? If its images have gone for good, delete the directory too"
    return None


def _parent_tells(base: str) -> bool:
    """Whether the directory above says that one was deleted: it holds other things, and no disks are mounted there."""
    parent = os.path.dirname(base)  # noqa: PTH120
    if os.path.lexists(base) or parent in _MOUNTS or os.path.dirname(parent) in _MOUNTS[2:]:  # noqa: PTH120
        return False
    return not any(f"{base}/".startswith(place) for place in unmounted_places()) and holds_files(parent)


def holds_files(directory: str) -> bool:
    """Whether a directory is there, can be read, and has anything in it."""
    with suppress(OSError), os.scandir(directory) as entries:
        return next(entries, None) is not None
    return False


def directory_identity(directory: str, follow_links: bool = True) -> tuple[int, int] | None:
    """(device, inode) of a directory; ``None`` for everything else, links too unless they are followed."""
    try:
        status = os.stat(directory, follow_symlinks=follow_links)  # noqa: PTH116 - takes surrogates
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None

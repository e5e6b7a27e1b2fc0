"""Locator: paths below a surveyed root become what a scan of the root would make of them, or what is removed.

A path gets the same key, source, identity, camera and metadata as :func:`ingest.scan.scan_files` gives it, and a path
that a scan passes over (hidden, no image, behind a link to a directory) is passed over here too. A file that has been
deleted is an event here and not just an absence.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from ingest.options import WatchOptions
from ingest.prune import directory_identity
from ingest.scan import ScannedFile, passed_file, scanned_file
from siamese_search.datasets.layouts import Survey, survey
from siamese_search.datasets.records import ImageRecord, decode_key, encode_key, label_text, point_id
from siamese_search.datasets.walk import MAX_DEPTH, PassedOver, is_system_folder, refused_link, walk, walk_images
from siamese_search.errors import printable
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.filters import Condition
from siamese_search.io.images import is_image_name
from siamese_search.io.signatures import is_own_picture, may_be_image, refused_file
from siamese_search.options import layout_of


class Locator:
    """The images of one root by their path.

    source: as for ``scan_files``. others: the directories of other roots under the same source, in which a file
    of the same name would be the same point: such a file is refused, and its removal is not this root's.
    All paths here are relative to ``base``, with undecodable bytes as surrogates.
    """

    def __init__(self, survey: Survey, source: str | None = None, others: Sequence[str] = ()) -> None:
        self.survey = survey
        self.base = os.path.realpath(survey.detection.base)
        self.source = source or encode_key(self.base)
        self._others = others

    def locate(self, paths: Iterable[str]) -> list[ScannedFile]:
        """The images among ``paths``, which are thought to be there; those that are not are left out.

        For a CSV one pass over its rows, without a look at the files that are not asked for.
        Raises DataError for a CSV that can no longer be read.
        """
        if self.survey.rows is not None:
            wanted = {encode_key(path) for path in paths}
            found = [self._scanned(row) for row in self.survey.rows if row.key in wanted]
        else:
            walkable = functools.cache(self.walkable)
            places = ((path, *path.rpartition("/")) for path in paths)
            found = [
                self._placed(path, name)
                for path, directory, _, name in places
                if not name.startswith(".") and may_be_image(name) and walkable(directory)
            ]
        return [one for one in found if one is not None]

    def below(self, directory: str) -> Iterator[str]:
        """What lies below a directory, as far as a scan of the root would come by it and tell."""
        prefix = f"{directory}/"
        if self.survey.rows is not None:
            for record in self.survey.rows:
                path = self.relative(record.path)
                if path.startswith(prefix):
                    yield path
        elif self.walkable(directory):
            for one in walk(Path(self.base, directory), follow_links=self.survey.follow_links):
                path = one if isinstance(one, str) else one.relative
                if prefix.count("/") + path.count("/") < MAX_DEPTH:
                    yield prefix + path

    def walkable(self, directory: str) -> bool:
        """Whether a scan would enter this directory: no part of it is hidden, the system's, a link, or too deep."""
        parts = directory.split("/") if directory else []
        if len(parts) >= MAX_DEPTH or any(part.startswith(".") or is_system_folder(part) for part in parts):
            return False
        links = self.survey.follow_links
        here, above = self.base, set()
        for part in parts:
            above.add(directory_identity(here, links))
            here = os.path.join(here, part)  # noqa: PTH118
            identity = directory_identity(here, links)
            if identity is None or identity in above:
                return False
        return True

    def relative(self, path: os.PathLike[str]) -> str:
        """The path below the base of a record's file."""
        return os.fspath(path)[len(os.path.join(self.survey.detection.base, "")) :]  # noqa: PTH118

    def point(self, path: str) -> str:
        """The id of the point that this path has, or had."""
        return point_id(self.source, encode_key(path))

    def shared(self, path: str) -> bool:
        """Whether another root has a file of this name: with one source for both, they are the same point."""
        return any(os.path.lexists(os.path.join(other, path)) for other in self._others)  # noqa: PTH118

    def _placed(self, path: str, name: str) -> ScannedFile | None:
        """One image name in a directory that a scan enters."""
        refused = self._refused(path, name)
        if refused == "":
            return None
        record = self.survey.record_of(path) if refused is None else PassedOver(path, refused)
        if isinstance(record, PassedOver):
            return passed_file(record, Path(self.base, path), self.source)
        return self._scanned(record)

    def _refused(self, path: str, name: str) -> str | None:
        """Why a scan would not take it for an image; "" where it would not even mention it, ``None``: it would."""
        full = os.path.join(self.base, path)  # noqa: PTH118
        links = self.survey.follow_links
        try:
            mode = os.stat(full, follow_symlinks=False).st_mode  # noqa: PTH116 - takes surrogates
        except OSError:
            return ""
        if stat.S_ISLNK(mode):
            return "" if links and os.path.isdir(full) else refused_link(self.base, path, name, not links)  # noqa: PTH112
        if stat.S_ISREG(mode):
            return "" if is_own_picture(self.base, path) else refused_file(full, name)
        return "not a regular file" if is_image_name(name) and not stat.S_ISDIR(mode) else ""

    def _scanned(self, record: ImageRecord) -> ScannedFile | None:
        scanned = scanned_file(record, self.source)
        if scanned.reason == "no such file":
            return None
        if self._others and self.shared(self.relative(record.path)):
            scanned.reason = f"another directory has a file of this name under the same source {self.source!r}"
        return scanned


#: (level, event, message): ``level`` is info or warning, ``event`` a word for programs.
Say = Callable[[Literal["info", "warning"], str, str], None]


def has_images(root: Path, follow_links: bool) -> bool:
    """Whether a directory has any."""
    found = walk_images(root, follow_links=follow_links, inside=not follow_links, skipped=lambda *_: None)
    return next(found, None) is not None


def locator_of(
    root: Path, options: WatchOptions, others: Sequence[str], say: Say, former: Locator | None = None
) -> Locator:
    """What a survey finds there now, and says: ``former`` itself, where the layout is still that one's.

    Raises DataError, as :func:`~siamese_search.datasets.layouts.survey`.
    """
    found = survey(
        root, layout_of(options), images_root=options.base(), follow_links=options.follow_links, lenient=True
    )
    layout, reason = found.detection.layout, found.detection.reason
    if former is not None and layout == former.survey.detection.layout:
        return former
    say("info", "layout", f"{printable(root)}: layout {layout}: {reason}")
    return Locator(found, options.source, others)


def remove_files(gallery: Gallery, locator: Locator, paths: Iterable[str]) -> int:
    """Remove the points of these files (relative to the root's base); the number that there were."""
    return _delete(gallery, [locator.point(path) for path in paths if not locator.shared(path)])


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

    return _delete(gallery, list(below()))  # first all: a scroll need not go on undisturbed by what is deleted under it


def absent(path: str) -> bool:
    """Whether there is certainly nothing at ``path``: a disk that fails or a door that is shut proves nothing."""
    try:
        os.lstat(path)
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    return False


def parents(path: str) -> Iterator[str]:
    """The directories above a relative path, nearest first; without the root itself."""
    while path := path.rpartition("/")[0]:
        yield path


def _delete(gallery: Gallery, ids: Sequence[str]) -> int:
    there = [point.id for point in gallery.retrieve(ids) if point is not None]
    if there:
        gallery.delete(there)
        gallery.flush()
    return len(there)

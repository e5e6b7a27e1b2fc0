"""Scan: the roots become a stream of files with their size and modification time.

The stat is taken before the file is decoded, so a file that changes in between is seen as changed by the next
run: what is stored is never newer than what the payload says.

A shard is the part of one of several workers, none of which knows of the others. Which one a file belongs to is said by
its key alone, not by the order of the walk, the machine, the mount point or other files: a file that is added moves no
other one, and a worker that is started again has the same files. All see all names, and so choose the same layout.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from siamese_search.datasets.layouts import NoImagesError, Survey, survey
from siamese_search.datasets.names import Detection
from siamese_search.datasets.records import ImageRecord, decode_key, encode_key
from siamese_search.datasets.remote_survey import RemoteSurvey, survey_remote
from siamese_search.datasets.walk import PassedOver
from siamese_search.errors import DataError, ImageError, UsageError, printable
from siamese_search.io.location import RemotePath
from siamese_search.io.remote import THREADS, look_up

#: The variable in which a Kubernetes job of ``completionMode: Indexed`` tells each pod its number.
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
MAX_SHARDS = 100_000

_TEXT = re.compile(r"(-?[0-9]{1,6}|auto)/(-?[0-9]{1,6})")
_HASH_BYTES = 8

#: Files per chunk: large enough that one look-up in the gallery serves many, small enough to stay in cache.
CHUNK = 1000

_TABLES = (".csv", ".tsv", ".txt")

Prune = Literal["no", "safe", "anyway"]
Action = Literal["new", "changed", "relabelled", "refreshed", "moved", "unchanged"]


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``index`` (from 0) of ``count`` parts."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_SHARDS:
            raise UsageError(f"shard {self}: there are 1 to {MAX_SHARDS} shards; give I/N, such as 0/4")
        if not 0 <= self.index < self.count:
            last = self.count - 1
            raise UsageError(f"shard {self}: with {self.count} shards the first is 0 and the last {last}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def has(self, key: str) -> bool:
        """Whether the file of this key (:func:`~siamese_search.datasets.records.encode_key`) is in this shard."""
        return shard_of(key, self.count) == self.index


def shard_of(key: str, count: int) -> int:
    """The shard of a key: floor(h · count / 2⁶⁴), where h is BLAKE2b-64 of the key in UTF-8, read big-endian.

    h is as good as uniform, so every shard gets its share whatever ``count`` is (the bias is below count / 2⁶⁴, also
    where ``count`` is no power of two), and whatever the names have in common. Written down here because it may never
    change: workers of two releases must agree.
    """
    digest = hashlib.blake2b(key.encode(), digest_size=_HASH_BYTES).digest()
    return (int.from_bytes(digest, "big") * count) >> (8 * _HASH_BYTES)


def parse_shard(text: str) -> Shard:
    """``"0/4"`` … ``"3/4"``; ``"auto/4"`` takes the index of a Kubernetes pod. Raises UsageError for anything else."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise UsageError(f"shard {printable(text)!r}: give I/N (0/4 is the first of four) or auto/N")
    index, count = found.groups()
    if index == "auto":
        told = os.environ.get(INDEX_VARIABLE, "")
        if not re.fullmatch(r"[0-9]{1,6}", told):
            what = f"is {printable(told)!r}" if told else "is not set"
            raise UsageError(
                f"shard {text}: {INDEX_VARIABLE} {what}, as it is in a Kubernetes job with completionMode:"
                " Indexed; give the number itself, such as 0/4"
            )
        index = told
    return Shard(int(index), int(count))


@dataclass(slots=True)  # not frozen: one per file is made, and that would double its cost
class ScannedFile:
    """One file of one root. ``path`` is encoded as keys are (:func:`decode_key` gives the real one).

    size: bytes. reason: why the file cannot be used (it vanished, it is a pipe), else ``None``. digest: of its
    content (:mod:`ingest.plan`), ``None`` while nobody has read it.
    """

    record: ImageRecord
    source: str
    path: str
    size: int
    mtime_ns: int
    reason: str | None = None
    digest: str | None = None


def check_roots(roots: Sequence[Path], prune: Prune = "no") -> list[Path]:
    """The roots, absolute, each once, in order. Raises DataError for one that is not there; with ``anyway`` it may."""
    gone = prune == "anyway"
    if not roots:
        raise UsageError("nothing to ingest: name a directory of images or a CSV file")
    resolved: dict[Path, None] = {}
    for root in roots:
        try:
            resolved[root.resolve(strict=not gone)] = None
        except (FileNotFoundError, NotADirectoryError):
            deleted = "; if it was deleted, --prune-anyway takes its images out of the gallery" if prune != "no" else ""
            raise DataError(f"{printable(root)}: no such file or directory; check the path{deleted}") from None
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
            reason = getattr(error, "strerror", None) or "symbolic links in a loop"
            raise DataError(f"{printable(root)}: cannot be read: {reason}") from None
    for path in resolved:
        if not path.is_dir() and path.suffix.lower() not in _TABLES and not (gone and not path.exists()):
            raise DataError(
                f"{printable(path)}: neither a directory nor a CSV; name the directory that it is in, or save it as CSV"
            )
    return list(resolved)


def survey_roots(
    roots: Sequence[Path | str | Survey],
    layout: str = "auto",
    *,
    follow_links: bool = False,
    images_root: Path | None = None,
    prune: Prune = "no",
) -> list[Survey]:
    """The roots with their layouts, checked; those that are surveyed already are taken as they are.

    roots: a ``str`` is a URL (:mod:`siamese_search.datasets.remote_survey`).
    follow_links: also enter links to directories, and take links to files outside the root. images_root: the
    directory that the names in CSV files are relative to. prune: with ``anyway`` a root may be gone.

    A directory below a root that cannot be read is no error here, nor is a missing file of a CSV: the scan names it.
    Raises DataError as :func:`check_roots`, for a layout that does not fit, and where no root has an image, unless
    those that were there shall be pruned; of several roots one without images is a survey of none.
    """
    known = [root for root in roots if isinstance(root, Survey)]
    urls = [root for root in roots if isinstance(root, str)]
    paths = [root for root in roots if isinstance(root, Path)]
    if known and (paths or urls):
        raise TypeError("roots are either all paths or all surveys")
    anyway = prune == "anyway"
    local = []
    for root in check_roots(paths, prune) if paths or not (urls or known) else ():
        if anyway and not os.path.lexists(root):
            local.append(Survey(root, Detection("flat", "it has gone", root), rows=[], images=0))
            continue
        try:
            found = survey(root, layout, images_root=images_root, follow_links=follow_links, lenient=True)
        except NoImagesError as error:
            reason = str(error).partition(": ")[2]
            found = Survey(root, Detection("flat", reason, root), follow_links, images=0)
        local.append(found)
    found_all = known or [*local, *(survey_remote(url, layout) for url in dict.fromkeys(urls))]
    if prune == "no" and all(root.images == 0 for root in found_all):
        raise DataError("; ".join(f"{printable(root.root)}: {root.detection.reason}" for root in found_all))
    return found_all


def scan_files(
    roots: Sequence[Survey], source: str | None = None, shard: Shard | None = None
) -> Iterator[list[ScannedFile]]:
    """Chunks of at most :data:`CHUNK` files, root by root, in the deterministic order of ``Survey.stream``.

    roots: from :func:`survey_roots`. source: the name that keys belong to, for all roots; by default each
    root's own directory (of a CSV: the one that its paths are relative to). shard: only its files, and of
    what is passed over its share, so that all shards together tell of each once. Memory: one chunk (and of a CSV,
    whose rows have no order to rely on, a hash per row). A directory that cannot be read, a pipe, a device, a
    link to a directory or out of the root comes as a file with a reason, and the scan goes on; links are followed
    where the survey was made so, and the files that a CSV names are taken wherever they lie.
    Raises DataError when two files of one source have the same key: they would be the same point.
    """
    earlier: list[str] = []
    if source is not None and len(roots) > 1 and any(isinstance(root, RemoteSurvey) for root in roots):
        _check_unique_remote(roots, source)
    for root in roots:
        own = source or root.source
        found = root.stream_all(inside=not root.follow_links)
        ours = found if shard is None else (one for one in found if shard.has(_key_of(one)))
        chunks = iter(lambda: list(islice(ours, CHUNK)), [])  # noqa: B023 - each root's own, to its end
        if isinstance(root, RemoteSurvey):
            with ThreadPoolExecutor(THREADS, thread_name_prefix="look-up") as pool:
                for chunk in chunks:
                    yield list(pool.map(partial(_scanned_object, url=root.url, source=own), chunk))
            continue
        base = os.path.realpath(root.detection.base)
        for chunk in chunks:
            if source is not None and earlier:
                for one in chunk:
                    if isinstance(one, ImageRecord):
                        _check_unique(one, earlier, source)
            yield [
                passed_file(one, Path(base, one.relative), own)
                if isinstance(one, PassedOver)
                else scanned_file(one, own)
                for one in chunk
            ]
        earlier.append(base)


def _key_of(one: ImageRecord | PassedOver) -> str:
    return encode_key(one.relative) if isinstance(one, PassedOver) else one.key


def passed_file(one: PassedOver, path: Path, source: str) -> ScannedFile:
    """What a walk passes over, as a file with the reason."""
    return ScannedFile(ImageRecord(_key_of(one), path), source, encode_key(path), 0, 0, one.reason)


def _scanned_object(record: ImageRecord | PassedOver, url: str, source: str) -> ScannedFile:
    """What a listing says of a remote file, or what is asked where it does not."""
    if isinstance(record, PassedOver):
        return passed_file(record, RemotePath.of(f"{url}/{record.relative}").as_path(), source)
    path = record.path
    assert isinstance(path, RemotePath)
    encoded = encode_key(path)
    try:
        return ScannedFile(record, source, encoded, *(path.stamp or look_up(path.address)))
    except ImageError as error:
        return ScannedFile(record, source, encoded, 0, 0, error.reason)


def _check_unique_remote(roots: Sequence[Survey], source: str) -> None:
    """Two roots of one source, one of them remote, must not share a key. Reads the names of all of them."""
    seen: dict[str, str] = {}
    for root in roots:
        for record in root.stream():
            where = str(record.path)
            if seen.setdefault(record.key, where) != where:
                raise _same_key(where, seen[record.key], record.key, source)


def reason_of(error: OSError) -> str:
    """Why a file cannot be used, for a list of failures."""
    return "no such file" if isinstance(error, FileNotFoundError) else (error.strerror or "cannot be read").lower()


def scanned_file(record: ImageRecord, source: str) -> ScannedFile:
    """The file with what stat says of it."""
    path = os.fspath(record.path)
    encoded = encode_key(path)
    try:
        status = os.stat(path)  # noqa: PTH116 - hot: 20,000 files a second
    except OSError as error:
        return ScannedFile(record, source, encoded, 0, 0, reason_of(error))
    odd = None if stat.S_ISREG(status.st_mode) else "not a regular file"
    return ScannedFile(record, source, encoded, status.st_size, status.st_mtime_ns, odd)


def _check_unique(record: ImageRecord, earlier: Sequence[str], source: str) -> None:
    """Two different files must not share (source, key). Asks the disk, so that no set of all keys is kept."""
    path, relative = os.fspath(record.path), decode_key(record.key)
    for base in earlier:
        other = os.path.join(base, relative)  # noqa: PTH118
        if os.path.lexists(other) and os.path.realpath(other) != os.path.realpath(path):
            raise _same_key(path, other, relative, source)


def _same_key(one: str, other: str, key: str, source: str) -> DataError:
    what = f"{printable(one)} and {printable(other)} are both {printable(key)!r} of source {source!r}"
    return DataError(f"{what}; give each root its own --source")


@dataclass(slots=True)  # not frozen: one per file is made, and that would double its cost
class PlannedFile:
    """What to do with one file.

    new, changed: decode and embed (``changed`` replaces a point). relabelled: the same pixels, but identity,
    camera, metadata or path differ from what is stored: the payload is replaced, the vector kept. refreshed: as
    relabelled, but only the modification time or the digest differ, and it counts as unchanged. moved: the file of
    the point ``origin`` has become this one: its vector is kept under this id, and ``origin`` is deleted (``None``:
    it is already). unchanged: nothing. payload: the whole payload to store, less ``crc``, which the gallery adds.
    holder: the point whose vector is kept, where it is not its own.
    """

    action: Action
    id: str
    scanned: ScannedFile
    payload: dict[str, Any]
    origin: str | None = None
    holder: str | None = None

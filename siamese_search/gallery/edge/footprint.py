"""What an embedded gallery takes: space on disk, memory of a search; and whether there is room for it.

The engine writes into the holes of mapped files, where a full disk is SIGBUS: so whoever writes asks for room first.
Opening a shard writes too: who only wants to read opens a copy of it where there is room and the right to.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from siamese_search.errors import StoreError, printable
from siamese_search.gallery.edge import layout
from siamese_search.gallery.storage import Storage
from siamese_search.io.files import read_json

#: Of one request to read ahead the system takes no more than this.
_PIECE = 2 << 20
#: What a shard's files are long at least, holes and all.
_LEAST = 192 << 20
#: What the copies of shards are called, and for how long one may be so new that it is not locked yet.
_COPY, _NEW_SECONDS = "sss-read-", 60


def measure(generation: Path, storage: Storage) -> tuple[int, int]:
    """(space on disk, memory that a search needs), in bytes; sparse files count what they hold.

    The second is all but the payloads, the log and, beside a quantised copy, the vectors.
    """
    disk = resident = 0
    for file, known in _files(generation):
        disk += known.st_blocks * 512
        inside = file.parts[len(generation.parts) :]
        if inside[:2] == (layout.SHARD, "segments") and _is_read(inside[3:], storage):
            resident += known.st_blocks * 512
    return disk, resident


def _files(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Its regular files, and what the system knows of each; the engine may delete some meanwhile."""
    for root, _, names in os.walk(directory):
        for file in (Path(root, name) for name in names):
            with suppress(OSError):
                known = file.lstat()
                if stat.S_ISREG(known.st_mode):
                    yield file, known


def taken(shard: Path, place: Path | None = None) -> int:
    """The space that a shard's files take where they are, or will in ``place``, in bytes.

    The engine reads its files to their ends, and on tmpfs a hole takes room as soon as it is read.
    """
    held, grown = _sizes(shard)
    return grown if _is_tmpfs(place or shard) else held


def _sizes(directory: Path) -> tuple[int, int]:
    """(space that a directory's files take, that they grow to on tmpfs), in bytes."""
    known = [one for _, one in _files(directory)]
    return sum(one.st_blocks * 512 for one in known), max(_LEAST, sum(one.st_size for one in known))


def _is_tmpfs(place: Path) -> bool:
    device, mounts = place.stat().st_dev, Path("/proc/self/mountinfo")
    number = f" {os.major(device)}:{os.minor(device)} ".encode()
    lines = mounts.read_bytes().splitlines() if mounts.exists() else []
    return any(number in line and b" - tmpfs " in line for line in lines)


def _is_read(inside: tuple[str, ...], storage: Storage) -> bool:
    """Whether every search reads this file, named by its path in its segment."""
    if inside[:1] == ("payload_storage",):
        return False
    vectors = inside[:1] == ("vector_storage",) and not any("quantized" in part for part in inside)
    return not vectors or storage.quantisation == "none"


def read_ahead(shard: Path, storage: Storage) -> None:
    """Ask the system to read what opening and a search will want, in large pieces: the engine takes it page by page.

    50,000 points from a busy disk: 0.6 s instead of 14 s. What is in memory already is not asked for: that costs 90 ms
    for a million points, looking at one page of each piece 2 ms.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for file in _searched(shard, storage):
        with suppress(OSError), _opened(file) as (descriptor, size):
            for start, end in data_pieces(descriptor, size):
                if not _in_memory(descriptor, end - 1):
                    os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_WILLNEED)


@contextmanager
def kept_in_memory(shard: Path, storage: Storage) -> Iterator[None]:
    """While the engine closes a shard: leave in memory what a search reads.

    On closing, the engine has the system take all pages of its files out of memory (MADV_PAGEOUT). Pages that are
    mapped a second time are spared. Only what is in memory is mapped: closing reads nothing.
    """
    with ExitStack() as maps:
        if hasattr(mmap, "MAP_POPULATE"):
            for file in _searched(shard, storage):
                with suppress(OSError, ValueError):
                    for one in _mapped(file):
                        maps.enter_context(one)
        yield


def _mapped(file: Path) -> list[mmap.mmap]:
    """Mappings of the pieces of a file that are in memory; those that follow one another are one."""
    with _opened(file) as (descriptor, size):
        runs: list[tuple[int, int]] = []
        for start, end in data_pieces(descriptor, size):
            if not _in_memory(descriptor, end - 1):
                continue
            if runs and runs[-1][1] == start:
                start = runs.pop()[0]
            runs.append((start, end))
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        return [
            mmap.mmap(descriptor, end - start, flags=flags, prot=mmap.PROT_READ, offset=start) for start, end in runs
        ]


@contextmanager
def _opened(file: Path) -> Iterator[tuple[int, int]]:
    """(descriptor, size) of a regular file; of anything else, the size 0. Raises OSError."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        known = os.fstat(descriptor)
        yield descriptor, known.st_size if stat.S_ISREG(known.st_mode) else 0
    finally:
        os.close(descriptor)


def data_pieces(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, end) of what a file holds, a few megabytes each, without the holes of a sparse one."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(descriptor, offset, os.SEEK_DATA)
            offset = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError:  # a hole up to the end
            return
        start -= start % mmap.ALLOCATIONGRANULARITY
        for piece in range(start, offset, _PIECE):
            yield piece, min(piece + _PIECE, offset)


def _searched(shard: Path, storage: Storage) -> Iterator[Path]:
    """The files of a shard that opening and a search want."""
    for file in shard.rglob("*"):
        inside = file.parts[len(shard.parts) :]  # relative_to() takes a third of an opening
        if inside[0] != "segments" or _is_read(inside[2:], storage):
            yield file


def _in_memory(descriptor: int, offset: int) -> bool:
    """Whether the page there is in memory, as far as the system tells. The last page of a piece stands for all."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    try:
        return os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:  # it would have to be read, or the file system knows no such question
        return False


def has_index(generation: Path) -> bool:
    """Whether the shard is one with an HNSW index, once it is optimised."""
    try:
        document = read_json(generation / layout.SHARD / "edge_config.json")
        return bool((document.get("hnsw_config") or {"m": 0})["m"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


#: More than opening a shard takes, or a new field's index, or a chunk's share of what others write meanwhile.
MARGIN = 8 << 20


def check_writable(directory: Path, what: str) -> None:
    """Raise StoreError unless ``directory`` can be written."""
    if not os.access(directory, os.W_OK):
        raise StoreError(f"cannot write {what}: {printable(directory)} is read-only; it can be searched")


def check_room(directory: Path, what: str, need: int = 0) -> None:
    """Raise StoreError unless ``directory`` can be written and its disk has room for so many bytes."""
    check_writable(directory, what)
    free, grows = _left(directory)
    if free < need + MARGIN:
        beside = " beside what its files grow to on tmpfs" if grows else ""
        sizes = f"{free / 1e6:.1f} MB free{beside}, {(need + MARGIN) / 1e6:.1f} MB needed"
        raise StoreError(
            f"cannot write {what}: its disk is full ({sizes}); what was committed is kept, and can be searched:"
            " free some space, then run the command again"
        )


def can_open(shard: Path) -> bool:
    """Whether the engine can open a shard where it is."""
    return all(os.access(one, os.W_OK) for one in (shard, shard / "edge_config.json")) and _left(shard)[0] >= MARGIN


class PrivateCopy(tempfile.TemporaryDirectory[str]):
    """A directory for a copy, locked while somebody uses it, so that others can tell when nobody does any more."""

    def __init__(self, place: str) -> None:
        super().__init__(prefix=_COPY, dir=place)
        self._lock = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def cleanup(self) -> None:
        super().cleanup()
        os.close(self._lock)


def _remove_abandoned(place: str) -> None:
    """Delete our user's copies whose readers were killed: nobody else would, and they may lie in memory."""
    for path in Path(place).glob(f"{_COPY}*"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                known = os.fstat(descriptor)
                # One that has just been made may not be locked yet.
                if known.st_uid == os.geteuid() and time.time() - known.st_mtime > _NEW_SECONDS:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
            finally:
                os.close(descriptor)


def copy_shard(shard: Path, what: str) -> PrivateCopy:
    """A private copy of a shard, ``NAME/shard``, on a disk with room for it. Call it with the shard's lock."""
    places = [place for place in (tempfile.gettempdir(), "/dev/shm") if os.access(place, os.W_OK)]
    for place in places:
        _remove_abandoned(place)
    needs = {place: taken(shard, Path(place)) + MARGIN for place in places}
    roomy = next((place for place, need in needs.items() if shutil.disk_usage(place).free >= need), None)
    if roomy is None:
        rooms = " and ".join(f"{need / 1e6:.1f} MB in {place}" for place, need in needs.items())
        raise StoreError(
            f"{what} cannot be opened where it is, read-only or on a full disk, and there are not {rooms}"
            " for a copy: free some space, or set TMPDIR"
        )
    home = PrivateCopy(roomy)
    try:
        for source in shard.rglob("*"):
            if source.is_file():
                target = Path(home.name) / shard.name / source.relative_to(shard)
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(source, target)
    except BaseException as error:
        home.cleanup()
        if isinstance(error, OSError):
            raise StoreError(f"{what} cannot be copied to {roomy}: {error.strerror or error}") from error
        raise
    return home


def _copy(source: Path, target: Path) -> None:
    """The data of a sparse file; its holes stay holes, and it can be written whatever the original allows."""
    with source.open("rb", buffering=0) as old, target.open("wb", buffering=0) as new:
        size = os.fstat(old.fileno()).st_size
        os.truncate(new.fileno(), size)
        for start, end in data_pieces(old.fileno(), size):
            os.lseek(new.fileno(), start, os.SEEK_SET)
            while start < end:
                start += os.sendfile(new.fileno(), old.fileno(), start, end - start)


def _left(directory: Path) -> tuple[int, bool]:
    """What is free to a shard, or where one will be, less what its own holes will take of that; whether they will."""
    free = shutil.disk_usage(directory).free
    if not _is_tmpfs(directory):
        return free, False
    held, grown = _sizes(directory)
    return max(0, free - (grown - held)), True

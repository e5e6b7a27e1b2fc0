"""Checksums of files: whether two files are the same is then a question of content, not of time."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ingest.scan import ScannedFile

#: 128 bits: two different files of ten million share a digest with a probability of 1.5e-25.
_DIGEST_BYTES = 16
#: BLAKE2b releases the GIL, and a second thread hides the waits for the disk.
_THREADS = 2
_FILES_PER_TASK = 32
#: Larger files are no images, and are left unread.
_MAX_BYTES = 1 << 30


def digest_file(path: str | os.PathLike[str]) -> str:
    """BLAKE2b-128 of a file's content, 32 hexadecimal digits. Raises OSError, for what is no regular file too."""
    # Non-blocking: between the scan and now the file may have become a pipe, on which open() would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb", buffering=0) as handle:  # noqa: PTH123 - a descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "not a regular file")
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).hexdigest()


def with_digests(files: Sequence[ScannedFile]) -> list[ScannedFile]:
    """The same files, in order, with their ``digest``; what cannot be read has a ``reason`` instead.

    Files that have a digest or a reason already stay as they are, and so do those too large to be an image: the
    decoder refuses them unread.
    """
    parts = [files[start : start + _FILES_PER_TASK] for start in range(0, len(files), _FILES_PER_TASK)]
    if len(parts) < 2:
        return [_with_digest(file) for file in files]
    with ThreadPoolExecutor(min(_THREADS, len(parts)), thread_name_prefix="checksum") as pool:
        return [
            file
            for part in pool.map(lambda part: [_with_digest(file) for file in part], parts)
            for file in part
        ]


def _with_digest(file: ScannedFile) -> ScannedFile:
    if file.reason is not None or file.digest is not None or file.size > _MAX_BYTES:
        return file
    try:
        return replace(file, digest=digest_file(file.record.path))
    except FileNotFoundError:
        return replace(file, reason="no such file")
    except OSError as error:
        return replace(file, reason=(error.strerror or "cannot be read").lower())

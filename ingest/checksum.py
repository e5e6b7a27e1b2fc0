"""Checksums of files: whether two files are the same is then a question of content, not of time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ingest.scan import ScannedFile
from siamese_search.io.files import digest_file

#: BLAKE2b releases the GIL, and a second thread hides the waits for the disk.
_THREADS = 2
_FILES_PER_TASK = 32
#: Larger files are no images, and are left unread.
_MAX_BYTES = 1 << 30


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

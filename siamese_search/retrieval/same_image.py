"""SameImage: is a hit the query itself, or a copy of it?"""

from __future__ import annotations

import filecmp
import os
from contextlib import suppress

from siamese_search.datasets.records import decode_key
from siamese_search.gallery.contract import Hit

#: A copy of a file has the same vector up to rounding; below this similarity no file is opened to compare.
_COPY_SCORE = 0.9999
#: Where no bytes can be compared (an array, a file that is elsewhere), the vectors must agree this closely.
_BLIND_SCORE = 0.99999


class SameImage:
    """Decides for one query which hits show the very same image.

    path: the query's file, or ``None`` for an array. A hit is the same image when

    1. it is the same file: equal real paths, or the same file by way of a link; or
    2. it is a copy: similarity ≥ 0.9999, the same size in bytes and the same bytes. Where the stored file
       cannot be read any more, similarity ≥ 0.99999 and the size stand for the bytes; for an array, the
       similarity.

    Similarity alone does not decide where there are files: a weak model gives different images nearly the
    same vector, and neighbouring frames of a video are distinct sightings.

    any_score: the hits' scores are not similarities to this image (it is one of several): sizes and bytes decide.

    ``copies`` holds the hits so judged, by point id; ``identity`` is that of the first which has one.
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, any_score: bool = False) -> None:
        self._any_score = any_score
        self._path: str | None = None
        self._size = -1
        if path is not None:
            self._path = os.path.realpath(path)
            with suppress(OSError):
                self._size = os.stat(self._path).st_size  # noqa: PTH116 - also takes surrogate-escaped names
        self.copies: dict[str, Hit] = {}
        self.identity: str | None = None
        self._others: set[str] = set()

    def is_copy(self, hit: Hit) -> bool:
        """Whether the hit shows the query's own image. Each point is examined once."""
        if hit.id in self.copies:
            return True
        if hit.id in self._others:
            return False
        if not self._examine(hit):
            self._others.add(hit.id)
            return False
        self.copies[hit.id] = hit
        identity = hit.payload.get("identity")
        if self.identity is None and identity is not None:
            self.identity = str(identity)
        return True

    def _examine(self, hit: Hit) -> bool:
        if self._path is None:
            return not self._any_score and hit.score >= _BLIND_SCORE
        stored = decode_key(str(hit.payload.get("path", "")))
        if stored == self._path:
            return True  # whatever the score: the file may have changed since it was ingested
        if self._any_score:
            if hit.payload.get("size") != self._size:
                return False
        elif hit.score < _COPY_SCORE:
            return False
        try:
            if os.path.samefile(stored, self._path):  # noqa: PTH121 - also takes surrogate-escaped names
                return True
            return hit.payload.get("size") == self._size and filecmp.cmp(stored, self._path, shallow=False)
        except (OSError, ValueError):
            return not self._any_score and hit.score >= _BLIND_SCORE and hit.payload.get("size") == self._size

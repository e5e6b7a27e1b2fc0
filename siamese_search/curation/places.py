"""Finder: which point of a gallery a row of a table means."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Protocol

from siamese_search.datasets.records import decode_key, encode_key, point_id
from siamese_search.errors import printable
from siamese_search.gallery.contract import Gallery


class Named(Protocol):
    """Names an image by (source, key), key alone, or path; "" where it does not say."""

    source: str
    key: str
    path: str


class Finder:
    """Finds points for rows, by an id made of source and key, or in one pass over the gallery for all the others."""

    def __init__(self, gallery: Gallery, rows: Iterable[Named]) -> None:
        self._keys: dict[str, list[str]] = {}
        self._paths: dict[str, list[str]] = {}
        for row in rows:
            if row.key and not row.source:
                self._keys.setdefault(row.key, [])
                self._keys.setdefault(encode_key(row.key), [])
            elif not row.key and row.path:
                self._paths.setdefault(_absolute(row.path), [])
        if self._keys or self._paths:
            for point in gallery.scroll(fields=["key", "path"]):
                key, path = point.payload.get("key"), point.payload.get("path")
                if isinstance(key, str) and key in self._keys:
                    self._keys[key].append(point.id)
                if isinstance(path, str) and self._paths:
                    for name in {path, decode_key(path)}:
                        if name in self._paths:
                            self._paths[name].append(point.id)

    def find(self, row: Named) -> tuple[str | None, str]:
        """The point's id (of source and key: whether there is such a point or not), or None and why not."""
        if row.key and row.source:
            return point_id(row.source, row.key), ""
        if row.key:
            found = self._keys[row.key] or self._keys[encode_key(row.key)]
            if len(found) > 1:
                return (
                    None,
                    f"{len(found)} images have the key '{printable(row.key)}': add the column 'source'",
                )
        elif row.path:
            found = self._paths[_absolute(row.path)]
            if len(found) > 1:
                return (
                    None,
                    f"'{printable(row.path)}' is in the gallery {len(found)} times: name it by key and source",
                )
        else:
            return None, "it names no image: key and path are empty"
        return (found[0], "") if found else (None, self.missing(row))

    @staticmethod
    def missing(row: Named) -> str:
        """What to say of an image that is not in the gallery."""
        if not row.key:
            return f"no image '{printable(row.path)}' in the gallery"
        where = f" of source '{printable(row.source)}'" if row.source else ""
        return f"no image with the key '{printable(row.key)}'{where} in the gallery"


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - may hold surrogates

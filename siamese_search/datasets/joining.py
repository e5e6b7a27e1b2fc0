"""Several data sets read as one: identities and keys carry the name of their source, so that none are confused.

Identity ``0002`` of ``market/`` becomes ``market/0002``. The reserved identities stay what they are. One data set alone
is read as it is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from pathlib import Path

from siamese_search.datasets.layouts import Dataset, load_dataset
from siamese_search.datasets.records import (
    DISTRACTOR_IDENTITY,
    JUNK_IDENTITY,
    ImageRecord,
    decode_key,
    label_text,
)
from siamese_search.errors import DataError, UsageError, printable


@dataclass(frozen=True, slots=True)
class Source:
    """One of several data sets. ``name`` tells it from the others."""

    name: str
    dataset: Dataset

    def full(self, name: str) -> str:
        """An identity or key of this data set as it is called among several."""
        return f"{self.name}/{name}"


def source_names(paths: Sequence[Path]) -> list[str]:
    """A name for each data set: the last part of its path, or as many parts as tell them apart.

    ``a/market`` and ``b/duke`` are ``market`` and ``duke``; ``market/train`` and ``duke/train`` keep both
    parts. Raises UsageError where one path is given twice.
    """
    places = [path.resolve() for path in paths]
    for one, other in combinations(places, 2):
        if one == other:
            raise UsageError(f"{printable(one)} is given twice; name each data set once")
    names = [str(place) for place in places]
    for parts in range(1, max(len(place.parts) for place in places) + 1):
        names = [label_text("/".join(place.parts[-parts:])) for place in places]
        # Nor may one begin another, or "a/b" + "c" and "a" + "b/c" would be the same identity.
        if not any(f"{b}/".startswith(f"{a}/") for a, b in permutations(names, 2)):
            return names
    raise UsageError(f"{', '.join(printable(name) for name in names)}: data sets must not lie in each other")


def load_sources(paths: Sequence[Path], layout: str = "auto") -> list[Source]:
    """Read each data set, in its own layout where that is ``auto``. Raises DataError, too, where two share an image."""
    names = source_names(paths)
    sources = [Source(name, load_dataset(path, layout)) for name, path in zip(names, paths, strict=True)]
    for one, other in combinations(sources, 2):
        shared = _shared(one.dataset, other.dataset)
        if shared:
            raise DataError(
                f"{printable(one.name)} and {printable(other.name)} share {len(shared)} images, the first is"
                f" {printable(min(shared))}: each would belong to two identities; give one of them"
            )
    return sources


def load_joined(paths: Sequence[Path], layout: str = "auto") -> Dataset:
    """One data set as it is, several joined."""
    if len(paths) == 1:
        return load_dataset(paths[0], layout)
    return join(load_sources(paths, layout))


def join(sources: Sequence[Source]) -> Dataset:
    """The records and triplets of all sources under their full names, in order.

    Where no identity of a source is seen by two cameras, its cameras are left out: they would only forbid
    every match in it.
    """
    records: list[ImageRecord] = []
    for source in sources:
        idle = not _several_cameras(source.dataset)
        records += [_named(record, source, idle) for record in source.dataset.records]
    triplets = [
        (source.full(anchor), source.full(positive), source.full(negative))
        for source in sources
        for anchor, positive, negative in source.dataset.triplets
    ]
    reason = ", ".join(f"{source.name}: {source.dataset.layout}" for source in sources)
    root = Path(os.path.commonpath([source.dataset.root.resolve() for source in sources]))
    return Dataset(root, "several", reason, records, triplets)


def _named(record: ImageRecord, source: Source, idle_cameras: bool) -> ImageRecord:
    identity = record.identity
    if identity not in (None, JUNK_IDENTITY, DISTRACTOR_IDENTITY):
        identity = source.full(str(identity))
    camera = None if idle_cameras else record.camera
    return replace(record, key=source.full(record.key), identity=identity, camera=camera, source=source.name)


def _several_cameras(dataset: Dataset) -> bool:
    identities = set(dataset.identities)
    pairs = {(r.identity, r.camera) for r in dataset.records if r.camera is not None}
    seen = [identity for identity, _ in pairs if identity in identities]
    return len(set(seen)) < len(seen)


def _shared(one: Dataset, other: Dataset) -> set[str]:
    """The image files that both have, as resolved paths; links inside the data sets are not followed."""
    a, b = one.root.resolve(), other.root.resolve()
    if not (a.is_relative_to(b) or b.is_relative_to(a)):
        return set()
    files = [
        {os.path.normpath(f"{root}/{decode_key(record.key)}") for record in dataset.records}
        for root, dataset in ((a, one), (b, other))
    ]
    return files[0] & files[1]

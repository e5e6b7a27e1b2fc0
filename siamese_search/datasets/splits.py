"""Data sets taken apart and put together: a person is on one side only, and in one data set only, whoever runs it.

In several data sets read as one, identities and keys carry the name of their source, so that none are confused:
identity ``0002`` of ``market/`` becomes ``market/0002``. Reserved identities and a single data set stay as they are.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from pathlib import Path

from siamese_search.datasets.layouts import Dataset, load_dataset
from siamese_search.datasets.records import ImageRecord, decode_key, label_text
from siamese_search.errors import DataError, UsageError, amount, printable

MIN_TRAIN_IDENTITIES = 2  # a triplet needs a negative
MAX_LIST_BYTES = 16 << 20
_COMMENT = re.compile(r"(^|\s)#.*")


def draw_identities(identities: Iterable[str], count: int, seed: int = 0) -> set[str]:
    """So many of the identities, to hold out: the first by SHA-256 of (seed, name).

    So it depends on no order, platform or version of NumPy, and a new identity never reshuffles the old ones.
    """

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{seed}\x00{name}".encode("utf-8", "surrogatepass")).digest()

    return set(sorted(set(identities), key=rank)[:count])


def read_identity_list(path: Path) -> list[str]:
    """Read identities, one per line; blank lines, repeats and comments (``#`` at the beginning or after white space)
    are dropped. Raises DataError for a file that cannot be read, is not UTF-8 text, over 16 MiB, or names nobody.
    """
    name = printable(path)
    try:
        if not path.is_file():
            raise DataError(f"{name}: no such file of identities; check the path")
        with path.open("rb") as handle:
            raw = handle.read(MAX_LIST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error})") from None
    if len(raw) > MAX_LIST_BYTES:
        raise DataError(f"{name}: over {MAX_LIST_BYTES} bytes; a list of identities has one name per line")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{name}: not UTF-8 text; write one identity per line") from None
    found = [_COMMENT.sub("", line).strip() for line in text.split("\n")]
    for number, identity in enumerate(found, 1):
        if not identity.isprintable():
            raise DataError(f"{name}: line {number} holds control characters; write one identity per line")
    if not any(found):
        raise DataError(f"{name}: names no identity; write one per line")
    return list(dict.fromkeys(filter(None, found)))


def hold_out(dataset: Dataset, identities: Iterable[str]) -> tuple[Dataset, Dataset]:
    """Split a data set into (train, held out) by the identities to hold out.

    Train has the other identities, and only triplets without a held-out one. Held out has the named identities, and the
    junk and distractor images too, which cannot be trained on. Images of unknown identity are in neither. Raises
    DataError where fewer than 2 would be left to train on.
    """
    held, known = set(identities), set(dataset.identities)
    if len(known - held) < MIN_TRAIN_IDENTITIES:
        raise DataError(
            f"{printable(dataset.root)}: holding out {len(held)} of {amount(len(known), 'identity')} leaves"
            f" {len(known - held)} to train on; at least {MIN_TRAIN_IDENTITIES} must stay: hold out fewer, or"
            " give more data"
        )
    people = [record for record in dataset.records if record.is_somebody]
    train = [record for record in people if record.identity not in held]
    return _part(dataset, train), _part(dataset, those_of(dataset.records, held))


def those_of(records: Iterable[ImageRecord], identities: Collection[str]) -> list[ImageRecord]:
    """The images of these people, and those that stand for many, which belong to every choice."""
    return [one for one in records if one.reserved or (one.is_somebody and one.identity in identities)]


def _part(dataset: Dataset, records: list[ImageRecord]) -> Dataset:
    keys = {record.key for record in records}
    triplets = [triplet for triplet in dataset.triplets if keys.issuperset(triplet)]
    return replace(dataset, records=records, triplets=triplets)


@dataclass(frozen=True, slots=True)
class Source:
    """One of several data sets, whose ``name`` tells it from the others; or one alone, "", whose names stay."""

    name: str
    dataset: Dataset

    def full(self, name: str) -> str:
        """An identity or key of this data set as it is called among several."""
        return f"{self.name}/{name}" if self.name else name


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
    names = source_names(paths) if len(paths) > 1 else [""]
    sources = [Source(name, load_dataset(path, layout)) for name, path in zip(names, paths, strict=True)]
    for one, other in combinations(sources, 2):
        shared = _shared(one.dataset, other.dataset)
        if shared:
            raise DataError(
                f"{printable(one.name)} and {printable(other.name)} share {amount(len(shared), 'image')}, the first is"
                f" {printable(min(shared))}: each would belong to two identities; give one of them"
            )
    return sources


def load_joined(paths: Sequence[Path], layout: str = "auto") -> Dataset:
    """One data set as it is, several joined."""
    return join(load_sources(paths, layout))


def join(sources: Sequence[Source]) -> Dataset:
    """The records and triplets of all sources under their full names, in order.

    Where no identity of a source is seen by two cameras, its cameras are left out: they would only forbid
    every match in it. One data set alone is what it was.
    """
    if not sources[0].name:
        return sources[0].dataset
    records: list[ImageRecord] = []
    for source in sources:
        pairs = {(r.identity, r.camera) for r in source.dataset.records if r.camera is not None and r.is_somebody}
        several = len({identity for identity, _ in pairs}) < len(pairs)  # cameras of one identity
        for record in source.dataset.records:
            identity = source.full(str(record.identity)) if record.is_somebody else record.identity
            key, camera = source.full(record.key), record.camera if several else None
            records.append(replace(record, key=key, identity=identity, camera=camera, source=source.name))
    triplets = [
        (source.full(anchor), source.full(positive), source.full(negative))
        for source in sources
        for anchor, positive, negative in source.dataset.triplets
    ]
    reason = ", ".join(f"{source.name}: {source.dataset.layout}" for source in sources)
    root = Path(os.path.commonpath([source.dataset.root.resolve() for source in sources]))
    return Dataset(root, "several", reason, records, triplets)


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

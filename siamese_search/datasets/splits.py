"""Identity-disjoint splits and query/gallery splits: a person is on one side only, whoever runs it.

Choices are made by ranking SHA-256 of (seed, name), not by shuffling: they do not depend on the order of the
input, on the platform or on NumPy's version, and a new identity never reshuffles the old ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from siamese_search.datasets.layouts import Dataset
from siamese_search.datasets.records import DISTRACTOR_IDENTITY, JUNK_IDENTITY
from siamese_search.errors import DataError, UsageError, listed, printable

#: Reserved identities are no people: they are neither trained on nor held out by choice.
RESERVED_IDENTITIES = frozenset({JUNK_IDENTITY, DISTRACTOR_IDENTITY})
MIN_TRAIN_IDENTITIES = 2  # a triplet needs a negative
MAX_LIST_BYTES = 16 << 20


def split_identities(
    identities: Iterable[str | None],
    *,
    count: int | None = None,
    fraction: float | None = None,
    seed: int = 0,
) -> tuple[set[str], set[str]]:
    """Split distinct identities into (train, held out).

    Give exactly one of ``count`` (≥ 1) and ``fraction`` (0 < fraction < 1, rounded, at least 1). ``None``, junk (-1)
    and distractors (0000) are in neither set. Raises UsageError, and DataError where fewer than 2 would be left to
    train on.
    """
    names = {i for i in identities if i is not None} - RESERVED_IDENTITIES
    if (count is None) == (fraction is None):
        raise UsageError("give either a count or a fraction of identities to hold out, not both or neither")
    if fraction is not None:
        if not 0.0 < fraction < 1.0:
            raise UsageError(
                f"the fraction of identities to hold out is {fraction}; it must be between 0 and 1"
            )
        count = max(1, round(fraction * len(names)))
    assert count is not None
    if count < 1:
        raise UsageError(f"the number of identities to hold out is {count}; it must be at least 1")
    if len(names) - count < MIN_TRAIN_IDENTITIES:
        raise DataError(
            f"cannot hold out {count} of {len(names)} identities: at least {MIN_TRAIN_IDENTITIES} must stay"
            " to train on; hold out fewer, or give more data"
        )
    ranked = sorted(names, key=lambda name: _rank(seed, name))
    return set(ranked[count:]), set(ranked[:count])


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
    found: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), 1):
        identity = _without_comment(line).strip()
        if not identity:
            continue
        if not identity.isprintable():
            raise DataError(f"{name}: line {number} holds control characters; write one identity per line")
        found[identity] = None
    if not found:
        raise DataError(f"{name}: names no identity; write one per line")
    return list(found)


def _without_comment(line: str) -> str:
    for at, character in enumerate(line):
        if character == "#" and (at == 0 or line[at - 1].isspace()):
            return line[:at]
    return line


def hold_out(dataset: Dataset, identities: Iterable[str]) -> tuple[Dataset, Dataset]:
    """Split a data set into (train, held out) by the identities to hold out.

    Train has the other identities, and only triplets without a held-out one. Held out has the named identities, and the
    junk and distractor images too, which cannot be trained on. Images of unknown identity are in neither. Raises
    DataError where an identity has no images, where none is named, or where fewer than 2 would be left to train on.
    """
    held = set(identities)
    known = set(dataset.identities)
    if not held:
        raise DataError("no identities to hold out were named; name at least one")
    if not known:
        raise DataError(
            f"{printable(dataset.root)}: layout {dataset.layout} knows no identities, so none can be held"
            " out; give data with identities"
        )
    absent = sorted(held - known)
    # A CSV of triplets is a sample of the images: whom it does not name is held out already.
    if absent and (dataset.layout != "triplets" or held.isdisjoint(known)):
        raise DataError(
            f"{len(absent)} of {len(held)} identities to hold out have no images in"
            f" {printable(dataset.root)}: {listed(absent)}; it has {len(known)} identities such as"
            f" {printable(min(known))}; mend the list"
        )
    if len(known - held) < MIN_TRAIN_IDENTITIES:
        raise DataError(
            f"{printable(dataset.root)}: holding out {len(held)} of {len(known)} identities leaves"
            f" {len(known - held)} to train on; at least {MIN_TRAIN_IDENTITIES} must stay: hold out fewer, or"
            " give more data"
        )
    return _part(dataset, known - held), _part(dataset, held | RESERVED_IDENTITIES)


def _part(dataset: Dataset, identities: set[str]) -> Dataset:
    records = [record for record in dataset.records if record.identity in identities]
    keys = {record.key for record in records}
    triplets = [triplet for triplet in dataset.triplets if keys.issuperset(triplet)]
    return replace(dataset, records=records, triplets=triplets)


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\x00{name}".encode("utf-8", "surrogatepass")).digest()

"""Which identities a run holds out of its training: named ones, or a number or share drawn by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from siamese_search.datasets.joining import Source
from siamese_search.datasets.layouts import Dataset
from siamese_search.datasets.splits import MIN_TRAIN_IDENTITIES, read_identity_list, split_identities
from siamese_search.errors import DataError, UsageError, printable

#: One held-out identity alone has nobody to be confused with.
MIN_HELD_IDENTITIES = 2


@dataclass(frozen=True, slots=True)
class HoldOut:
    """Which identities training must not see: a file of ids, the ids themselves, a count (≥ 1) or a share.

    With several data sets a count or share is taken of each. An id stands for that identity in every data set
    that has it; ``SOURCE/ID`` for the one of that data set only.
    """

    ids_file: Path | None = None
    ids: tuple[str, ...] | None = None
    amount: float = 0.1
    seed: int = 0


def choose_held(path: Path, dataset: Dataset, holdout: HoldOut) -> set[str]:
    """The identities of one data set to hold out. Raises DataError where too few are there."""
    listed = _listed(holdout)
    return _drawn(path, dataset, holdout) if listed is None else listed


def choose_held_by_source(
    paths: Sequence[Path], sources: Sequence[Source], holdout: HoldOut
) -> list[set[str]]:
    """The identities of each of several data sets to hold out, by their plain names.

    Raises DataError for names that none of them knows, and where too few identities are there.
    """
    listed = _listed(holdout)
    if listed is None:
        return _drawn_by_source(paths, sources, holdout)
    return _held_by_source(sources, listed)


def _listed(holdout: HoldOut) -> set[str] | None:
    """The identities to hold out where they are named; None where a number or share of them is asked for."""
    if holdout.ids is not None:
        return set(holdout.ids)
    return None if holdout.ids_file is None else set(read_identity_list(holdout.ids_file))


def _drawn(path: Path, dataset: Dataset, holdout: HoldOut) -> set[str]:
    """A number or share of the identities; a share is at least 2, for one alone would always be found."""
    amount, names = float(holdout.amount), dataset.identities
    if amount == 0:
        return set()
    if 0 < amount < 1:
        count = max(MIN_HELD_IDENTITIES, round(amount * len(names)))
    elif amount >= 1 and amount.is_integer():
        count = int(amount)
    else:
        raise UsageError(f"--holdout {amount:g}: give a share below 1, a whole number, or 0 for none")
    if len(names) - count < MIN_TRAIN_IDENTITIES:
        shown = ", ".join(printable(name) for name in names[:3]) + (", …" if len(names) > 3 else "")
        raise DataError(
            f"{printable(path)}: {len(names)} identities found ({shown}), too few to hold out {count} for"
            f" validation and train on at least {MIN_TRAIN_IDENTITIES}: train on all with --holdout 0, or give"
            f" images of {count + MIN_TRAIN_IDENTITIES} identities or more"
        )
    return split_identities(names, count=count, seed=holdout.seed)[1]


def _drawn_by_source(paths: Sequence[Path], sources: Sequence[Source], holdout: HoldOut) -> list[set[str]]:
    """A number or share of each source's identities: the same as where it is trained on alone.

    A source too small to give a share gives none, unless all are; a number is asked of every one.
    """
    share = 0 < holdout.amount < 1
    least = MIN_HELD_IDENTITIES + MIN_TRAIN_IDENTITIES
    small = [share and len(source.dataset.identities) < least for source in sources]
    return [
        set() if none and not all(small) else _drawn(path, source.dataset, holdout)
        for path, source, none in zip(paths, sources, small, strict=True)
    ]


def _held_by_source(sources: Sequence[Source], listed: set[str]) -> list[set[str]]:
    """Which identities each source holds out. Raises DataError for names that no source knows.

    A CSV of triplets is a sample of the images: whom no data set knows, it holds out already.
    """
    known = [set(source.dataset.identities) for source in sources]
    chosen: list[set[str]] = [set() for _ in sources]
    if not listed:
        return chosen
    absent: list[str] = []
    for name in sorted(listed):
        plain = [(at, name) for at in range(len(sources)) if name in known[at]]
        prefixed = [
            (at, name.removeprefix(source.full("")))
            for at, source in enumerate(sources)
            if name.startswith(source.full(""))
        ]
        full = [(at, ident) for at, ident in prefixed if ident in known[at]]
        anywhere = prefixed or [(at, name) for at in range(len(sources))]
        samples = [(at, ident) for at, ident in anywhere if sources[at].dataset.layout == "triplets"]
        found = full or plain or samples
        for at, identity in found:
            chosen[at].add(identity)
        if not found:
            absent.append(name)
    if absent or not any(ids & names for ids, names in zip(chosen, known, strict=True)):
        absent = absent or sorted(listed)
        shown = ", ".join(printable(name) for name in absent[:3]) + (", …" if len(absent) > 3 else "")
        raise DataError(
            f"{len(absent)} of {len(listed)} identities to hold out have no images in"
            f" {', '.join(printable(source.name) for source in sources)}: {shown}; mend the list"
        )
    return [ids if ids & names else set() for ids, names in zip(chosen, known, strict=True)]

"""What a person has confirmed: a table of some images' identities, and which of them training may know."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamese_search.curation.label_table import read_label_table
from siamese_search.datasets.records import ImageRecord, decode_key
from siamese_search.errors import DataError, printable

#: Of the confirmed identities, the share that training does not see: the calibration is made on those.
ASIDE = 1 / 3


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Identities of n images: by number, int64 [n], -1 where nobody said, seeds of clusters and those kept aside; and
    the names of both.
    """

    seeds: NDArray[np.int64]
    aside: NDArray[np.int64]
    names: list[str | None]

    @classmethod
    def nothing(cls, images: int) -> Confirmed:
        return cls(np.full(images, -1, np.int64), np.full(images, -1, np.int64), [None] * images)


def read_confirmed(path: Path, records: Sequence[ImageRecord], seed: int) -> Confirmed:
    """The identities that a table (``path`` or ``key`` and ``identity``, or a review) gives these images.

    A third of the identities with two images or more, by ``seed``, is kept aside, if there are three or more. Raises
    DataError where a row cannot be read or names an image that is not among them.
    """
    table = read_label_table(path, {}, ["identity"])
    if table.problems:
        line, reason = table.problems[0]
        raise DataError(f"{printable(path)}: line {line}: {reason}")
    at = {record.key: row for row, record in enumerate(records)}
    places = {_place(record.path): row for row, record in enumerate(records)}
    names: dict[int, str] = {}
    for row in table.rows:
        if row.values.get("identity") is None:
            continue
        found = at.get(row.key) if row.key else None
        if found is None and row.path:
            found = places.get(_place(row.path), places.get(_place(decode_key(row.path))))
        if found is None:
            raise DataError(
                f"{printable(path)}: line {row.line}: no image {printable(row.key or row.path)} among those that are"
                " adapted to: take the row out, or name the directory that holds it"
            )
        names[found] = str(row.values["identity"])
    if not names:
        raise DataError(f"{printable(path)}: no row gives an identity: fill the column 'identity'")
    known = np.full(len(records), -1, np.int64)
    rows = sorted(names)
    known[rows] = np.unique([names[row] for row in rows], return_inverse=True)[1].reshape(-1)
    several = np.flatnonzero(np.bincount(known[known >= 0]) > 1)
    kept = np.random.default_rng((seed, 6)).permutation(several)[: round(ASIDE * len(several))]
    apart = np.isin(known, kept if len(several) > 2 else [])
    every = [names.get(row) for row in range(len(records))]
    return Confirmed(np.where(apart, -1, known), np.where(apart, known, -1), every)


def _place(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - may hold surrogates

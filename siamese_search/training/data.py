"""What a training run learns from: images with integer labels, triplets as indices, and who is held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.layouts import Dataset, load_dataset
from siamese_search.datasets.records import ImageRecord
from siamese_search.datasets.splits import hold_out, read_identity_list, split_identities
from siamese_search.errors import DataError, UsageError, printable
from siamese_search.training.pixels import PixelSource


@dataclass(frozen=True, slots=True)
class HoldOut:
    """Which identities training must not see: a file of ids, the ids themselves, a count (≥ 1) or a share."""

    ids_file: Path | None = None
    ids: tuple[str, ...] | None = None
    amount: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Split:
    """A data set in two identity-disjoint parts. ``held`` is empty when nothing is held out."""

    layout: str
    reason: str
    train: Dataset
    held: list[ImageRecord]
    heldout_identities: list[str]


def load_split(root: Path, layout: str, holdout: HoldOut) -> Split:
    """Read a data set and split it by identity. Raises DataError where there is nothing to learn from."""
    dataset = load_dataset(root, layout)
    if not dataset.identities:
        raise DataError(
            f"{printable(root)}: layout {dataset.layout} gives no identities to learn from: use one folder per "
            "identity, Market-1501 names, or a CSV with an identity column"
        )
    ids = _chosen(dataset, holdout)
    if not ids:
        return Split(dataset.layout, dataset.reason, dataset, [], [])
    train, held = hold_out(dataset, ids)
    return Split(dataset.layout, dataset.reason, train, held.records, sorted(ids))


def _chosen(dataset: Dataset, holdout: HoldOut) -> set[str]:
    if holdout.ids is not None:
        return set(holdout.ids)
    if holdout.ids_file is not None:
        return set(read_identity_list(holdout.ids_file))
    amount = holdout.amount
    if amount == 0:
        return set()
    if 0 < amount < 1:
        return split_identities(dataset.identities, fraction=amount, seed=holdout.seed)[1]
    if amount >= 1 and amount == int(amount):
        return split_identities(dataset.identities, count=int(amount), seed=holdout.seed)[1]
    raise UsageError(f"--holdout {amount:g}: give a share below 1, a whole number, or 0 for none")


@dataclass(frozen=True)
class LabelledImages:
    """Decoded training images: ``records[i]``, ``labels[i]`` (0 … classes-1) and pixel ``rows[i]``."""

    records: list[ImageRecord]
    labels: NDArray[np.int64]
    triplets: NDArray[np.int64]  # [t, 3] indices into records; empty unless the data came as triplets
    rows: NDArray[np.int64]
    pixels: PixelSource

    def get(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 [n, H, W, 3] of these records."""
        return self.pixels.get(self.rows[indices])


def label_images(dataset: Dataset, pixels: PixelSource) -> LabelledImages:
    """Join records and pixels, leaving out what cannot be decoded and what has no identity to learn."""
    identities = set(dataset.identities)
    rows = [row for row in pixels.usable.tolist() if dataset.records[row].identity in identities]
    records = [dataset.records[row] for row in rows]
    names = sorted({str(record.identity) for record in records})
    if len(names) < 2:
        raise DataError(
            f"{len(names)} identity with readable images is left to train on, at least 2 are needed: "
            "check the files that were skipped"
        )
    label_of = {name: label for label, name in enumerate(names)}
    index_of = {record.key: index for index, record in enumerate(records)}
    triplets = [
        [index_of[key] for key in triplet]
        for triplet in dataset.triplets
        if all(key in index_of for key in triplet)
    ]
    return LabelledImages(
        records,
        np.array([label_of[str(record.identity)] for record in records], np.int64),
        np.asarray(triplets, np.int64).reshape(-1, 3),
        np.asarray(rows, np.int64),
        pixels,
    )

"""What a training run learns from: images with integer labels, triplets as indices, and who is held out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.joining import Source, join, load_sources
from siamese_search.datasets.layouts import Dataset, load_dataset
from siamese_search.datasets.records import ImageRecord
from siamese_search.datasets.splits import MIN_TRAIN_IDENTITIES, hold_out
from siamese_search.errors import DataError, printable
from siamese_search.training.holdout import HoldOut, choose_held, choose_held_by_source
from siamese_search.training.pixels import PixelSource

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "DataPaths",
    "HoldOut",
    "LabelledImages",
    "Split",
    "as_paths",
    "label_images",
    "load_split",
    "read_paths",
    "written_paths",
]

#: Where a run learns from: one data set, or several that are kept apart.
DataPaths = Path | tuple[Path, ...]


@dataclass(frozen=True)
class Split:
    """Data in two identity-disjoint parts. ``held`` is empty when nothing is held out.

    Identities and keys of several data sets are ``SOURCE/ID`` and ``SOURCE/KEY``. notes: for people, what each
    data set gave. sources: the names of several data sets, in order; empty for one.
    """

    notes: list[str]
    train: Dataset
    held: list[ImageRecord]
    heldout_identities: list[str]
    sources: tuple[str, ...] = ()


def as_paths(data: DataPaths) -> tuple[Path, ...]:
    """The paths of one data set or of several."""
    return data if isinstance(data, tuple) else (data,)


def written_paths(data: DataPaths) -> str | list[str]:
    """The data as ``run.json`` keeps it: the path of one data set, or a list of several."""
    places = [str(path.resolve()) for path in as_paths(data)]
    return places[0] if len(places) == 1 else places


def read_paths(written: str | list[str]) -> DataPaths:
    """The inverse of :func:`written_paths`."""
    return Path(written) if isinstance(written, str) else tuple(Path(place) for place in written)


def load_split(data: DataPaths, layout: str, holdout: HoldOut) -> Split:
    """Read the data and split it by identity. Raises DataError where there is nothing to learn from."""
    paths = as_paths(data)
    if len(paths) == 1:
        dataset = load_dataset(paths[0], layout)
        _check_identities(paths[0], dataset)
        notes = [f"layout {dataset.layout}: {dataset.reason}"]
        ids = choose_held(paths[0], dataset, holdout)
        if not ids:
            return Split(notes, dataset, [], [])
        train, held = hold_out(dataset, ids)
        return Split(notes, train, held.records, sorted(ids))
    sources = load_sources(paths, layout)
    for path, source in zip(paths, sources, strict=True):
        _check_identities(path, source.dataset)
    chosen = choose_held_by_source(paths, sources, holdout)
    notes, train_parts, held_parts = [], [], []
    for source, ids in zip(sources, chosen, strict=True):
        train = source.dataset
        if ids:
            train, held = hold_out(source.dataset, ids)
            held_parts.append(Source(source.name, held))
        train_parts.append(Source(source.name, train))
        labelled = set(train.identities)
        images = sum(record.identity in labelled for record in train.records)
        notes.append(
            f"{source.name}: {len(labelled)} identities, {images} images"
            f"{f', {len(ids)} identities held out' if ids else ', none held out'}"
            f"; layout {train.layout}: {train.reason}"
        )
    return Split(
        notes,
        join(train_parts),
        join(held_parts).records if held_parts else [],
        sorted(source.full(i) for source, ids in zip(sources, chosen, strict=True) for i in ids),
        tuple(source.name for source in sources),
    )


def _check_identities(path: Path, dataset: Dataset) -> None:
    found = dataset.identities
    if not found:
        raise DataError(
            f"{printable(path)}: layout {dataset.layout} gives no identities to learn from ({dataset.reason}): use one"
            " folder per identity, Market-1501 names, a pattern of names, or a CSV with an identity column"
        )
    if len(found) < MIN_TRAIN_IDENTITIES:
        raise DataError(
            f"{printable(path)}: 1 identity found ({printable(found[0])}), at least {MIN_TRAIN_IDENTITIES} are"
            " needed to learn what tells them apart: add identities"
        )


@dataclass(frozen=True)
class LabelledImages:
    """Decoded training images: ``records[i]``, ``labels[i]`` (0 … classes-1) and pixel ``rows[i]``.

    sources: the data set of each image, int64 [n], where there are several; else ``None``.
    """

    records: list[ImageRecord]
    labels: NDArray[np.int64]
    triplets: NDArray[np.int64]  # [t, 3] indices into records; empty unless the data came as triplets
    rows: NDArray[np.int64]
    pixels: PixelSource
    sources: NDArray[np.int64] | None = None

    def get(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 [n, H, W, 3] of these records."""
        return self.pixels.get(self.rows[indices])

    def get_tensor(self, indices: NDArray[np.int64], device: torch.device) -> Tensor:
        """The same on ``device``."""
        return self.pixels.get_tensor(self.rows[indices], device)

    def by_source(self) -> list[dict[str, str | int]]:
        """What each of several data sets gave: its name, identities and images."""
        names = list(dict.fromkeys(record.source for record in self.records if record.source is not None))
        found: list[dict[str, str | int]] = []
        for name in names:
            own = [record.identity for record in self.records if record.source == name]
            found.append({"name": name, "identities": len(set(own)), "images": len(own)})
        return found


def label_images(dataset: Dataset, pixels: PixelSource) -> LabelledImages:
    """Join records and pixels, leaving out what cannot be decoded and what has no identity to learn.

    Raises DataError where the data, or one of several data sets, has nothing left to learn from.
    """
    identities = set(dataset.identities)
    rows = [row for row in pixels.usable.tolist() if dataset.records[row].identity in identities]
    records = [dataset.records[row] for row in rows]
    names = sorted({str(record.identity) for record in records})
    if len(names) < MIN_TRAIN_IDENTITIES:
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
        _sources(dataset, records),
    )


def _sources(dataset: Dataset, records: list[ImageRecord]) -> NDArray[np.int64] | None:
    """The data set of each record, int64 [n], None for one; each must by itself have something to learn."""
    names = list(dict.fromkeys(record.source for record in dataset.records if record.source is not None))
    if not names:
        return None
    for name in names:
        images = Counter(record.identity for record in records if record.source == name)
        if len(images) < MIN_TRAIN_IDENTITIES or max(images.values()) < 2:
            raise DataError(
                f"{printable(name)}: {len(images)} identities and {images.total()} readable images are left to"
                " train on; each data set needs at least 2 identities, one of them with 2 images: check the"
                " files that were skipped, or leave it out"
            )
    number = {name: at for at, name in enumerate(names)}
    return np.array([number[record.source or ""] for record in records], np.int64)

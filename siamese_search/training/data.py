"""What a training run learns from: who is held out, images with integer labels, triplets as indices; and the pixels.

They are at the network's size: all resident as uint8 where they fit, else decoded again each time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.layouts import Dataset
from siamese_search.datasets.records import Failure, ImageRecord
from siamese_search.datasets.splits import (
    MIN_TRAIN_IDENTITIES,
    Source,
    draw_identities,
    hold_out,
    join,
    load_sources,
    read_identity_list,
)
from siamese_search.errors import DataError, ImageError, UsageError, amount, listed, printable
from siamese_search.io.images import read_image
from siamese_search.options import Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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


def choose_held(paths: Sequence[Path], sources: Sequence[Source], holdout: HoldOut) -> list[set[str]]:
    """The identities of each data set to hold out, by their plain names.

    A number or share is taken as where a source is trained on alone. One too small to give a share gives none, unless
    all are; a number is asked of every one. Raises DataError for names that none of them knows, and where too few
    identities are there.
    """
    if holdout.ids is not None:
        return _held_by_source(sources, set(holdout.ids))
    if holdout.ids_file is not None:
        return _held_by_source(sources, set(read_identity_list(holdout.ids_file)))
    least = MIN_HELD_IDENTITIES + MIN_TRAIN_IDENTITIES
    small = [0 < holdout.amount < 1 and len(source.dataset.identities) < least for source in sources]
    return [
        set() if none and not all(small) else _drawn(path, source.dataset, holdout)
        for path, source, none in zip(paths, sources, small, strict=True)
    ]


def _drawn(path: Path, dataset: Dataset, holdout: HoldOut) -> set[str]:
    """A number or share of the identities; a share is at least 2, for one alone would always be found."""
    wanted, names = float(holdout.amount), dataset.identities
    if wanted == 0:
        return set()
    if 0 < wanted < 1:
        count = max(MIN_HELD_IDENTITIES, round(wanted * len(names)))
    elif wanted >= 1 and wanted.is_integer():
        count = int(wanted)
    else:
        raise UsageError(f"--holdout {wanted:g}: give a share below 1, a whole number, or 0 for none")
    if len(names) - count < MIN_TRAIN_IDENTITIES:
        raise DataError(
            f"{printable(path)}: {amount(len(names), 'identity')} found ({listed(names)}), too few to hold out {count}"
            f" for validation and train on at least {MIN_TRAIN_IDENTITIES}: train on all with --holdout 0, or give"
            f" images of {count + MIN_TRAIN_IDENTITIES} identities or more"
        )
    return draw_identities(names, count, holdout.seed)


def _held_by_source(sources: Sequence[Source], named: set[str]) -> list[set[str]]:
    """Which identities each source holds out. Raises DataError for names that no source knows.

    A CSV of triplets is a sample of the images: whom no data set knows, it holds out already.
    """
    known = [set(source.dataset.identities) for source in sources]
    chosen: list[set[str]] = [set() for _ in sources]
    if not named:
        return chosen
    absent: list[str] = []
    for name in sorted(named):
        plain = [(at, name) for at in range(len(sources))]
        prefixes = [source.full("") for source in sources]
        prefixed = [(at, name[len(begin) :]) for at, begin in enumerate(prefixes) if name.startswith(begin)]
        full, anywhere = ([(at, one) for at, one in some if one in known[at]] for some in (prefixed, plain))
        samples = [(at, one) for at, one in prefixed or plain if sources[at].dataset.layout == "triplets"]
        found = full or anywhere or samples
        for at, identity in found:
            chosen[at].add(identity)
        if not found:
            absent.append(name)
    if absent or not any(ids & names for ids, names in zip(chosen, known, strict=True)):
        absent = absent or sorted(named)
        places = [source.name or source.dataset.root for source in sources]
        everybody = set().union(*known)
        raise DataError(
            f"{len(absent)} of {amount(len(named), 'identity')} to hold out have no images in"
            f" {', '.join(map(printable, places))}: {listed(absent)}; there are {len(everybody):,} identities such as"
            f" {printable(min(everybody))}; mend the list"
        )
    return [ids if ids & names else set() for ids, names in zip(chosen, known, strict=True)]


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
    """The inverse of :func:`written_paths`. Raises TypeError and ValueError for what it never wrote."""
    if not written:
        raise ValueError("no data are named")
    return Path(written) if isinstance(written, str) else tuple(Path(place) for place in written)


def load_split(data: DataPaths, layout: str, holdout: HoldOut) -> Split:
    """Read the data and split it by identity. Raises DataError where there is nothing to learn from."""
    paths = as_paths(data)
    sources = load_sources(paths, layout)
    for path, source in zip(paths, sources, strict=True):
        _check_identities(path, source.dataset)
    chosen = choose_held(paths, sources, holdout)
    notes, train_parts, held_parts = [], [], []
    for source, ids in zip(sources, chosen, strict=True):
        train = source.dataset
        if ids:
            train, held = hold_out(train, ids)
            held_parts.append(Source(source.name, held))
        train_parts.append(Source(source.name, train))
        note = f"layout {train.layout}: {train.reason}"
        if source.name:
            labelled, out = set(train.identities), f"{amount(len(ids), 'identity') if ids else 'none'} held out"
            images = amount(sum(record.identity in labelled for record in train.records), "image")
            note = f"{source.name}: {amount(len(labelled), 'identity')}, {images}, {out}; {note}"
        notes.append(note)
    return Split(
        notes,
        join(train_parts),
        join(held_parts).records if held_parts else [],
        sorted(source.full(i) for source, ids in zip(sources, chosen, strict=True) for i in ids),
        tuple(source.name for source in sources if source.name),
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
        owners = {name: [r.identity for r in self.records if r.source == name] for name in _sources_of(self.records)}
        return [{"name": name, "identities": len(set(own)), "images": len(own)} for name, own in owners.items()]


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
    labels = np.array([label_of[str(record.identity)] for record in records], np.int64)
    index_of = {record.key: index for index, record in enumerate(records)}
    triplets = [[index_of[key] for key in one] for one in dataset.triplets if index_of.keys() >= set(one)]
    given = np.asarray(triplets, np.int64).reshape(-1, 3)
    sources = _sources(dataset, records)
    return LabelledImages(records, labels, given, np.asarray(rows, np.int64), pixels, sources)


def _sources_of(records: Sequence[ImageRecord]) -> list[str]:
    return list(dict.fromkeys(record.source for record in records if record.source is not None))


def _sources(dataset: Dataset, records: list[ImageRecord]) -> NDArray[np.int64] | None:
    """The data set of each record, int64 [n], None for one; each must by itself have something to learn."""
    number = {name: at for at, name in enumerate(_sources_of(dataset.records))}
    if not number:
        return None
    for name in number:
        images = Counter(record.identity for record in records if record.source == name)
        if len(images) < MIN_TRAIN_IDENTITIES or max(images.values()) < 2:
            raise DataError(
                f"{printable(name)}: {amount(len(images), 'identity')} and {images.total():,} readable images are left"
                " to train on; each data set needs at least 2 identities, one of them with 2 images: check the"
                " files that were skipped, or leave it out"
            )
    return np.array([number[record.source or ""] for record in records], np.int64)


#: Up to this many bytes the decoded images stay in memory (Market-1501 at 256×128: 1.3 GB).
RESIDENT_BYTES = 4 << 30

#: The share of a device's free memory that the images may take; the network needs the rest.
DEVICE_SHARE = 0.5


def free_bytes(device: torch.device) -> int:
    """Free memory of a CUDA device; 0 for the CPU, where the images are already."""
    if device.type != "cuda":
        return 0
    import torch

    return int(torch.cuda.mem_get_info(device)[0])


class PixelSource:
    """uint8 images [n, H, W, 3] by index.

    Unreadable images are found at the start; ``usable`` lists the indices that decode, ``failed`` the rest.
    When the images do not fit into memory, each call decodes (in threads: Pillow lets go of the GIL).
    """

    def __init__(
        self, paths: Sequence[Path], size: tuple[int, int], *, threads: int = 2, progress: Progress | None = None
    ) -> None:
        self.paths = list(paths)
        self.size = size
        self._pool = ThreadPoolExecutor(max_workers=max(1, threads), thread_name_prefix="decode")
        self.failed = self._read(progress)
        bad = {error.path for error in self.failed}
        self.usable = np.array([i for i, path in enumerate(self.paths) if path not in bad], np.int64)
        if not len(self.usable):
            reasons = "; ".join(f"{e.path.name}: {e.reason}" for e in self.failed[:3])
            raise DataError(f"none of {len(self.paths)} training images can be read ({reasons}): check the files")

    def resize(self, size: tuple[int, int], *, progress: Progress | None = None) -> None:
        """Read the images again at another size. Raises ImageError if one has become unreadable since the start."""
        if size == self.size:
            return
        self.size = size
        known = {error.path for error in self.failed}
        for error in self._read(progress):
            if error.path not in known:
                raise error

    def _read(self, progress: Progress | None) -> list[ImageError]:
        """Decode every image at ``self.size``; those that cannot be."""
        fits = len(self.paths) * self.size[0] * self.size[1] * 3 <= RESIDENT_BYTES
        self._on_device: Tensor | None = None
        self._asked: torch.device | None = None
        self._resident: NDArray[np.uint8] | None = None  # the former pixels go before the new ones come
        self._resident = np.zeros((len(self.paths), *self.size, 3), np.uint8) if fits else None
        failed: list[ImageError] = []
        for done, error in enumerate(self._pool.map(self._load, range(len(self.paths))), start=1):
            if error is not None:
                failed.append(error)
            if progress and (done % 64 == 0 or done == len(self.paths)):
                progress(done, len(self.paths))
        return failed

    def _load(self, index: int) -> ImageError | None:
        try:
            pixels = read_image(self.paths[index], self.size)
        except ImageError as error:
            return error
        if self._resident is not None:
            self._resident[index] = pixels
        return None

    def get(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 [len(indices), H, W, 3]. Raises ImageError if a file has become unreadable since the start."""
        if self._resident is not None:
            return self._resident[indices]
        return np.stack(list(self._pool.map(lambda i: read_image(self.paths[i], self.size), indices)))

    def get_tensor(self, indices: NDArray[np.int64], device: torch.device) -> Tensor:
        """The same on ``device``: from all images there, where they fit, so that only the indices have to travel."""
        import torch

        if self._asked != device:  # once, and again after a change of size
            self._asked = device
            pixels = self._resident
            fits = pixels is not None and pixels.nbytes <= DEVICE_SHARE * free_bytes(device)
            self._on_device = torch.from_numpy(pixels).to(device, copy=True) if fits else None
        if self._on_device is None:
            return moved(torch.from_numpy(self.get(indices)), device)
        return self._on_device[moved(torch.from_numpy(indices), device)]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def unreadable(sources: Sequence[PixelSource], say: Callable[[str], None]) -> list[Failure]:
    """The images that cannot be read; ``say`` is told of them, if there are any."""
    failed = [Failure.of(error.path, error.reason) for source in sources for error in source.failed]
    if failed:
        say(f"{amount(len(failed), 'image')} left out as unreadable, the first: {failed[0].path}: {failed[0].reason}")
    return failed


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``. CUDA is not waited for: only pinned memory is copied while the CPU goes on."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)

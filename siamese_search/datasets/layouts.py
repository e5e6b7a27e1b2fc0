"""Where the identities are: in folders, in Market-1501 names, in a CSV, in triplets, or nowhere (flat)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from siamese_search.datasets.csv_layout import NOBODY, CsvLayout, Triplet, read_triplets
from siamese_search.datasets.records import (
    DISTRACTOR_IDENTITY,
    JUNK_IDENTITY,
    ImageRecord,
    encode_key,
    is_market_name,
    label_text,
    market_record,
)
from siamese_search.datasets.table import Table, read_header
from siamese_search.datasets.walk import PassedOver, walk
from siamese_search.errors import DataError, UsageError, printable

LAYOUTS = ("folders", "market1501", "csv", "triplets", "flat")

#: Folders with these names split a data set; they are not identities.
_SPLIT_NAMES = frozenset(
    {"train", "test", "val", "valid", "validation", "query", "queries", "gallery", "images"}
    | {"bounding_box_train", "bounding_box_test"}
)
_LOOKED_FOR = (
    "looked for .jpg, .png, .webp, .bmp, .tif, .ppm, .gif, also in folders; hidden files are skipped"
)
_SHOWN = 3  # offending paths named in an error
#: Why an image is left out of a layout.
_MISFITS = {
    "market1501": "does not fit the layout market1501: it has no name like 0002_c1s1_000451_03.jpg",
    "folders": "does not fit the layout folders: it lies beside the folders of the identities, not in one",
}


class NoImagesError(DataError):
    """A directory that is there and holds no image."""


@dataclass(frozen=True, slots=True)
class Detection:
    """Which layout ``root`` has, and why. ``base`` is the directory that record keys are relative to."""

    layout: str
    reason: str
    base: Path


@dataclass(frozen=True)
class Dataset:
    """A data set in memory. ``root``: the directory that record keys are relative to.

    ``triplets``: (anchor, positive, negative) keys of records; empty unless the layout is ``triplets``.
    """

    root: Path
    layout: str
    reason: str
    records: list[ImageRecord]
    triplets: list[Triplet] = field(default_factory=list)

    @property
    def identities(self) -> list[str]:
        """The identities that have images, sorted; without junk, distractors and unknown ones."""
        reserved = (None, JUNK_IDENTITY, DISTRACTOR_IDENTITY)
        return sorted(
            {r.identity for r in self.records if r.identity not in reserved and r.identity is not None}
        )


def detect_layout(
    root: Path, layout: str = "auto", *, images_root: Path | None = None, follow_links: bool = False
) -> Detection:
    """Decide which layout a directory or CSV file has.

    For a directory every image name is read, so the answer does not depend on luck: Market-1501 names if at least
    half of the images have them, else one folder per identity if most images lie in two or more top folders, else
    flat. For a CSV the header decides. With ``layout`` other than "auto" only that layout is considered.
    Images that do not fit are left out and named, as long as they are fewer than those that do.

    Raises DataError where there are no images or the layout does not fit most of them, with the first three
    offending paths; UsageError for an unknown layout.
    """
    return survey(root, layout, images_root=images_root, follow_links=follow_links).detection


def scan_records(
    root: Path, layout: str = "auto", *, images_root: Path | None = None, follow_links: bool = False
) -> Iterator[ImageRecord]:
    """Stream the records of a directory or CSV file, in an order that depends on names alone.

    Everything is checked before the first record comes, on the call itself: no images, a layout that does not
    fit and missing files raise DataError here, not in the middle of the stream. Memory does not grow with the
    number of images, except for ``triplets`` (each image once).

    images_root: the directory that a CSV's names are relative to (see :func:`table.image_base`).
    follow_links: whether links to directories are walked (loops end; default: skipped).
    """
    return survey(root, layout, images_root=images_root, follow_links=follow_links).stream()


def load_dataset(
    root: Path, layout: str = "auto", *, images_root: Path | None = None, follow_links: bool = False
) -> Dataset:
    """Read a whole data set into memory. Raises DataError as :func:`scan_records` and for repeated images.

    What is left out of it is counted in ``reason``, with the first.
    """
    surveyed = survey(root, layout, images_root=images_root, follow_links=follow_links)
    found = surveyed.detection
    records: list[ImageRecord] = []
    left_out: list[PassedOver] = []
    for one in surveyed.stream_all():
        if isinstance(one, ImageRecord):
            records.append(one)
        elif one.error is not None:
            raise one.error
        else:
            left_out.append(one)
    if found.layout == "csv":
        _refuse_repeats(root, records)
    reason = found.reason
    if left_out:
        reason += f"; {len(left_out)} left out, the first is {printable(left_out[0].relative)}: {left_out[0].reason}"
    return Dataset(found.base, found.layout, reason, records, surveyed.triplets)


def _refuse_repeats(path: Path, records: list[ImageRecord]) -> None:
    seen: set[str] = set()
    repeated = [r.key for r in records if r.key in seen or seen.add(r.key)]  # type: ignore[func-returns-value]
    if repeated:
        raise DataError(
            f"{printable(path)}: {len(repeated)} rows repeat an image: {_listed(repeated)};"
            " keep one row for each"
        )


@dataclass
class Survey:
    """A root whose layout is known and checked; ``rows`` is what a CSV has already been read into.

    Made by :func:`survey`. images: how many there were.
    """

    root: Path
    detection: Detection
    follow_links: bool = False
    rows: CsvLayout | list[ImageRecord] | None = None
    triplets: list[Triplet] = field(default_factory=list)
    images: int | None = None

    @property
    def source(self) -> str:
        """The name that keys belong to where the user names none: the real directory, encoded as keys are."""
        return encode_key(os.path.realpath(self.detection.base))

    def stream(self) -> Iterator[ImageRecord]:
        """The records, as :func:`scan_records` gives them."""
        for one in self.stream_all():
            if isinstance(one, ImageRecord):
                yield one
            elif one.error is not None:
                raise one.error

    def stream_all(self, *, inside: bool = False) -> Iterator[ImageRecord | PassedOver]:
        """The records, and what is passed over on the way to them; ``inside`` as in :func:`walk`.

        The files that a CSV lists are not looked at here, links or not.
        """
        if self.rows is not None:
            yield from self.rows
            return
        for one in walk(self.detection.base, follow_links=self.follow_links, inside=inside):
            yield self.record_of(one) if isinstance(one, str) else one

    def record_of(self, relative: str) -> ImageRecord | PassedOver:
        """The record of one image of a directory (``relative`` as :func:`walk_images` yields it).

        It is passed over where its name does not fit the layout. The images of a CSV are in its rows, not here.
        """
        base, layout = self.detection.base, self.detection.layout
        if layout == "market1501":
            return market_record(base, relative) or PassedOver(relative, _MISFITS[layout])
        if layout == "folders":
            top, inside, _ = relative.partition("/")
            if not inside:
                return PassedOver(relative, _MISFITS[layout])
            return ImageRecord(encode_key(relative), base / relative, label_text(top))
        return ImageRecord(encode_key(relative), base / relative)


def survey(
    root: Path,
    layout: str = "auto",
    *,
    images_root: Path | None = None,
    follow_links: bool = False,
    lenient: bool = False,
) -> Survey:
    """Decide and check the layout of a root in one pass over its names; then stream it, in a second.

    Parameters and errors as for :func:`scan_records`. lenient: a directory that cannot be read is no error, because
    the stream will name it, nor are missing files of a CSV, while others are there.
    """
    root = Path(root)
    if layout not in ("auto", *LAYOUTS):
        raise UsageError(f"unknown layout {layout!r}; choose from auto, {', '.join(LAYOUTS)}")
    try:
        return _survey_path(root, layout, images_root, follow_links, lenient)
    except OSError as error:  # a parent that may not be entered, a disk that fails
        raise DataError(f"{printable(root)}: cannot be read ({error.strerror or error})") from None


def _survey_path(
    root: Path, layout: str, images_root: Path | None, follow_links: bool, lenient: bool
) -> Survey:
    if root.is_dir():
        if layout not in ("csv", "triplets"):
            return _survey_directory(root, layout, follow_links, lenient)
        root = _only_csv(root, layout)
    if not root.exists():
        raise DataError(f"{printable(root)}: no such file or directory; check the path")
    if not root.is_file() or root.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise DataError(f"{printable(root)}: neither a directory of images nor a CSV file; give one of them")
    if layout in ("folders", "market1501", "flat"):
        raise DataError(f"{printable(root)}: layout {layout} needs a directory; give one, or use csv or auto")
    return _survey_table(read_header(root), layout, images_root, lenient)


def _only_csv(root: Path, layout: str) -> Path:
    found = sorted(p for p in root.iterdir() if p.suffix.lower() == ".csv" and not p.name.startswith("."))
    if len(found) != 1:
        listed = f" ({_listed([p.name for p in found])})" if found else ""
        raise DataError(
            f"{printable(root)}: layout {layout} needs one CSV and the directory has {len(found)}"
            f"{listed}; name the file"
        )
    return found[0]


def _survey_table(table: Table, layout: str, images_root: Path | None, lenient: bool) -> Survey:
    header = ",".join(printable(column) for column in table.columns)
    header = header if len(header) <= 80 else header[:77] + "..."
    if layout == "auto":
        layout = "triplets" if table.is_triplets else "csv"
    if layout == "triplets":
        base, records, triplets = read_triplets(table, images_root)
        reason = f"a CSV of triplets with the header {header} ({len(triplets)} rows, {len(records)} images)"
        detection = Detection(layout, reason, base)
        return Survey(table.path, detection, rows=records, triplets=triplets, images=len(records))
    rows = CsvLayout(table, images_root, lenient=lenient)
    told = "; ".join([f"{rows.rows} rows", *rows.notes])
    reason = "; ".join(filter(None, (f"a CSV with the header {header} ({told})", rows.unnamed)))
    return Survey(table.path, Detection(layout, reason, rows.root), rows=rows, images=rows.rows)


@dataclass
class _Names:
    """What one pass over the names of a directory found."""

    images: int = 0
    market: int = 0
    in_folders: int = 0
    folders: int = 0
    first_market: str = ""
    top_names: list[str] = field(default_factory=list)  # the first few
    not_market: list[str] = field(default_factory=list)
    not_in_folders: list[str] = field(default_factory=list)


def _read_names(root: Path, follow_links: bool, lenient: bool) -> tuple[_Names, str]:
    """What the names tell, and the first thing that was passed over, with its reason."""
    passed: list[str] = []

    def images() -> Iterator[str]:
        for one in walk(root, follow_links=follow_links):
            if isinstance(one, str):
                yield one
            elif one.error is not None and not lenient:
                raise one.error
            elif not passed:
                passed.append(f"{printable(one.relative)}: {one.reason}")

    return _count(images()), "".join(passed)


def _count(images: Iterable[str]) -> _Names:
    names = _Names()
    last_top = None
    for relative in images:
        names.images += 1
        name = relative.rpartition("/")[2]
        if is_market_name(name):
            names.market += 1
            names.first_market = names.first_market or name
        elif len(names.not_market) < _SHOWN:
            names.not_market.append(relative)
        top, inside, _ = relative.partition("/")
        if inside:
            names.in_folders += 1
            if top != last_top:  # the walk leaves a folder for good before it enters the next
                names.folders += 1
                last_top = top
                if len(names.top_names) < 16:
                    names.top_names.append(top)
        elif len(names.not_in_folders) < _SHOWN:
            names.not_in_folders.append(relative)
    return names


def _survey_directory(root: Path, layout: str, follow_links: bool, lenient: bool) -> Survey:
    names, passed = _read_names(root, follow_links, lenient)
    if names.images == 0:
        raise NoImagesError(f"{printable(root)}: no images in it ({passed or _LOOKED_FOR}); check the path")
    layout, reason = _fitting(root, names, layout)
    if layout == "folders" and (root / DISTRACTOR_IDENTITY).is_dir():
        reason += f"; {NOBODY}"
    return Survey(root, Detection(layout, reason, root), follow_links, images=names.images)


def survey_names(root: str, images: Iterable[str], layout: str) -> tuple[str, str]:
    """Decide and check the layout of images that are known by name alone: (layout, why).

    images: ``/``-joined paths below ``root``, all of a folder's in a row; at least one. Errors as for :func:`survey`.
    """
    if layout not in ("auto", *LAYOUTS):
        raise UsageError(f"unknown layout {layout!r}; choose from auto, {', '.join(LAYOUTS)}")
    return _fitting(root, _count(images), layout)


def _fitting(root: str | Path, names: _Names, layout: str) -> tuple[str, str]:
    if layout == "auto":
        layout, reason = _choose(names)
    else:
        reason = "asked for"
    if layout == "market1501" and 2 * names.market < names.images:
        raise _misfit(
            root,
            layout,
            reason,
            names.images - names.market,
            names.not_market,
            "rename them like 0002_c1s1_000451_03.jpg, move them out, or choose another layout",
        )
    if layout == "folders" and 2 * names.in_folders < names.images:
        raise _misfit(
            root,
            layout,
            reason,
            names.images - names.in_folders,
            names.not_in_folders,
            "move them into the folder of their identity, or choose layout flat",
        )
    if layout == "folders" and all(name.lower() in _SPLIT_NAMES for name in names.top_names):
        raise DataError(
            f"{printable(root)}: its folders ({_listed(names.top_names)}) are parts of a data set, not"
            " identities; give one of them, or choose layout flat"
        )
    return layout, reason


def _choose(names: _Names) -> tuple[str, str]:
    images = names.images
    if 2 * names.market >= images:
        return (
            "market1501",
            f"names like {printable(names.first_market)} ({names.market} of {images} images)",
        )
    if 2 * names.in_folders >= images and names.folders >= 2:
        return (
            "folders",
            f"one folder per identity ({names.folders} folders, {names.in_folders} of {images} images)",
        )
    if names.folders:
        return (
            "flat",
            f"{names.folders} folder{'s' * (names.folders != 1)} are no identities ({images} images)",
        )
    return "flat", f"no folders and no names like 0002_c1s1_000451_03.jpg ({images} images)"


def _misfit(
    root: str | Path, layout: str, reason: str, count: int, first: list[str], remedy: str
) -> DataError:
    return DataError(
        f"{printable(root)}: layout {layout} ({reason}) does not fit {count} image{'s' * (count != 1)}:"
        f" {_listed(first, count)}; {remedy}"
    )


def _listed(names: list[str], count: int | None = None) -> str:
    """The first three names, printable, with an ellipsis where there are more."""
    total = len(names) if count is None else count
    return ", ".join(printable(name) for name in names[:_SHOWN]) + (", …" if total > _SHOWN else "")

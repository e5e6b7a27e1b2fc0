"""Where the identities are: in folders, in Market-1501 names, in a CSV, in triplets, or nowhere (flat)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from siamese_search.datasets.csv_layout import CsvLayout, Triplet, read_triplets
from siamese_search.datasets.names import Detection, check_layout, decide
from siamese_search.datasets.records import ImageRecord, encode_key, label_text, market_record
from siamese_search.datasets.table import Table, read_header
from siamese_search.datasets.walk import PassedOver, walk
from siamese_search.errors import DataError, amount, listed, printable
from siamese_search.options import PATTERN

_LOOKED_FOR = "looked for .jpg, .png, .webp, .bmp, .tif, .ppm, .gif, also in folders; hidden files are skipped"
#: Why an image is left out of a layout.
_MISFITS = {
    "market1501": "does not fit the layout market1501: it has no name like 0002_c1s1_000451_03.jpg",
    "folders": "does not fit the layout folders: it lies beside the folders of the identities, not in one",
}


class NoImagesError(DataError):
    """A directory that is there and holds no image."""


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
        return sorted({str(record.identity) for record in self.records if record.is_somebody})


def load_dataset(root: Path, layout: str = "auto") -> Dataset:
    """Read a whole data set into memory; what is left out is counted in ``reason``. Raises as :func:`survey`."""
    surveyed = survey(root, layout)
    found = surveyed.detection
    left_out: list[PassedOver] = []
    records = list(surveyed.stream(left_out.append))
    reason = found.reason
    if left_out:
        reason += f"; {len(left_out)} left out, the first is {printable(left_out[0].relative)}: {left_out[0].reason}"
    return Dataset(found.base, found.layout, reason, records, surveyed.triplets)


@dataclass
class Survey:
    """A root whose layout is known and checked; ``rows`` is what a CSV has already been read into.

    Made by :func:`survey`. images: how many there were. known_as: its source, where that is another than its place.
    """

    root: Path
    detection: Detection
    follow_links: bool = False
    rows: CsvLayout | list[ImageRecord] | None = None
    triplets: list[Triplet] = field(default_factory=list)
    images: int | None = None
    known_as: str | None = None

    @property
    def shown(self) -> str:
        return printable(self.root)

    @property
    def source(self) -> str:
        """The name that keys belong to where the user names none: the real directory, encoded as keys are."""
        return self.known_as or encode_key(os.path.realpath(self.detection.base))

    def stream(self, left_out: Callable[[PassedOver], object] = lambda _: None) -> Iterator[ImageRecord]:
        """The records, in an order that depends on names alone; in bounded memory, except for ``triplets``."""
        for one in self.stream_all():
            if isinstance(one, ImageRecord):
                yield one
            elif one.error is not None:
                raise one.error
            else:
                left_out(one)

    def stream_all(self, *, inside: bool = False) -> Iterator[ImageRecord | PassedOver]:
        """The records, and what is passed over on the way to them; ``inside`` as in :func:`walk`.

        The files that a CSV lists are not looked at here, links or not.
        """
        if self.rows is not None:
            yield from self.rows.with_misfits() if isinstance(self.rows, CsvLayout) else self.rows
            return
        for one in walk(self.detection.base, follow_links=self.follow_links, inside=inside):
            yield self.record_of(one) if isinstance(one, str) else one

    def record_of(self, relative: str) -> ImageRecord | PassedOver:
        """The record of one image of a directory (``relative`` as :func:`walk_images` yields it).

        It is passed over where its name does not fit the layout. The images of a CSV are in its rows, not here.
        """
        base, layout = self.detection.base, self.detection.layout
        if self.detection.naming is not None:
            return self.detection.naming.record(base, relative)
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

    For a directory: Market-1501 names if at least half of the images have them, else one folder per identity if most
    images lie in two or more top folders, else flat. For a CSV the header decides. Images that do not fit are left out
    and named, as long as they are fewer than those that do.

    images_root: the directory that a CSV's names are relative to (see :func:`table.image_base`). follow_links: whether
    links to directories are walked. lenient: a directory that cannot be read is no error, because the stream will name
    it, nor are missing files of a CSV, while others are there. Raises, on the call, DataError where there are no
    images, files are missing or the layout does not fit most of them; UsageError for an unknown layout.
    """
    root = Path(root)
    check_layout(layout)
    try:
        if root.is_dir() and layout not in ("csv", "triplets"):
            return _survey_directory(root, layout, follow_links, lenient)
        return _survey_table(read_header(_table_in(root, layout)), layout, images_root, lenient)
    except OSError as error:  # a parent that may not be entered, a disk that fails
        raise DataError(f"{printable(root)}: cannot be read ({error.strerror or error})") from None


def _table_in(root: Path, layout: str) -> Path:
    """The CSV that a root is, or the only one in it."""
    if root.is_dir():
        found = sorted(p for p in root.iterdir() if p.suffix.lower() == ".csv" and not p.name.startswith("."))
        if len(found) != 1:
            named = f"{len(found)} ({listed([p.name for p in found])})" if found else "0"
            raise DataError(
                f"{printable(root)}: layout {layout} needs one CSV and the directory has {named}; name the file"
            )
        root = found[0]
    if not root.exists():
        raise DataError(f"{printable(root)}: no such file or directory; check the path")
    if not root.is_file() or root.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise DataError(f"{printable(root)}: neither a directory of images nor a CSV file; give one of them")
    if layout.startswith(PATTERN):
        raise DataError(f"{printable(root)}: a pattern is for names in a directory; a CSV has columns: leave it out")
    if layout in ("folders", "market1501", "flat"):
        raise DataError(f"{printable(root)}: layout {layout} needs a directory; give one, or use csv or auto")
    return root


def _survey_table(table: Table, layout: str, images_root: Path | None, lenient: bool) -> Survey:
    header = ",".join(map(printable, table.columns))
    header = header if len(header) <= 80 else header[:77] + "..."
    if layout == "auto":
        layout = "triplets" if table.is_triplets else "csv"
    if layout == "triplets":
        base, records, triplets = read_triplets(table, images_root)
        reason = f"a CSV of triplets with the header {header} ({amount(len(triplets), 'row')}, {len(records)} images)"
        detection = Detection(layout, reason, base)
        return Survey(table.path, detection, rows=records, triplets=triplets, images=len(records))
    rows = CsvLayout(table, images_root, lenient=lenient)
    told = "; ".join([amount(rows.rows, "row"), *rows.notes])
    reason = "; ".join(filter(None, (f"a CSV with the header {header} ({told})", rows.unnamed)))
    return Survey(table.path, Detection(layout, reason, rows.root), rows=rows, images=rows.rows)


def _survey_directory(root: Path, layout: str, follow_links: bool, lenient: bool) -> Survey:
    passed = ""  # the first thing that was passed over, with its reason

    def images() -> Iterator[str]:
        nonlocal passed
        for one in walk(root, follow_links=follow_links):
            if isinstance(one, str):
                yield one
            elif one.error is not None and not lenient:
                raise one.error
            elif not passed:
                passed = f"{printable(one.relative)}: {one.reason}"

    detection, count = decide(root, images(), layout)
    if count == 0:
        raise NoImagesError(f"{printable(root)}: no images in it ({passed or _LOOKED_FOR}); check the path")
    return Survey(root, detection, follow_links, images=count)

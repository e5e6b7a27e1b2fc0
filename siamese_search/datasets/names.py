"""What the names of images tell of the layout of their directory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from siamese_search.datasets.naming import SAMPLE, Naming, naming_of, proposal
from siamese_search.datasets.records import is_market_name
from siamese_search.errors import DataError, UsageError, printable
from siamese_search.options import PATTERN

LAYOUTS = ("folders", "market1501", "csv", "triplets", "flat")

#: Folders with these names split a data set; they are not identities.
_SPLIT_NAMES = frozenset(
    {"train", "test", "val", "valid", "validation", "query", "queries", "gallery", "images"}
    | {"bounding_box_train", "bounding_box_test"}
)
_SHOWN = 3  # offending paths named in an error


@dataclass(frozen=True, slots=True)
class Detection:
    """Which layout ``root`` has, and why. ``base`` is the directory that record keys are relative to.

    naming: the pattern of its names, where somebody gave one; the layout is ``pattern`` then.
    """

    layout: str
    reason: str
    base: Path
    naming: Naming | None = None


def check_layout(layout: str) -> None:
    """Raise UsageError for a layout that there is not."""
    if layout not in ("auto", *LAYOUTS) and not layout.startswith(PATTERN):
        raise UsageError(f"unknown layout {printable(layout)!r}; choose from auto, {', '.join(LAYOUTS)}")


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
    sample: list[str] = field(default_factory=list)  # of files, without directories
    fitting: int = 0  # names that the pattern fits
    not_fitting: list[str] = field(default_factory=list)


def _count(images: Iterable[str], naming: Naming | None, sample: int) -> _Names:
    names = _Names()
    last_top = None
    for relative in images:
        names.images += 1
        name = relative.rpartition("/")[2]
        if len(names.sample) < sample:
            names.sample.append(name)
        if naming is not None:
            if naming.see(relative):
                names.fitting += 1
            elif len(names.not_fitting) < _SHOWN:
                names.not_fitting.append(relative)
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


def decide(root: str | Path, images: Iterable[str], layout: str) -> tuple[Detection, int]:
    """Decide and check the layout of images that are known by name alone, and count them; of none it is flat.

    root: for errors, and the base. images: ``/``-joined paths below ``root``, all of a folder's in a row. Raises
    UsageError for an unknown layout, DataError for one that does not fit most of them.
    """
    check_layout(layout)
    naming = naming_of(layout)
    names = _count(images, naming, SAMPLE if layout == "auto" else 0)
    if not names.images:
        return Detection("flat", "no images", Path(root)), 0
    if naming is not None:
        naming.folders = not naming.names_identities and _choose(names)[0] == "folders"
        return Detection("pattern", _by_pattern(root, names, naming), Path(root), naming), names.images
    chosen, reason = _fitting(root, names, layout)
    if layout == "auto" and chosen in ("flat", "folders"):
        reason += proposal(names.sample, folders=chosen == "folders")
    return Detection(chosen, reason, Path(root)), names.images


def _by_pattern(root: str | Path, names: _Names, naming: Naming) -> str:
    fields = ", ".join(naming.groups)
    if 2 * names.fitting < names.images:
        raise _misfit(
            root,
            "pattern",
            printable(naming.pattern[:80]),
            names.images - names.fitting,
            names.not_fitting,
            f"mend it (it is searched in {'paths' if '/' in naming.pattern else 'names'} without their suffix)",
        )
    folders = ", identity from the first folder" if naming.folders else ""
    return f"{fields} from names ({names.fitting} of {names.images} images){folders}"


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
            f"{printable(root)}: its folders ({listed(names.top_names)}) are parts of a data set, not"
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
        f" {listed(first, count)}; {remedy}"
    )


def listed(names: list[str], count: int | None = None) -> str:
    """The first three names, printable, with an ellipsis where there are more."""
    total = len(names) if count is None else count
    return ", ".join(printable(name) for name in names[:_SHOWN]) + (", …" if total > _SHOWN else "")

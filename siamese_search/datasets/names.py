"""What the names of images tell: the layout of their directory, and fields by a pattern that somebody gave.

A layout ``pattern:REGEX`` is such a pattern. It is matched by RE2, in time linear in the name whatever the pattern.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from siamese_search.datasets import records
from siamese_search.datasets.records import BOOKKEEPING, ImageRecord, MetadataValue, encode_key, label_text
from siamese_search.datasets.walk import PassedOver
from siamese_search.errors import DataError, UsageError, amount, listed, printable
from siamese_search.options import PATTERN

_EXAMPLE = r"'(?P<identity>.+)_cam(?P<camera>\d+)'"
#: The pattern of images whose identity is the folder that they lie in.
_INNERMOST = "'(?P<identity>[^/]+)/[^/]+$'"
_MOST_DIGITS = 18  # of a whole number of 64 bits
MISFIT = "does not fit the pattern"

#: Names that are looked at for a proposal, and the share of them that it must fit.
SAMPLE, _MOST = 200, 0.9
_MARK = re.compile(r"(?:^|[_.-])(camera|cam|c)(?=[0-9])", re.IGNORECASE)


class Naming:
    """A pattern whose named groups become fields; ``identity`` and ``camera`` are what they are everywhere.

    It is searched in the file's name without its suffix, or, where it holds a ``/``, in the path below the root.
    Any other group is metadata: a whole number where all of its values are, as :meth:`see` has found, else text.
    folders: whether the first folder is the identity; for a pattern without one. takes: whether any name has given
    something.
    """

    def __init__(self, pattern: str) -> None:
        import re2  # type: ignore[import-untyped, unused-ignore]

        options = re2.Options()
        options.log_errors = False
        shown = f"pattern '{printable(pattern[:80])}'"
        try:
            self._compiled = re2.compile(pattern, options)
        except (re2.error, UnicodeEncodeError) as error:
            reason = error.args[0] if isinstance(error, re2.error) else "not UTF-8"
            told = printable(reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason)
            raise UsageError(f"{shown} is no regular expression of RE2: {told[:120]}") from None
        index = self._compiled.groupindex
        self.groups = tuple(sorted(index, key=index.__getitem__))
        if not self.groups:
            raise UsageError(f"{shown} names no field; give one with named groups, such as {_EXAMPLE}")
        named = re.findall(r"\(\?P?<(\w+)>", pattern)
        if twice := [name for name in named if named.count(name) > 1]:
            raise UsageError(f"{shown} names {twice[0]} twice; rename one group")
        if taken := [name for name in self.groups if name.lower() in BOOKKEEPING]:
            raise UsageError(f"{shown}: {taken[0]!r} is a reserved name; rename the group")
        self.pattern, self.folders, self.takes = pattern, False, False
        self._whole = "/" in pattern
        self._texts: set[str] = {"identity", "camera"}  # groups that are no whole numbers

    def see(self, relative: str) -> bool:
        """Whether a file's name fits; what its fields hold is taken in."""
        found = self._search(relative)
        self.takes |= bool(found)
        self._texts |= {name for name, text in (found or {}).items() if not _is_number(text)}
        return found is not None

    def record(self, base: Path, relative: str) -> ImageRecord | PassedOver:
        """The record of ``base / relative``; passed over where its name does not fit, in form or in kind."""
        found = self._search(relative)
        if found is None:
            return PassedOver(relative, MISFIT)
        metadata: dict[str, MetadataValue] = {}
        for name, text in found.items():
            if name in ("identity", "camera"):
                continue
            if name in self._texts:
                metadata[name] = label_text(text)
            elif _is_number(text):
                metadata[name] = int(text)
            else:  # a file that came later
                return PassedOver(relative, f"{MISFIT}: {name} is a whole number in all other names")
        given = relative.partition("/")[0] if self.folders and "/" in relative else found.get("identity")
        identity, camera = (None if one is None else label_text(one) for one in (given, found.get("camera")))
        return ImageRecord(encode_key(relative), base / relative, identity, camera, metadata)

    def _search(self, relative: str) -> dict[str, str] | None:
        """The fields of a name that have something in them, or ``None``."""
        text = relative if self._whole else relative.rpartition("/")[2]
        stem = text.rpartition(".")[0] or text
        try:
            match = self._compiled.search(stem)
        except UnicodeEncodeError:  # bytes that are not UTF-8
            match = self._compiled.search(encode_key(stem))
        return match and {name: text for name, text in match.groupdict().items() if text}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


def proposal(names: Sequence[str], *, folders: bool) -> str:
    """What to say of a pattern that would give names like these more fields, or "".

    names: of files, without directories. folders: whether folders are the identities, so that only cameras lack.
    """
    stems = [name.rpartition(".")[0] or name for name in names]
    for pattern in _candidates(stems[0], folders) if stems else ():
        found = [match for match in map(re.compile(pattern).search, stems) if match is not None]
        fields = list(re.compile(pattern).groupindex)
        counts = Counter(match[fields[0]] for match in found)
        # An identity has several images as a rule, and there are several; or it is a number, or a word of all names.
        if len(found) >= _MOST * len(stems) and 2 <= len(counts) <= len(found) / 2:
            of = " and ".join({"identity": "identities", "camera": "cameras"}[field] for field in fields)
            like = printable(names[0])
            return f"; names look like {like}: --pattern {shlex.quote(pattern)} takes {of} from them"
    return ""


def _candidates(stem: str, folders: bool) -> Iterator[str]:
    """Patterns that names like this one may have, the most telling first."""
    mark = _MARK.search(stem)
    if folders:
        if mark is not None:
            yield rf"{mark[1]}(?P<camera>\d+)"
        return
    for between in map(re.escape, "_-."):
        if mark is None:
            yield rf"(?P<identity>.+){between}\d+$"
        elif stem.startswith(mark[1]):
            yield rf"^{mark[1]}(?P<camera>\d+){between}(?P<identity>[^{between}]+)"
        else:
            yield rf"(?P<identity>.+){between}{mark[1]}(?P<camera>\d+)"


LAYOUTS = ("folders", "market1501", "csv", "triplets", "flat")

#: Folders with these names split a data set; they are not identities.
_SPLIT_NAMES = frozenset(
    {"train", "test", "val", "valid", "validation", "query", "queries", "gallery", "images"}
    | {"bounding_box_train", "bounding_box_test"}
)

#: Offending paths that are kept for an error, of each kind.
_SHOWN = 3


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


@dataclass(slots=True)
class _Fit:
    """How many names fit a layout, and the first few that do not."""

    count: int = 0
    others: list[str] = field(default_factory=list)

    def see(self, fits: bool, relative: str) -> None:
        if fits:
            self.count += 1
        elif len(self.others) < _SHOWN:
            self.others.append(relative)


@dataclass(slots=True)
class _Names:
    """What one pass over the names of a directory found."""

    images: int = 0
    market: _Fit = field(default_factory=_Fit)
    in_folders: _Fit = field(default_factory=_Fit)
    pattern: _Fit = field(default_factory=_Fit)
    folders: int = 0
    deeper: int = 0  # images in folders of folders
    first_market: str = ""
    top_names: list[str] = field(default_factory=list)  # the first few
    sample: list[str] = field(default_factory=list)  # of files, without directories


def _count(images: Iterable[str], naming: Naming | None, sample: int) -> _Names:
    names = _Names()
    last_top = None
    for relative in images:
        names.images += 1
        name = relative.rpartition("/")[2]
        if len(names.sample) < sample:
            names.sample.append(name)
        if naming is not None:
            names.pattern.see(naming.see(relative), relative)
        market = records.is_market_name(name)
        names.market.see(market, relative)
        if market and not names.first_market:
            names.first_market = name
        top, inside, below = relative.partition("/")
        names.deeper += "/" in below
        names.in_folders.see(bool(inside), relative)
        if inside and top != last_top:  # the walk leaves a folder for good before it enters the next
            names.folders += 1
            last_top = top
            if len(names.top_names) < 16:
                names.top_names.append(top)
    return names


def decide(root: str | Path, images: Iterable[str], layout: str) -> tuple[Detection, int]:
    """Decide and check the layout of images that are known by name alone, and count them; of none it is flat.

    root: for errors, and the base. images: ``/``-joined paths below ``root``, all of a folder's in a row. Raises
    UsageError for an unknown layout, DataError for one that does not fit most of them.
    """
    check_layout(layout)
    naming = Naming(layout.removeprefix(PATTERN)) if layout.startswith(PATTERN) else None
    names = _count(images, naming, SAMPLE if layout == "auto" else 0)
    if not names.images:
        return Detection("flat", "no images", Path(root)), 0
    if naming is not None:
        naming.folders = "identity" not in naming.groups and _choose(names)[0] == "folders"
        return Detection("pattern", _by_pattern(root, names, naming), Path(root), naming), names.images
    chosen, reason = _fitting(root, names, layout)
    if chosen == "folders" and 4 * names.deeper >= names.images:
        reason += f"; some hold folders: --pattern {_INNERMOST} takes the innermost as identities"
    elif layout == "auto" and chosen in ("flat", "folders"):
        reason += proposal(names.sample, folders=chosen == "folders")
    return Detection(chosen, reason, Path(root)), names.images


def _by_pattern(root: str | Path, names: _Names, naming: Naming) -> str:
    searched = "paths" if "/" in naming.pattern else "names"
    remedy = f"mend it (it is searched in {searched} without their suffix)"
    _check(root, f"pattern ({printable(naming.pattern[:80])})", names.images, names.pattern, remedy)
    if not naming.takes:  # and would take away what images have by their folders
        raise DataError(f"{printable(root)}: the pattern fits, and takes nothing from any name: {remedy}")
    nobody = "" if "identity" in naming.groups else "; no group 'identity', so there are none"
    folders = ", identity from the first folder" if naming.folders else nobody
    fields = ", ".join(naming.groups)
    return f"{fields} from names ({names.pattern.count} of {amount(names.images, 'image')}){folders}"


def _fitting(root: str | Path, names: _Names, layout: str) -> tuple[str, str]:
    layout, reason = _choose(names) if layout == "auto" else (layout, "asked for")
    shown = f"{layout} ({reason})"
    if layout == "market1501":
        remedy = "rename them like 0002_c1s1_000451_03.jpg, move them out, or choose another layout"
        _check(root, shown, names.images, names.market, remedy)
    if layout == "folders":
        remedy = "move them into the folder of their identity, or choose layout flat"
        _check(root, shown, names.images, names.in_folders, remedy)
        if all(name.lower() in _SPLIT_NAMES for name in names.top_names):
            raise DataError(
                f"{printable(root)}: its folders ({listed(names.top_names)}) are parts of a data set, not"
                " identities; give one of them, or choose layout flat"
            )
    return layout, reason


def _choose(names: _Names) -> tuple[str, str]:
    images, market, inside = names.images, names.market.count, names.in_folders.count
    if 2 * market >= images:
        return "market1501", f"names like {printable(names.first_market)} ({market} of {amount(images, 'image')})"
    if 2 * inside >= images and names.folders >= 2:
        return "folders", f"one folder per identity ({names.folders} folders, {inside} of {amount(images, 'image')})"
    if 2 * inside >= images:
        name = printable(names.top_names[0])
        return "flat", f"{inside} of {amount(images, 'image')} in one folder: --layout folders takes {name} as identity"
    if names.folders:
        return "flat", f"only {inside} of {amount(images, 'image')} in folders, so these are no identities"
    return "flat", f"no folders and no names like 0002_c1s1_000451_03.jpg ({amount(images, 'image')})"


def _check(root: str | Path, layout: str, images: int, fit: _Fit, remedy: str) -> None:
    """Raise DataError where a layout does not fit most of the names."""
    if 2 * fit.count < images:
        count = images - fit.count
        raise DataError(
            f"{printable(root)}: layout {layout} does not fit {amount(count, 'image')}:"
            f" {listed(fit.others, count)}; {remedy}"
        )

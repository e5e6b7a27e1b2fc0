"""Fields from file names, by a pattern that somebody gave; and a pattern to propose where names look alike.

A layout ``pattern:REGEX`` is such a pattern. It is matched by RE2, in time linear in the name whatever the pattern.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from siamese_search.datasets.records import BOOKKEEPING, ImageRecord, MetadataValue, encode_key, label_text
from siamese_search.datasets.walk import PassedOver
from siamese_search.errors import UsageError, printable
from siamese_search.options import PATTERN

_EXAMPLE = r"'(?P<identity>.+)_cam(?P<camera>\d+)'"
_MOST_DIGITS = 18  # of a whole number of 64 bits
MISFIT = "does not fit the pattern"

#: Names that are looked at for a proposal, and the share of them that it must fit.
SAMPLE, _MOST = 200, 0.9
_MARK = re.compile(r"(?:^|[_.-])(camera|cam|c)(?=[0-9])", re.IGNORECASE)


class Naming:
    """A pattern whose named groups become fields; ``identity`` and ``camera`` are what they are everywhere.

    It is searched in the file's name without its suffix, or, where it holds a ``/``, in the path below the root.
    Any other group is metadata: a whole number where all of its values are, as :meth:`see` has found, else text.
    folders: whether the first folder is the identity; for a pattern without one.
    """

    def __init__(self, pattern: str) -> None:
        import re2  # type: ignore[import-untyped, unused-ignore]

        options = re2.Options()
        options.log_errors = False
        shown = f"pattern {printable(pattern[:80])!r}"
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
        taken = [name for name in self.groups if name.lower() in BOOKKEEPING]
        if taken:
            raise UsageError(f"{shown}: {taken[0]!r} is a reserved name; rename the group")
        self.pattern, self.folders = pattern, False
        self._whole = "/" in pattern
        self._texts: set[str] = {"identity", "camera"}  # groups that are no whole numbers

    @property
    def names_identities(self) -> bool:
        return "identity" in self.groups

    def see(self, relative: str) -> bool:
        """Whether a file's name fits; what its fields hold is taken in."""
        found = self._search(relative)
        for name, text in (found or {}).items():
            if name not in self._texts and not _is_number(text):
                self._texts.add(name)
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
        record = ImageRecord(encode_key(relative), base / relative, metadata=metadata)
        identity = relative.partition("/")[0] if self.folders and "/" in relative else found.get("identity")
        camera = found.get("camera")
        return replace(
            record,
            identity=None if identity is None else label_text(identity),
            camera=None if camera is None else label_text(camera),
        )

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


def naming_of(layout: str) -> Naming | None:
    """The naming of a layout that is a pattern. Raises UsageError for one that cannot be."""
    return Naming(layout.removeprefix(PATTERN)) if layout.startswith(PATTERN) else None


def proposal(names: Sequence[str], *, folders: bool) -> str:
    """What to say of a pattern that would give names like these more fields, or "".

    names: of files, without directories. folders: whether folders are the identities, so that only cameras lack.
    """
    stems = [name.rpartition(".")[0] or name for name in names]
    for pattern in _candidates(stems[0], folders) if stems else ():
        found = [match for match in map(re.compile(pattern).search, stems) if match is not None]
        fields = list(re.compile(pattern).groupindex)
        if len(found) < _MOST * len(stems):
            continue
        counts = Counter(match[fields[0]] for match in found)
        # An identity has several images as a rule, and there are several; or it is a number, or a word of all names.
        if len(counts) >= 2 and 2 * len(counts) <= len(found):
            of = " and ".join({"identity": "identities", "camera": "cameras"}[field] for field in fields)
            like = printable(names[0])
            return f"; names look like {like}: --pattern {shlex.quote(pattern)} takes {of} from them"
    return ""


def _candidates(stem: str, folders: bool) -> Iterator[str]:
    """Patterns that names like this one may have, the most telling first."""
    mark = _MARK.search(stem)
    if mark is not None:
        word = mark[1]
        if folders:
            yield rf"{word}(?P<camera>\d+)"
            return
        for separator in "_-.":
            between = re.escape(separator)
            if stem.startswith(word):
                yield rf"^{word}(?P<camera>\d+){between}(?P<identity>[^{between}]+)"
            else:
                yield rf"(?P<identity>.+){between}{word}(?P<camera>\d+)"
    elif not folders:
        for separator in "_-.":
            yield rf"(?P<identity>.+){re.escape(separator)}\d+$"

"""Every error that a user can meet, each with its exit code.

A message is one line: what happened, to which file or value, and what to do about it. The command line prints
``str(error)`` and exits with ``error.exit_code``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
EXIT_INTERRUPTED = 130

#: A command that a message names, of those that take a store and a gallery.
_NAMED = re.compile(
    r"\bsss (ingest|search|info|cluster|calibrate|evaluate|label|reindex|rollback|verify|optimise)(?![\w:-])"
)


class SiameseSearchError(Exception):
    """Base of all errors meant for a user's eyes."""

    exit_code: int = EXIT_FAILED

    def _render_traceback_(self) -> list[str]:
        """What IPython and notebooks show in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(SiameseSearchError):
    """An option, argument or setting has a value that cannot work (k = 0, an unknown preset)."""

    exit_code = EXIT_USAGE


class SettingsError(UsageError):
    """``sss.toml`` or an ``SSS_*`` variable cannot be read or holds a wrong value."""


class ImageError(SiameseSearchError):
    """One image cannot be used. ``reason`` stands alone, for failure lists: ``truncated JPEG``."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{printable(path)}: {reason}")
        self.path = Path(path)
        self.reason = reason


class DataError(SiameseSearchError):
    """A data set cannot be used as asked (no images, wrong layout, unknown held-out identity)."""


class BundleError(SiameseSearchError):
    """A model bundle is missing, truncated, or made for another version."""


class MissingExtraError(SiameseSearchError):
    """A command needs an optional dependency that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the [{extra}] extra: pip install 'siamese-search[{extra}]'")


class TrainingError(SiameseSearchError):
    """Training cannot go on (NaN loss, collapsed triplets, a run directory of another configuration)."""


class ClusterError(SiameseSearchError):
    """A cluster of machines cannot be reached, or has given up."""


class StoreError(SiameseSearchError):
    """A vector store cannot be opened, read or written."""


class StoreBusyError(StoreError):
    """Another process holds the store for longer than we were willing to wait."""


class GalleryNotFoundError(StoreError):
    """The named gallery does not exist in the store."""


class GalleryReplacedError(StoreError):
    """The generation that an open gallery stood for is no longer the one to use: open the gallery again."""


class ModelMismatchError(StoreError):
    """The gallery's vectors come from another model than the one in hand."""


class NotThereError(SiameseSearchError):
    """What was named (a point, an identity, an edit) is not in the gallery."""


class RefusedError(SiameseSearchError):
    """A change that the server does not make: it is read-only, or somebody else has changed the same since."""


class FilterError(UsageError):
    """A ``--where`` expression cannot be parsed, or names an unknown field."""


def listed(names: Sequence[str], count: int | None = None) -> str:
    """The first three names, printable, with an ellipsis where there are more. count: how many there are."""
    total = len(names) if count is None else count
    return ", ".join(printable(name) for name in names[:3]) + (", …" if total > 3 else "")


def amount(number: float, noun: str, nouns: str = "") -> str:
    """``1 image``, ``1,300 images``. nouns: where they are more than the noun and an s, or -ies for its y."""
    if number != 1:
        noun = nouns or (f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s")
    return f"{number:,} {noun}"


def in_words(error: BaseException, most: int | None = 160, *, named: bool = False) -> str:
    """What an error of somebody else's code says, safe to print; its kind where that is nothing, or before it."""
    words, kind = printable(" ".join(str(error).split()))[:most], type(error).__name__
    return f"{kind}: {words}" if words and named else words or kind


def at_place(text: str, words: Sequence[str]) -> str:
    """The text, with the words that name a store and a gallery behind each of its commands that takes them."""
    return _NAMED.sub(lambda found: " ".join([found[0], *map(quote, words)]), text)


def printable(path: str | os.PathLike[str]) -> str:
    """A path as text that is safe to print: undecodable bytes and control characters are escaped."""
    text = os.fspath(path)
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair, as JSON can hold it
        data = text.encode("utf-8", "surrogatepass")
    text = data.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)

"""ImageRecord: one image of one identity, as every part of the system sees it; and an image that was skipped."""

from __future__ import annotations

import os
import re
import unicodedata
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from siamese_search.errors import printable

MetadataValue = str | int | float | bool

#: Payload fields of a point that say which file it is of and what was done with it, and nothing of what it shows.
BOOKKEEPING = frozenset({"source", "key", "path", "size", "mtime_ns", "crc", "digest", "carried", "labelled"})
#: All that are not metadata: ingest writes them, and the gallery its ``crc`` of the vector.
NO_METADATA = BOOKKEEPING | {"identity", "camera"}

#: Market-1501's two reserved identities: a junk box is ignored in rankings, a distractor is a negative.
JUNK_IDENTITY = "-1"
DISTRACTOR_IDENTITY = "0000"
RESERVED_IDENTITIES = frozenset({JUNK_IDENTITY, DISTRACTOR_IDENTITY})

#: Namespace of all point ids; changing it would orphan every existing gallery.
_POINT_NAMESPACE = uuid.UUID("6f1d5a0e-5a55-5c0d-9b0e-51a3e5e5ea2c")


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image file. ``identity`` and ``camera`` are ``None`` where unknown.

    ``key``: the POSIX path relative to the source root, by :func:`encode_key`; ``path``: where the file is on this
    machine. ``metadata``: flat str, int, float or bool. ``source``: the data set, where several are read as one.
    """

    key: str
    path: Path
    identity: str | None = None
    camera: str | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    source: str | None = None

    @property
    def reserved(self) -> str | None:
        """Which reserved identity this is; ``None`` for a person, or nothing."""
        return self.identity if stands_for_many(self.identity, self.key) else None

    @property
    def is_somebody(self) -> bool:
        return is_somebody(self.identity, self.key)


def point_id(source: str, key: str) -> str:
    """The uuid5 of (source, key): the same file is the same point, from any machine."""
    return str(uuid.uuid5(_POINT_NAMESPACE, f"{source}\x00{key}"))


def encode_key(relative: str | os.PathLike[str]) -> str:
    """A relative path as UTF-8 text, losslessly: bytes that are not valid, ``%`` and control characters are
    percent-escaped. The inverse is :func:`decode_key`.
    """
    raw = os.fsencode(relative)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return quote(raw, safe="/ !#$&'()*+,-.:;<=>?@[]^_`{|}~\"\\")
    if "%" not in text and text.isprintable():
        return text
    return "".join(c if c != "%" and c.isprintable() else quote(c.encode(), safe="") for c in text)


def decode_key(key: str) -> str:
    """The relative path (with surrogate escapes where needed) that :func:`encode_key` encoded."""
    return os.fsdecode(unquote_to_bytes(key))


def label_text(name: str) -> str:
    """An identity or camera as text that can be stored and printed: itself, or as a key where it cannot.

    In Unicode's composed form (NFC): a name from a Mac, which takes letters and accents apart, is the same person.
    """
    return unicodedata.normalize("NFC", name) if name.isprintable() else encode_key(name)


@dataclass(frozen=True, slots=True)
class Failure:
    """One image that was skipped, and why. ``path`` is the real one, which is not always safe to print (``shown`` is);
    ``reason`` stands alone: ``truncated JPEG``.
    """

    path: str
    reason: str

    @classmethod
    def of(cls, path: str | os.PathLike[str], reason: str) -> Failure:
        return cls(os.fspath(path), reason)

    @property
    def shown(self) -> str:
        return printable(self.path)

    def to_json(self) -> dict[str, str]:
        return {"path": self.path, "reason": self.reason}


#: Market-1501's names: ``0002_c1s1_000451_03.jpg`` is identity 0002, camera 1, sequence 1, frame 451, detection 3
#: (Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015). Relatives are read too: DukeMTMC-reID
#: (``0005_c2_f0046985.jpg``), VeRi (``0001_c001_00016450_0.jpg``), doubled suffixes and a word at the end (``_bbox``).
_MARKET_NAME = re.compile(
    r"(?P<identity>-1|[0-9]{1,12})_c(?P<camera>[0-9]{1,9})(?:s(?P<sequence>[0-9]{1,9}))?"
    r"_f?(?P<frame>[0-9]{1,15})(?:_(?P<detection>[0-9]{1,9}))?(?:_[A-Za-z][A-Za-z0-9]*)?(?:\.[A-Za-z]{2,4}){1,2}"
)


def is_market_name(name: str) -> bool:
    """Whether a file name (no directories) follows the Market-1501 pattern."""
    return _MARKET_NAME.fullmatch(name) is not None


def stands_for_many(identity: object, key: str) -> bool:
    """Whether an identity is junk or distractors: in Market-1501's names only. Elsewhere, 0000 is a person's name."""
    return identity in RESERVED_IDENTITIES and is_market_name(key.rpartition("/")[2])


def is_somebody(identity: object, key: str) -> bool:
    """Whether an identity is one of its own: not unknown, and not one that stands for many."""
    return identity is not None and not stands_for_many(identity, key)


def parse_market_name(name: str) -> tuple[str, str, dict[str, MetadataValue]] | None:
    """(identity, camera, metadata) of a file name without directories, or ``None`` where it does not fit.

    The identity keeps its zeros (``0002``); the camera loses them (``c001`` → ``1``). Metadata holds what the
    name has of ``sequence``, ``frame`` and ``detection``, as int.
    """
    match = _MARKET_NAME.fullmatch(name)
    if match is None:
        return None
    metadata: dict[str, MetadataValue] = {
        field: int(match[field]) for field in ("sequence", "frame", "detection") if match[field] is not None
    }
    return match["identity"], str(int(match["camera"])), metadata


def market_record(root: Path, relative: str) -> ImageRecord | None:
    """The record of ``root / relative``, or ``None`` where its name does not fit."""
    parsed = parse_market_name(relative.rpartition("/")[2])
    if parsed is None:
        return None
    identity, camera, metadata = parsed
    return ImageRecord(encode_key(relative), root / relative, identity, camera, metadata)

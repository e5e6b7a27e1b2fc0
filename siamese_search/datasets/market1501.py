"""Market-1501 file names: ``0002_c1s1_000451_03.jpg`` is identity 0002 at camera 1.

Sequence 1, frame 451 and detection 3 are the rest of it. Identity ``-1`` marks junk boxes and ``0000``
distractors (Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015). Relatives are read
too: DukeMTMC-reID (``0005_c2_f0046985.jpg``), VeRi (``0001_c001_00016450_0.jpg``), doubled suffixes
(``….jpg.jpg``) and a trailing word (``…_03_bbox.png``).
"""

from __future__ import annotations

import re
from pathlib import Path

from siamese_search.datasets.records import ImageRecord, MetadataValue, encode_key

_NAME = re.compile(
    r"(?P<identity>-1|[0-9]{1,12})_c(?P<camera>[0-9]{1,9})(?:s(?P<sequence>[0-9]{1,9}))?"
    r"_f?(?P<frame>[0-9]{1,15})(?:_(?P<detection>[0-9]{1,9}))?(?:_[A-Za-z][A-Za-z0-9]*)?(?:\.[A-Za-z]{2,4}){1,2}"
)


def is_market_name(name: str) -> bool:
    """Whether a file name (no directories) follows the Market-1501 pattern."""
    return _NAME.fullmatch(name) is not None


def parse_market_name(name: str) -> tuple[str, str, dict[str, MetadataValue]] | None:
    """(identity, camera, metadata) of a file name without directories, or ``None`` where it does not fit.

    The identity keeps its zeros (``0002``); the camera loses them (``c001`` → ``1``). Metadata holds what the
    name has of ``sequence``, ``frame`` and ``detection``, as int.
    """
    match = _NAME.fullmatch(name)
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

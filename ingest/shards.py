"""Shards: one directory split over independent workers, none of which knows of the others.

A file belongs to the shard that its key says, and nothing else: not to the order of the walk, the machine, the mount
point or the other files. So a file that is added moves no other one, and a worker that is started again has the same
files. All workers see all names (so they choose the same layout), and each reads only its own files.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from siamese_search.errors import UsageError, printable

#: The variable in which a Kubernetes job of ``completionMode: Indexed`` tells each pod its number.
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
MAX_SHARDS = 100_000

_TEXT = re.compile(r"(-?[0-9]{1,6}|auto)/(-?[0-9]{1,6})")
_HASH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``index`` (from 0) of ``count`` parts."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_SHARDS:
            raise UsageError(f"shard {self}: there are 1 to {MAX_SHARDS} shards; give I/N, such as 0/4")
        if not 0 <= self.index < self.count:
            last = self.count - 1
            raise UsageError(f"shard {self}: with {self.count} shards the first is 0 and the last {last}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def has(self, key: str) -> bool:
        """Whether the file of this key (:func:`~siamese_search.datasets.records.encode_key`) is in this shard."""
        return shard_of(key, self.count) == self.index


def shard_of(key: str, count: int) -> int:
    """The shard of a key: floor(h · count / 2⁶⁴), where h is BLAKE2b-64 of the key in UTF-8, read big-endian.

    h is as good as uniform, so every shard gets its share whatever ``count`` is (the bias is below count / 2⁶⁴, also
    where ``count`` is no power of two), and whatever the names have in common. Written down here because it may never
    change: workers of two releases must agree.
    """
    digest = hashlib.blake2b(key.encode(), digest_size=_HASH_BYTES).digest()
    return (int.from_bytes(digest, "big") * count) >> (8 * _HASH_BYTES)


def parse_shard(text: str, env: Mapping[str, str] | None = None) -> Shard:
    """``"0/4"`` … ``"3/4"``; ``"auto/4"`` takes the index that Kubernetes gives a pod (:data:`INDEX_VARIABLE`).

    env: the environment (default: ``os.environ``). Raises UsageError for anything else.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise UsageError(f"shard {printable(text)!r}: give I/N (0/4 is the first of four) or auto/N")
    index, count = found.groups()
    if index == "auto":
        told = (os.environ if env is None else env).get(INDEX_VARIABLE, "")
        if not re.fullmatch(r"[0-9]{1,6}", told):
            what = f"is {printable(told)!r}" if told else "is not set"
            raise UsageError(
                f"shard {text}: {INDEX_VARIABLE} {what}, as it is in a Kubernetes job with completionMode:"
                " Indexed; give the number itself, such as 0/4"
            )
        index = told
    return Shard(int(index), int(count))


def check_combination(shard: Shard | None, *, checksum: bool, prune: bool) -> None:
    """Refuse what only a run over all files can do. Raises UsageError.

    A file that moved from one shard's key to another's is found by the shard that has its new key, which looks for the
    point with its content. Were the first shard to prune meanwhile, the point and its labels would be gone by then.
    """
    if shard is not None and checksum and prune:
        raise UsageError(
            f"shard {shard}: checksums and pruning together need all files, or a file that moved between shards would"
            " lose its labels; prune afterwards, in one run without --shard"
        )

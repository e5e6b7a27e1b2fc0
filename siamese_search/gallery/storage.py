"""How a gallery keeps its vectors: their number format, and a quantised copy of them to search in.

Float16 halves the space; the checksum (``crc``) is that of the float32 values that are read back, in every format. A
quantised copy (8, 4 or 1 bits a number) is what a search reads first; it hands over more candidates than were asked
for, and those are scored again with the stored vectors: scores are exact, and only a neighbour that is no candidate can
be missed. A graph (HNSW) is a third way, and pays only for large galleries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VECTORS = ("float32", "float16")
QUANTISATIONS = ("none", "int8", "int4", "binary")

#: Candidates per result asked for that are scored again with the stored vectors.
OVERSAMPLING = {"int8": 2.0, "int4": 4.0, "binary": 16.0}

#: Points from which an index pays, by the format that is searched without one, at 512-D: where a search takes some
#: 40 to 60 ms of one core (measured at 20,000 and 100,000; it grows in proportion). At 100,000 in int4 an index cost
#: 140 s of processor time, as much as 50,000 searches, and a search by camera took five times as long with it.
_INDEX_FROM = {"float32": 400_000, "float16": 500_000, "int8": 1_000_000, "int4": 2_000_000, "binary": 4_000_000}
#: Points from which a compact segment pays: it opens three times as fast, in a third of the memory.
COMPACT_FROM = 20_000
#: Of the HNSW graph: edges per point, candidates while it is built, candidates of a search, and of one with a filter.
M, EF_CONSTRUCT, EF_SEARCH, EF_FILTERED = 16, 128, 128, 512
#: Points of 512-D up to which a search with a filter is exact although there is a graph. A filter cuts its links: of
#: 20,000 clustered vectors a graph with ACORN gave a recall@10 of 0.75 to 0.92 under filters that keep a third to five
#: sixths, in 11 to 48 ms, the exact search 1.0 in 2 to 6 ms (``benchmarks/filtered_recall.py``), growing linearly.
_EXACT_UP_TO = 100_000


@dataclass(frozen=True, slots=True)
class Storage:
    """The storage of a gallery, chosen when it (or a new generation of it) is made.

    vectors: ``float32`` or ``float16``. quantisation: ``none``, ``int8``, ``int4`` or ``binary``.
    """

    vectors: str = "float32"
    quantisation: str = "none"

    def __post_init__(self) -> None:
        if self.vectors not in VECTORS:
            raise ValueError(f"vectors are stored as one of {', '.join(VECTORS)}, not {self.vectors!r}")
        if self.quantisation not in QUANTISATIONS:
            raise ValueError(f"quantisation is one of {', '.join(QUANTISATIONS)}, not {self.quantisation!r}")

    def rounded(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rows, float32 of any shape, as they will be read back."""
        return rows if self.vectors == "float32" else rows.astype("float16").astype("float32")

    @property
    def searched(self) -> str:
        """The format that a search reads first: the quantised copy's, or else the vectors' own."""
        return self.vectors if self.quantisation == "none" else self.quantisation

    def changed(self, vectors: str | None, quantisation: str | None) -> Storage:
        """With these in the place of its own; None keeps one."""
        return Storage(vectors or self.vectors, quantisation or self.quantisation)

    def to_json(self) -> dict[str, str]:
        return {"vectors": self.vectors, "quantisation": self.quantisation}

    def __str__(self) -> str:
        """For people: ``float16, searched in int4``."""
        return self.vectors if self.quantisation == "none" else f"{self.vectors}, searched in {self.quantisation}"


DEFAULT_STORAGE = Storage()


def read_storage(document: Any) -> Storage:
    """The storage in a gallery's own description; a description without one is of the first kind there was.

    Raises ValueError for what is no storage.
    """
    if document is None:
        return DEFAULT_STORAGE
    if not isinstance(document, Mapping):
        raise ValueError("the storage is not an object")
    return Storage(document.get("vectors", "float32"), document.get("quantisation", "none"))


def exact_if_filtered(points: int, dim: int, quantised: bool) -> bool:
    """Whether a search with a filter passes by the graph: exact is faster. A quantised copy is for what is larger."""
    return not quantised and points * dim <= _EXACT_UP_TO * 512


def pays_index(points: int, dim: int, storage: Storage) -> bool:
    """Whether a gallery is large enough for an HNSW index."""
    return points * dim >= _INDEX_FROM[storage.searched] * 512

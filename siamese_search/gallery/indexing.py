"""When an embedded gallery is optimised, and what its graph is like. Pure arithmetic, without the engine."""

from __future__ import annotations

from siamese_search.gallery.storage import Storage

#: Points from which an index pays, by the format that is searched without one, at 512-D: where a search takes some
#: 40 to 60 ms of one core (measured at 20,000 and 100,000; it grows in proportion). At 100,000 in int4 an index cost
#: 140 s of processor time, as much as 50,000 searches, and a search by camera took five times as long with it.
_INDEX_FROM = {
    "float32": 400_000,
    "float16": 500_000,
    "int8": 1_000_000,
    "int4": 2_000_000,
    "binary": 4_000_000,
}
#: Points from which a compact segment pays: it opens three times as fast, in a third of the memory.
COMPACT_FROM = 20_000
#: Of the HNSW graph: edges per point, candidates while it is built, candidates of a search.
M, EF_CONSTRUCT, EF_SEARCH = 16, 128, 128


def pays_index(points: int, dim: int, storage: Storage) -> bool:
    """Whether a gallery is large enough for an HNSW index."""
    return points * dim >= _INDEX_FROM[storage.searched] * 512

"""What it costs to search in a quantised copy of the vectors (8, 4 or 1 bits a number), measured as searches see it."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.evaluation.protocol import Protocol
from siamese_search.evaluation.through_gallery import TOP, rank_through
from siamese_search.gallery.contract import Gallery, ModelRef
from siamese_search.gallery.storage import Storage

#: Results fetched per query where nobody says how many. A search for a whole gallery would never use the copy.
DEPTH = 100

_UPSERT_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Quantised:
    """Figures of one way to quantise, beside those of the vectors as they are; both from the database.

    rank1, mAP and their ``exact_`` counterparts: over the first ``depth`` results of each query, so that mAP is
    mAP@depth. recall: share of the exact ten nearest that a search for ten results finds.
    """

    quantisation: str
    depth: int
    rank1: float
    mAP: float  # noqa: N815 - the field's name
    exact_rank1: float
    exact_mAP: float  # noqa: N815
    recall: float

    def to_json(self) -> dict[str, Any]:
        return {
            "quantisation": self.quantisation,
            "depth": self.depth,
            "rank1": self.rank1,
            "mAP": self.mAP,
            "exact": {"rank1": self.exact_rank1, "mAP": self.exact_mAP},
            "recall": self.recall,
        }


def measure_quantised(
    kinds: Sequence[str],
    plan: Protocol,
    query_vectors: NDArray[np.float32],
    gallery_vectors: NDArray[np.float32],
    depth: int | None = None,
) -> list[Quantised]:
    """Rank the plan through a temporary gallery of each kind, and through one that is not quantised.

    kinds: of :data:`siamese_search.gallery.storage.QUANTISATIONS`, ``none`` aside. query_vectors: float32 [q, d], rows
    as ``plan.queries``; gallery_vectors: float32 [g, d], rows as ``plan.gallery``, unit length. depth: results fetched
    per query, :data:`DEPTH` by default. Each gallery is optimised as ``sss optimise`` would: from some size on it is
    compact, and from a larger one on it has an index, whose losses are part of the figures then.
    """
    places = {str(uuid.UUID(int=place + 1)): place for place in range(len(gallery_vectors))}
    most = DEPTH if depth is None else depth
    if not kinds:
        return []
    with _filled("none", gallery_vectors, list(places)) as gallery:
        exact = rank_through(gallery, plan, query_vectors, gallery_vectors, places, depth=most).metrics
    found: list[Quantised] = []
    for kind in dict.fromkeys(kinds):
        with _filled(kind, gallery_vectors, list(places)) as gallery:
            own = rank_through(gallery, plan, query_vectors, gallery_vectors, places, depth=most).metrics
            nearest = rank_through(gallery, plan, query_vectors, gallery_vectors, places, depth=TOP)
        found.append(Quantised(kind, most, own.rank1, own.mAP, exact.rank1, exact.mAP, nearest.recall))
    return found


@contextmanager
def _filled(kind: str, vectors: NDArray[np.float32], ids: Sequence[str]) -> Iterator[Gallery]:
    """A temporary embedded gallery of these vectors."""
    from siamese_search.gallery import open_gallery

    model = ModelRef("quantised", int(vectors.shape[1]))
    with (
        tempfile.TemporaryDirectory(prefix="sss-quantised-") as store,
        open_gallery(
            store, model=model, create=True, mode="w", storage=Storage(quantisation=kind)
        ) as gallery,
    ):
        for start in range(0, len(ids), _UPSERT_BATCH):
            part = slice(start, start + _UPSERT_BATCH)
            gallery.upsert(ids[part], vectors[part], [{} for _ in ids[part]])
        gallery.optimise()
        yield gallery

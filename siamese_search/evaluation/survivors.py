"""What is compared with what, before anything is embedded, and again without the images that could not be read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import ImageRecord
from siamese_search.evaluation.embedding import Embedded
from siamese_search.evaluation.protocol import Protocol, all_vs_all, market


def plan_of(
    records: Sequence[ImageRecord], queries: Sequence[ImageRecord] | None, use_cameras: bool
) -> Protocol:
    """The protocol of these records: one set against itself, or queries against a gallery."""
    if queries is None:
        return all_vs_all(records, use_cameras=use_cameras)
    return market(queries, records, use_cameras=use_cameras)


def plan_of_survivors(
    plan: Protocol,
    records: Sequence[ImageRecord],
    queries: Sequence[ImageRecord] | None,
    embedded: Embedded,
    use_cameras: bool,
) -> tuple[Protocol, NDArray[np.float32], NDArray[np.float32]]:
    """The plan again, without the images that failed, with the vectors of its queries and of its gallery.

    Planning anew from *all* records less the failures keeps the counts of junk and unlabelled images.
    """
    ranked = len(plan.gallery)
    vector_of = np.full(ranked + (0 if queries is None else len(plan.queries)), -1, np.int64)
    vector_of[embedded.rows] = np.arange(len(embedded.rows))
    survivors, gallery_vector = _survivors(records, plan.gallery_rows, vector_of[:ranked])
    if queries is None:
        again = all_vs_all(survivors, use_cameras=use_cameras)
        gallery_vectors = embedded.vectors[gallery_vector[again.gallery_rows]]
        return again, gallery_vectors[again.same_image], gallery_vectors
    asked, query_vector = _survivors(queries, plan.query_rows, vector_of[ranked:])
    again = market(asked, survivors, use_cameras=use_cameras)
    return (
        again,
        embedded.vectors[query_vector[again.query_rows]],
        embedded.vectors[gallery_vector[again.gallery_rows]],
    )


def _survivors(
    records: Sequence[ImageRecord], planned: NDArray[np.int64], vector_of: NDArray[np.int64]
) -> tuple[list[ImageRecord], NDArray[np.int64]]:
    """The records less those that failed, and the row of each one's vector.

    planned: rows of the records that were to be embedded; vector_of: for each of these its vector's row, -1
    where it failed. A record that was never to be embedded stays, with a row that no plan will ask for.
    """
    never = -2
    rows = np.full(len(records), never, np.int64)
    rows[planned] = vector_of
    kept: list[int] = np.flatnonzero(rows != -1).tolist()
    return [records[row] for row in kept], rows[kept]

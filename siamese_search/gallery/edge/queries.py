"""Queries to a shard of Qdrant Edge, and their results in an order that is always the same."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import qdrant_edge as edge

from siamese_search.gallery.contract import Hit, Vectors
from siamese_search.gallery.edge.convert import decode_bools, to_vector


class Ask:
    """What is the same for all queries of a batch."""

    def __init__(
        self,
        where: edge.Filter | None,
        with_vectors: bool,
        with_payload: bool,
        params: edge.SearchParams,
    ) -> None:
        self.where, self.params = where, params
        self.with_vectors, self.with_payload = with_vectors, with_payload

    def request(self, row: Vectors, limit: int, *, bare: bool = False) -> edge.QueryRequest:
        return edge.QueryRequest(
            limit=limit,
            query=edge.Query.Nearest(cast(Any, row)),  # an array: taken as it is, without a list of floats
            filter=self.where,
            params=self.params,
            with_payload=self.with_payload and not bare,
            with_vector=self.with_vectors and not bare,
        )


#: Points in order, the score of each, and whether their payload and vector are still to be fetched.
Ranking = tuple[list[edge.ScoredPoint], list[float], bool]


def nearest(shard: edge.EdgeShard, rows: Vectors, k: int, ask: Ask) -> Iterator[Ranking]:
    """The k nearest to each row [n, d], by score descending, then id ascending.

    The engine breaks ties as it likes, at the k-th place too. So one more is asked for, and where the score
    at the k-th place goes on to the last one fetched, more and more, until the tie ends or the points do.
    """
    requests = [ask.request(row, k + 1) for row in rows]
    results = (
        shard.query_batch(edge.QueryBatchRequest(requests))
        if len(requests) > 1
        else [shard.query(requests[0])]
    )
    for row, found in zip(rows, results):
        limit = k + 1
        points, scores = _ranked(found)
        bare = False
        while len(points) == limit and scores[k - 1] == scores[-1]:
            limit *= 8
            points, scores = _ranked(shard.query(ask.request(row, limit, bare=True)))
            bare = ask.with_payload or ask.with_vectors
        yield points[:k], scores[:k], bare


def _ranked(found: Sequence[edge.ScoredPoint]) -> tuple[list[edge.ScoredPoint], list[float]]:
    """Points by score descending, then id ascending, and their scores."""
    # Clipped before sorting: rounding puts equal vectors at 1.0000001, and a cosine ends at 1.
    scores = np.clip([point.score for point in found], -1.0, 1.0)
    if not (scores[1:] < scores[:-1]).all():  # an id costs more than all the rest: only ties ask for it
        keys = scores.tolist()
        order = sorted(range(len(keys)), key=lambda i: (-keys[i], cast(uuid.UUID, found[i].id).int))
        return [found[i] for i in order], scores[order].tolist()
    return list(found), scores.tolist()


def hits(
    points: Sequence[edge.ScoredPoint | edge.Record], scores: Sequence[float], bools: Sequence[str]
) -> list[Hit]:
    return [
        Hit(
            str(point.id),
            score,
            decode_bools(point.payload, bools),
            to_vector(point.vector),
        )
        for point, score in zip(points, scores)
    ]


def filled(shard: edge.EdgeShard, points: Sequence[edge.ScoredPoint], ask: Ask) -> list[edge.Record]:
    """The same points with what was asked for, in the same order."""
    wanted = shard.retrieve([point.id for point in points], ask.with_payload, ask.with_vectors)
    records = {record.id: record for record in wanted}
    return [records[point.id] for point in points]

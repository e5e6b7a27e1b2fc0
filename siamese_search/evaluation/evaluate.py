"""How far to trust the answers: evaluation through the gallery itself.

:func:`evaluate` embeds labelled images into a gallery and ranks them with the database's own queries, so that
whatever search does (its index, its quantisation) is part of what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from siamese_search.datasets.layouts import Dataset
from siamese_search.datasets.records import ImageRecord
from siamese_search.errors import DataError, ModelMismatchError, StoreError, UsageError, printable
from siamese_search.evaluation.embedding import data_fingerprint, embed_records, plan_of_survivors
from siamese_search.evaluation.options import EvaluateOptions
from siamese_search.evaluation.protocol import ALL_VS_ALL, all_vs_all, market
from siamese_search.evaluation.report import EvaluationReport, Reranked
from siamese_search.evaluation.retrieval import metrics_from_scores, open_set, retrieval_metrics
from siamese_search.evaluation.through_gallery import (
    fill,
    filtered_recall,
    measure_quantised,
    rank_through,
    temporary_gallery,
)
from siamese_search.evaluation.verification import cross_pair_scores, pair_scores
from siamese_search.gallery.contract import Gallery, ModelRef
from siamese_search.model.embedder import Embedder, FlipEmbedder
from siamese_search.options import request
from siamese_search.vectors.k_reciprocal import reranked_blocks

#: Called with a stage (``embed`` or ``rank``), what is done of it, and all there is to do.
Progress = Callable[[str, int, int], None]


@request(EvaluateOptions)
def evaluate(
    images: Dataset | Sequence[ImageRecord],
    embedder: Embedder,
    gallery: Gallery | None = None,
    *,
    queries: Dataset | Sequence[ImageRecord] | None = None,
    options: EvaluateOptions,
    model_name: str = "",
    data: str | None = None,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Embed labelled images, rank them through a gallery, measure.

    images: the gallery side. queries: a separate query side (Market-1501's protocol); without it every image of an
    identity is a query against all the others. gallery: an *empty* gallery of this model to use, left filled; by
    default a temporary embedded one. use_cameras: leave out matches from the query's own camera. depth: results fetched
    per query, ``None`` for all, which makes mAP exact. flip: embed each image together with its mirror image
    (:class:`~siamese_search.model.embedder.FlipEmbedder`, whose fingerprint a given gallery must then have); holds for
    every figure. rerank: also re-rank the exact similarities of all images, as figures of their own. quantise: also
    rank through galleries that are searched in copies of so many bits (``int8``, ``int4``, ``binary``), as figures of
    their own. copies: count byte copies of an image as images of their own. false_match_rate: what the report's
    verification threshold is for. data, model_name: names for the report.

    Images that cannot be read are named in the report and never stop it. Raises DataError where no query has
    a match to find or no image can be read; UsageError for a depth below 1 or a rate outside (0, 1];
    StoreError for a gallery that is not empty; ModelMismatchError where it was made by another model.
    """
    began = time.monotonic()
    if not 0 < options.false_match_rate <= 1:
        raise UsageError(f"a false match rate lies between 0 and 1, not {options.false_match_rate}")
    records = _records_of(images)
    query_records = None if queries is None else _records_of(queries)
    # Before an hour of embedding, not after it: is there anything to measure?
    if query_records is None:
        plan = all_vs_all(records, use_cameras=options.use_cameras)
    else:
        plan = market(query_records, records, use_cameras=options.use_cameras)
    plan.require_valid_query()

    eyes: Embedder = FlipEmbedder(embedder) if options.flip else embedder
    shown = plan.gallery if query_records is None else [*plan.gallery, *plan.queries]
    ranked = len(plan.gallery)
    embedded = embed_records(
        shown,
        eyes,
        batch_size=options.batch_size or 64,
        threads=options.threads or 0,
        progress=None if progress is None else lambda done, total: progress("embed", done, total),
    )
    if not len(embedded.vectors):
        first = embedded.failed[0]
        raise DataError(f"none of the {len(embedded.failed)} images can be read; {first.shown}: {first.reason}")
    fingerprint = data_fingerprint(
        [
            ("gallery" if row < ranked else "queries", shown[row], digest)
            for row, digest in zip(embedded.rows.tolist(), embedded.digests, strict=True)
        ]
    )
    plan, query_vectors, gallery_vectors = plan_of_survivors(plan, records, query_records, embedded, options)
    plan.require_valid_query()

    payloads = [{"identity": one.identity, "camera": one.camera, "key": one.key} for one in plan.gallery]
    with _gallery_for(gallery, eyes, model_name) as opened:
        places = fill(opened, gallery_vectors, payloads)
        ranking = rank_through(
            opened, plan, query_vectors, gallery_vectors, places, depth=options.depth,
            progress=None if progress is None else lambda done, total: progress("rank", done, total),
        )  # fmt: skip
        recall = filtered_recall(opened, query_vectors)
    if plan.name == ALL_VS_ALL:
        pairs = pair_scores(gallery_vectors, plan)
    else:
        pairs = cross_pair_scores(query_vectors, gallery_vectors, plan)
    reranked: Reranked | None = None
    how = options.reranking
    if how is not None:
        scores = reranked_blocks(query_vectors, gallery_vectors, how, same_image=plan.same_image)
        reranked = Reranked(how, metrics_from_scores(scores, plan))
    return EvaluationReport(
        plan=plan,
        ranking=ranking.metrics,
        exact=retrieval_metrics(query_vectors, gallery_vectors, plan),
        reranked=reranked,
        flip=options.flip,
        verification=pairs.metrics(options.false_match_rate),
        pairs=pairs,
        open_set=open_set(query_vectors, gallery_vectors, plan),
        ann_recall=ranking.recall,
        filtered_recall=recall,
        depth=options.depth,
        top=ranking.top,
        model=embedder.fingerprint,
        model_name=model_name,
        data=(printable(images.root) if isinstance(images, Dataset) else "") if data is None else data,
        data_fingerprint=fingerprint,
        failed=embedded.failed,
        quantised=tuple(measure_quantised(options.quantise, plan, query_vectors, gallery_vectors, options.depth)),
        seconds=time.monotonic() - began,
        query_vectors=query_vectors,
        gallery_vectors=gallery_vectors,
    )


@contextmanager
def _gallery_for(gallery: Gallery | None, embedder: Embedder, model_name: str) -> Iterator[Gallery]:
    """The given gallery if it is empty, or a temporary embedded one that is gone afterwards."""
    if gallery is not None:
        if gallery.model.fingerprint != embedder.fingerprint:
            raise ModelMismatchError(
                f"{gallery.name} was made by model {gallery.model.fingerprint}, not {embedder.fingerprint}: "
                "evaluate with its own model"
            )
        if gallery.count():
            raise StoreError(f"{gallery.name}: evaluation needs an empty gallery")
        yield gallery
        return
    with temporary_gallery(ModelRef(embedder.fingerprint, embedder.dim, model_name)) as opened:
        yield opened


def _records_of(images: Dataset | Sequence[ImageRecord]) -> list[ImageRecord]:
    return images.records if isinstance(images, Dataset) else list(images)

"""How far to trust the answers: evaluation through the gallery itself.

:func:`evaluate` embeds labelled images into a gallery and ranks them with the database's own queries, so that
whatever search does (its index, its quantisation) is part of what is measured. What is compared with what is decided
before anything is embedded, and again without the images that could not be read.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.layouts import Dataset
from siamese_search.datasets.records import Failure, ImageRecord
from siamese_search.embedding import batches_of, embed_images
from siamese_search.errors import DataError, ImageError, ModelMismatchError, StoreError, UsageError, amount, printable
from siamese_search.evaluation import through_gallery
from siamese_search.evaluation.options import EvaluateOptions
from siamese_search.evaluation.protocol import ALL_VS_ALL, Protocol, all_vs_all, market
from siamese_search.evaluation.report import EvaluationReport, Reranked
from siamese_search.evaluation.retrieval import metrics_from_scores, open_set, retrieval_metrics
from siamese_search.evaluation.through_gallery import fill, filtered_recall, rank_through, temporary_gallery
from siamese_search.evaluation.verification import cross_pair_scores, pair_scores
from siamese_search.gallery.contract import Gallery, ModelRef
from siamese_search.io.images import content_of
from siamese_search.io.resources import available_cpus
from siamese_search.model.embedder import Embedder, FlipEmbedder
from siamese_search.options import Progress, request
from siamese_search.vectors.k_reciprocal import reranked_blocks

#: Called with a stage (``embed`` or ``rank``), what is done of it, and all there is to do.
StageProgress = Callable[[str, int, int], None]


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
    progress: StageProgress | None = None,
) -> EvaluationReport:
    """Embed labelled images, rank them through a gallery, measure.

    images: the gallery side. queries: a separate query side (Market-1501's protocol); without it every image of an
    identity is a query against all the others. gallery: an *empty* gallery of this model to use, left filled; by
    default a temporary embedded one. depth: ``None`` makes mAP exact. flip: holds for every figure; a given gallery
    must have the fingerprint of :class:`~siamese_search.model.embedder.FlipEmbedder`. rerank, quantise: figures of
    their own. data, model_name: names for the report.

    Images that cannot be read are named in the report and never stop it. Raises DataError where no query has
    a match to find or no image can be read; UsageError for a depth below 1 or a rate outside (0, 1];
    StoreError for a gallery that is not empty; ModelMismatchError where it was made by another model.
    """
    began = time.monotonic()
    if not 0 < options.false_match_rate <= 1:
        raise UsageError(f"a false match rate lies between 0 and 1, not {options.false_match_rate}")
    records = _records_of(images)
    query_records = None if queries is None else _records_of(queries)
    plan = _planned(records, query_records, options)
    plan.require_valid_query()  # before an hour of embedding, not after it

    eyes: Embedder = FlipEmbedder(embedder) if options.flip else embedder
    shown = plan.gallery if query_records is None else [*plan.gallery, *plan.queries]
    ranked = len(plan.gallery)
    embedded = embed_records(
        shown,
        eyes,
        batch_size=options.batch_size or 64,
        threads=options.threads or 0,
        progress=None if progress is None else partial(progress, "embed"),
    )
    told = zip(embedded.rows.tolist(), embedded.digests, strict=True)
    fingerprint = data_fingerprint([("gallery" if row < ranked else "queries", shown[row], one) for row, one in told])
    plan, query_vectors, gallery_vectors = plan_of_survivors(plan, records, query_records, embedded, options)
    plan.require_valid_query()

    payloads = [{"identity": one.identity, "camera": one.camera, "key": one.key} for one in plan.gallery]
    with _gallery_for(gallery, eyes, model_name) as opened:
        places = fill(opened, gallery_vectors, payloads)
        at = None if progress is None else partial(progress, "rank")
        ranking = rank_through(opened, plan, query_vectors, gallery_vectors, places, depth=options.depth, progress=at)
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
        quantised=tuple(
            through_gallery.measure_quantised(options.quantise, plan, query_vectors, gallery_vectors, options.depth)
        ),
        seconds=time.monotonic() - began,
        query_vectors=query_vectors,
        gallery_vectors=gallery_vectors,
    )


def _gallery_for(gallery: Gallery | None, embedder: Embedder, model_name: str) -> AbstractContextManager[Gallery]:
    """The given gallery if it is empty, or a temporary embedded one that is gone afterwards."""
    if gallery is None:
        return temporary_gallery(ModelRef(embedder.fingerprint, embedder.dim, model_name))
    if gallery.model.fingerprint != embedder.fingerprint:
        raise ModelMismatchError(
            f"{gallery.name} was made by model {gallery.model.fingerprint}, not {embedder.fingerprint}: "
            "evaluate with its own model"
        )
    if gallery.count():
        raise StoreError(f"{gallery.name}: evaluation needs an empty gallery")
    return nullcontext(gallery)


def _records_of(images: Dataset | Sequence[ImageRecord]) -> list[ImageRecord]:
    return images.records if isinstance(images, Dataset) else list(images)


def _planned(
    records: Sequence[ImageRecord],
    queries: Sequence[ImageRecord] | None,
    options: EvaluateOptions,
    same: Callable[[ImageRecord], object] | None = None,
) -> Protocol:
    """By the protocol that the two sides have, or the one. same: as :func:`~.protocol.market`."""
    if queries is None:
        return all_vs_all(records, use_cameras=options.use_cameras)
    return market(queries, records, use_cameras=options.use_cameras, same=same)


#: Threads that decode; more only fight the model for the cores.
_MOST_THREADS = 4


@dataclass(frozen=True)
class Embedded:
    """``vectors`` float32 [n, d] of the records that could be read, ``rows`` int64 [n] of where those stand.

    ``digests``: SHA-256 of each of their files, [n].
    """

    vectors: NDArray[np.float32]
    rows: NDArray[np.int64]
    failed: list[Failure]
    digests: list[bytes]


def embed_records(
    records: Sequence[ImageRecord],
    embedder: Embedder,
    *,
    batch_size: int = 64,
    threads: int = 0,
    progress: Progress | None = None,
) -> Embedded:
    """Embed the images of ``records`` in their order; one that cannot be read is named and left out.

    threads: decoders, 0 = as many as there are CPUs, up to four. progress: called with images done (failures
    included) and their number. Pixels of two batches are in memory at once. Raises DataError where none can be read.
    """
    vectors: list[NDArray[np.float32]] = [np.empty((0, embedder.dim), np.float32)]
    rows: list[int] = []
    failed: list[Failure] = []
    digests: list[bytes] = []
    for found in embed_images(
        batches_of(range(len(records)), batch_size),
        embedder,
        lambda row: records[row].path,
        camera_of=lambda row: records[row].camera,
        threads=threads or min(_MOST_THREADS, available_cpus()),
    ):
        vectors.append(found.vectors)
        rows += found.items
        failed += [Failure.of(records[row].path, error.reason) for row, error in found.failures]
        digests += [_digest(records[row].path) for row in found.items]  # read a moment ago: from memory
        if progress is not None:
            progress(len(rows) + len(failed), len(records))
    if failed and not rows:
        first = failed[0]
        raise DataError(f"none of {amount(len(failed), 'image')} can be read; {first.shown}: {first.reason}")
    return Embedded(np.concatenate(vectors), np.array(rows, dtype=np.int64), failed, digests)


def data_fingerprint(parts: Sequence[tuple[str, ImageRecord, bytes]]) -> str:
    """What was measured, as 64 hexadecimal digits: the same for the same images and labels on any machine.

    parts: of each image its side (``gallery`` or ``queries``), record and digest; in any order. SHA-256 over the
    sorted sides, keys, identities, cameras and digests, each with its length before it.
    """
    whole = hashlib.sha256()
    for part in sorted((side, *_labels(record), digest) for side, record, digest in parts):
        for value in part:
            data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
            whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()


def _labels(record: ImageRecord) -> tuple[str, str, str]:
    """Key, identity and camera; one that is not known differs from one that is named ``""``."""
    identity, camera = ("unknown" if label is None else f"named {label}" for label in (record.identity, record.camera))
    return record.key, identity, camera


def _digest(path: Path) -> bytes:
    """SHA-256 of a file; nothing where it has gone since it was decoded."""
    try:
        return hashlib.sha256(content_of(path)).digest()
    except ImageError:
        return b""


def plan_of_survivors(
    plan: Protocol,
    records: Sequence[ImageRecord],
    queries: Sequence[ImageRecord] | None,
    embedded: Embedded,
    options: EvaluateOptions,
) -> tuple[Protocol, NDArray[np.float32], NDArray[np.float32]]:
    """The plan again, without the images that failed, with the vectors of its queries and of its gallery.

    Planning anew from *all* records less the failures keeps the counts of junk and unlabelled images. Of images of one
    identity with the same bytes the first stays, and none finds itself in another file, unless ``copies`` says so.
    """
    shown = plan.gallery if queries is None else [*plan.gallery, *plan.queries]
    ranked = len(plan.gallery)
    rows = embedded.rows.tolist()
    digests = {id(shown[row]): digest for row, digest in zip(rows, embedded.digests, strict=True) if digest}
    later, copied = _copies(shown, ranked, embedded)
    if options.copies:
        later = set()
    # By side: a copy that leaves the queries may be the first of its kind in the gallery.
    places = [(row >= ranked, id(record)) for row, record in enumerate(shown)]
    gone = set(places) - {places[row] for row in rows if row not in later}
    again = _planned(
        [record for record in records if (False, id(record)) not in gone],
        None if queries is None else [record for record in queries if (True, id(record)) not in gone],
        options,
        None if options.copies else lambda record: digests.get(id(record), record.path),
    )
    again = replace(again, excluded=replace(again.excluded, copied=copied, copies=len(later)))
    at = {id(shown[row]): place for place, row in enumerate(rows)}
    asked_rows, ranked_rows = ([at[id(one)] for one in side] for side in (again.queries, again.gallery))
    return again, embedded.vectors[asked_rows], embedded.vectors[ranked_rows]


def _copies(records: Sequence[ImageRecord], ranked: int, embedded: Embedded) -> tuple[set[int], int]:
    """Rows that repeat an earlier one of their side, the same bytes under the same identity; queries with a copy.

    ranked: how many of the records are the gallery's.
    """
    sides: dict[tuple[str | None, bytes], list[list[int]]] = {}
    for row, digest in zip(embedded.rows.tolist(), embedded.digests, strict=True):
        if digest:
            sides.setdefault((records[row].identity, digest), [[], []])[row >= ranked].append(row)
    later = {row for pair in sides.values() for side in pair for row in side[1:]}
    asks = ranked < len(records)  # queries of their own
    pairs = ((pair if asks else (pair[0][1:], pair[0])) for pair in sides.values())
    return later, sum(len(queries) for gallery, queries in pairs if gallery or len(queries) > 1)

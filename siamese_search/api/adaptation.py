"""A model adapted to images without labels. Needs the ``[torch]`` extra."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siamese_search.api.training import needing_torch, new_run_directory
from siamese_search.curation.identities import Proposal, Proposals, mean_similarity, status_of, write_review
from siamese_search.datasets.layouts import survey
from siamese_search.datasets.records import point_id
from siamese_search.errors import UsageError
from siamese_search.options import layout_of, request
from siamese_search.training.adapt.config import configured, option_names
from siamese_search.training.options import AdaptOptions
from siamese_search.workspace import StrPath, current_settings, threads_in_use

if TYPE_CHECKING:
    from siamese_search.training.adapt.run import AdaptResult
    from siamese_search.training.loop import Reporter

#: The clusters of the finished model, in its run directory: a table to review, and a sheet to look at.
TABLE_NAME, SHEET_NAME = "clusters.csv", "clusters.png"


@request(AdaptOptions)
def adapt(
    data: StrPath | None = None,
    *,
    options: AdaptOptions,
    reporter: Reporter | None = None,
    stop: threading.Event | None = None,
    **hyperparameters: Any,
) -> AdaptResult:
    """Adapt a model to the images in ``data`` without a label; the run directory ``out`` becomes a model bundle.

    Each epoch the images are clustered and the clusters learned as identities, until they no longer change. Labels in
    ``data`` are only reported on. ``hyperparameters``: fields of
    :class:`~siamese_search.training.adapt.config.AdaptConfig` (``epochs=10, freeze=3``); size and kind of the network
    are those of the model. stop: set it to end after the batch in hand (KeyboardInterrupt is raised, a checkpoint
    kept).

    Beside the bundle are ``clusters.csv``, which ``sss label`` applies after a review, and ``clusters.png``. Raises
    MissingExtraError without the ``[torch]`` extra, DataError, TrainingError, UsageError, BundleError.
    """
    threads = threads_in_use(options.threads)
    unknown = set(hyperparameters) - set(option_names())
    if unknown:
        raise UsageError(f"unknown hyperparameter {sorted(unknown)[0]!r}; see `sss adapt --help-all`")
    if options.resume is not None:
        run = needing_torch("siamese_search.training.adapt.run", "adapting")
        result: AdaptResult = run.resume(Path(options.resume), reporter, stop, options.device, threads)
    else:
        place = Path(current_settings().data if data is None else data)
        survey(place, layout_of(options))  # fails before torch is imported, which takes seconds
        config = configured(os.fspath(options.init), **hyperparameters)
        run = needing_torch("siamese_search.training.adapt.run", "adapting")
        asked = run.AdaptRequest(
            data=place,
            out=Path(new_run_directory("adapt") if options.out is None else options.out),
            config=config,
            layout=layout_of(options),
            init=os.fspath(options.init),
            labels=None if options.labels is None else Path(options.labels),
            device=options.device,
            threads=threads,
        )
        result = run.adapt(asked, reporter, stop)
    _show(result)
    return result


def _show(result: AdaptResult) -> None:
    """Write the clusters of the finished model beside it: to look at, and to review."""
    from siamese_search.render.sheets import draw_clusters

    found = proposals(result)
    write_review(found, result.bundle.path / TABLE_NAME)
    if any(one.status != "single" for one in found.images):
        draw_clusters(found, result.bundle.path / SHEET_NAME)


def proposals(result: AdaptResult) -> Proposals:
    """The clusters as ``sss cluster`` proposes them, the largest first and in each the surest image first.

    One in which a person gave an identity takes it; one with several is a conflict.
    """
    labels = result.clusters
    sizes = np.bincount(labels)
    means = mean_similarity(result.embeddings, labels, sizes)
    places = {int(label): place for place, label in enumerate(np.argsort(-sizes, kind="stable"), 1)}
    given: dict[int, set[str]] = {}
    for row, name in enumerate(result.confirmed):
        if name is not None:
            given.setdefault(int(labels[row]), set()).add(name)
    source = os.path.realpath(os.path.commonpath([one.path.parent for one in result.records]))
    images = []
    for row in sorted(range(len(labels)), key=lambda row: (places[int(labels[row])], -means[row], row)):
        record, label = result.records[row], int(labels[row])
        names, place, size = given.get(label, set()), places[label], int(sizes[label])
        status = status_of(size, names)
        proposed = {"known": next(iter(names), ""), "new": f"new-{place:04d}"}.get(status, "")
        images.append(
            Proposal(
                id=point_id(source, record.key),
                path=str(record.path.absolute()),
                key=record.key,
                source="",
                camera=record.camera,
                existing=record.identity if result.confirmed[row] is None else result.confirmed[row],
                cluster=place,
                size=size,
                proposed=proposed,
                status=status,
                confidence=None if size == 1 else float(np.clip(means[row], 0, 1)),
            )
        )
    config = result.bundle.meta["training"]["config"]
    return Proposals(tuple(images), config["neighbours"], config["least"], None)

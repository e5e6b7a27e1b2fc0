"""The four verbs as functions: :func:`ingest`, :func:`search`, :func:`train`, :func:`evaluate`.

The command line is a thin skin over these, so a script and the shell do the same. Whatever is not given comes
from the settings (``sss.toml``, ``SSS_*`` variables, defaults). Every failure is a
:class:`~siamese_search.errors.SiameseSearchError` with a one-line message.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from siamese_search.errors import BundleError, UsageError
from siamese_search.searching import search
from siamese_search.workspace import (
    LazyEmbedder,
    StrPath,
    load,
    open_to_write,
    root_of,
)

if TYPE_CHECKING:
    from ingest.distributed.session import RayOptions
    from ingest.pipeline import Prune
    from ingest.scan import Shard
    from ingest.summary import IngestSummary, Progress
    from siamese_search.evaluation.report import EvaluationReport
    from siamese_search.gallery.contract import Gallery
    from siamese_search.model.embedder import Device, Embedder
    from siamese_search.settings import Settings
    from siamese_search.training.run import Reporter, TrainResult

__all__ = ["evaluate", "ingest", "search", "train"]

Notify = Callable[[str], None]


def ingest(
    *directories: StrPath,
    store: StrPath | None = None,
    gallery: str | None = None,
    model: StrPath | None = None,
    layout: str = "auto",
    source: str | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    device: Device = "auto",
    reembed: bool = False,
    checksum: bool = False,
    follow_links: bool = False,
    prune: Prune = "no",
    shard: str | Shard | None = None,
    failures: StrPath | None = None,
    storage: str | None = None,
    quantise: str | None = None,
    around: Callable[[Gallery, Embedder], tuple[Gallery, Embedder]] | None = None,
    engine: Literal["process", "ray"] = "process",
    ray: RayOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    notify: Notify | None = None,
) -> IngestSummary:
    """Bring a gallery up to date with the images under ``directories``, listed in ``.csv`` files, or at URLs.

    URLs ([cloud] extra): ``s3://bucket/prefix`` and ``gs://bucket/prefix``, or an image or a list of URLs at
    ``https://``. What is stored of them holds no credentials.

    The gallery is made where there is none, with ``model`` (default: the settings', else the bundled one); an
    existing gallery keeps the model that it was made with. Unchanged files are not embedded again.
    source: name of the source, where the same images have different paths on different machines.
    reembed: embed unchanged files too. checksum: compare files by content instead of by modification time, so that
    a file that was only touched is not embedded again, an edited one is noticed whatever its time, and one that was
    moved keeps its point and metadata. follow_links: enter links to directories, take links out of a directory.
    prune: ``"safe"`` removes the points of files under ``directories`` that have gone, unless the disk seems to be
    missing or more than a fifth of them would go; ``"anyway"`` removes them even then (not for a missing disk).
    shard: ``"0/4"`` … ``"3/4"``: only that part of the files, by a hash of their key, so that four processes, on one
    machine or on several, do what one would (:mod:`ingest.scan`). failures: a file that gets every failure as a line
    of JSON. storage (``float32``, ``float16``), quantise (``none``,
    ``int8``, ``int4``, ``binary``): how a gallery that is made keeps its vectors. stop: set it to end after the batch
    in hand. engine: ``"ray"`` decodes and embeds on the workers of a Ray cluster
    (:class:`~ingest.distributed.session.RayOptions`), each of which has ``threads`` CPUs, or a GPU; what comes of it is
    the same. around: what to put around the gallery and the embedder, to measure them.
    progress, notify: called with each moment of progress, and with lines for people.

    Returns the counts and the failures: an image that cannot be read never stops the rest.
    Raises DataError (no such directory, no images), StoreError, ModelMismatchError, BundleError; for a cluster also
    ClusterError and MissingExtraError.
    """
    from ingest import run_ingest
    from ingest.failures import FailureLog
    from ingest.scan import check_combination, parse_shard, survey_roots

    settings = _settings()
    if not directories:
        raise UsageError("nothing to ingest; name at least one directory of images")
    if prune not in ("no", "safe", "anyway"):
        raise UsageError(f"prune is {prune!r}; choose from no, safe, anyway")
    part = parse_shard(shard) if isinstance(shard, str) else shard
    check_combination(part, checksum=checksum, prune=prune != "no")
    if engine not in ("process", "ray"):
        raise UsageError(f"engine is {engine!r}; choose from process, ray")
    if engine == "ray":
        from ingest.distributed.pipeline import RayPipeline
        from ingest.distributed.session import RayOptions

        ray = ray or RayOptions()
        ray.check()
    elif ray is not None:
        raise UsageError("an address and workers of a cluster are for the engine ray")
    # Before a gallery is made; and only once, for the names of a large tree take a while.
    roots = survey_roots([root_of(directory) for directory in directories], layout, follow_links=follow_links)
    if notify is not None and layout == "auto":
        for root in roots:
            notify(
                f"{getattr(root, 'url', root.root)}: layout {root.detection.layout}: {root.detection.reason}"
            )
    threads = settings.threads if threads is None else threads
    with (
        nullcontext() if failures is None else FailureLog(failures) as log,
        open_to_write(settings, store, gallery, model, storage=storage, quantise=quantise) as (
            opened,
            bundle,
        ),
    ):
        embedder: Embedder = LazyEmbedder(bundle, device, threads)
        if around is not None:
            opened, embedder = around(opened, embedder)
        cluster = None
        if engine == "ray" and ray is not None:
            local = [root for root in roots if not hasattr(root, "url")]
            places = [os.path.realpath(root.detection.base) for root in local]
            cluster = RayPipeline(bundle, ray, settings, device=device, threads=threads, places=places)
        return run_ingest(
            roots,
            opened,
            embedder,
            layout=layout,
            source=source,
            batch_size=settings.batch_size if batch_size is None else batch_size,
            reembed=reembed,
            checksum=checksum,
            prune=prune,
            shard=part,
            failures=log,
            progress=progress,
            stop=stop,
            pipeline=cluster,
        )


def train(
    data: StrPath | Sequence[StrPath] | None = None,
    *,
    preset: str = "reid",
    out: StrPath | None = None,
    layout: str = "auto",
    holdout: float | None = None,
    holdout_ids: StrPath | Sequence[str] | None = None,
    init: StrPath = "imagenet",
    teacher: StrPath | None = None,
    resume: StrPath | None = None,
    device: str = "auto",
    threads: int | None = None,
    reporter: Reporter | None = None,
    stop: threading.Event | None = None,
    **hyperparameters: Any,
) -> TrainResult:
    """Train an embedding on the identities in ``data``; the run directory ``out`` becomes a model bundle.

    data: a data set, or several: identities of different data sets are different people whatever their names,
    each data set has an equal share of every batch, and identities and keys become ``SOURCE/ID``, ``SOURCE/KEY``.
    preset: ``reid``, ``apn`` or ``contrastive``; ``hyperparameters`` are fields of
    :class:`~siamese_search.training.presets.TrainConfig` (``epochs=5, margin=0.5``).
    holdout: identities of each data set that training must not see, as a share (0.15; at least 2), a number
    (20) or 0 for none (default 0.1); holdout_ids: a file of them, or the identities themselves.
    init: ``imagenet``, ``bundled``, ``none`` or a bundle's directory. resume: a run directory to continue.
    stop: set it to end after the batch in hand (KeyboardInterrupt is raised, a checkpoint kept).

    Needs the ``[torch]`` extra (else MissingExtraError). Raises DataError, TrainingError, UsageError.
    """
    from siamese_search.datasets.layouts import detect_layout
    from siamese_search.training.presets import preset as find_preset

    settings = _settings()
    threads = settings.threads if threads is None else threads
    config = find_preset(preset)
    unknown = set(hyperparameters) - set(config.__slots__)
    if unknown:
        raise UsageError(f"unknown hyperparameter {sorted(unknown)[0]!r}; see `sss train --help`")
    config = config.with_options(**hyperparameters)
    data = settings.data if data is None else data
    sources = (Path(data),) if isinstance(data, (str, os.PathLike)) else tuple(Path(path) for path in data)
    if resume is None:
        if not sources:
            raise UsageError("nothing to train on; name at least one data set")
        for source in sources:
            detect_layout(source, layout)  # fails before torch is imported, which takes seconds
    run = _training()
    if resume is not None:
        resumed: TrainResult = run.resume(Path(resume), reporter, stop, device, threads)
        return resumed
    if holdout is not None and holdout_ids is not None:
        raise UsageError("give either a number of identities to hold out or a list of them, not both")
    ids = tuple(holdout_ids) if isinstance(holdout_ids, (list, tuple, set, frozenset)) else None
    request = run.TrainRequest(
        data=sources[0] if len(sources) == 1 else sources,
        out=Path(new_run_directory(preset) if out is None else out),
        config=config,
        layout=layout,
        holdout=run.HoldOut(
            ids_file=Path(holdout_ids) if isinstance(holdout_ids, (str, os.PathLike)) else None,
            ids=ids,
            amount=0.1 if holdout is None else holdout,
            seed=config.seed,
        ),
        init=os.fspath(init),
        teacher=None if teacher is None else Path(teacher),
        device=device,
        threads=threads,
    )
    trained: TrainResult = run.train(request, reporter, stop)
    return trained


def evaluate(
    data: StrPath | None = None,
    *,
    queries: StrPath | None = None,
    model: StrPath | None = None,
    identities: StrPath | Sequence[str] | None = None,
    layout: str = "auto",
    use_cameras: bool = True,
    depth: int | None = None,
    flip: bool = False,
    rerank: bool = False,
    quantise: Sequence[str] = (),
    calibrate: bool = False,
    batch_size: int | None = None,
    threads: int | None = None,
    device: Device = "auto",
    progress: Callable[[str, int, int], None] | None = None,
    notify: Notify | None = None,
) -> EvaluationReport:
    """Measure how well a model finds the right identity among labelled images, through a gallery of their own.

    Every image is a query against all the others, or those of ``queries`` against those of ``data``; matches
    from the query's own camera do not count unless ``use_cameras`` is False.
    model: a bundle. identities: ``"heldout"`` (those that its training never saw), ``"all"``, a file of them,
    or a list; by default the held-out ones where ``data`` is what the model was trained on, else all.
    Without ``data`` the newest run under ``runs/`` is measured on the data set that it was trained on.
    depth: results fetched per query, ``None`` for all (exact mAP). flip: embed each image together with its
    mirror image. rerank: also give the figures after k-reciprocal re-ranking (``report.reranked``).
    quantise: also measure searches in copies of fewer bits, ``int8``, ``int4`` or ``binary`` (``report.quantised``).
    calibrate: fit thresholds and probabilities to these pairs, and keep them in the bundle (``report.calibration``):
    from then on searches with it say match or no match.

    Raises DataError (no identity, nobody to find, an identity that is not there), BundleError, UsageError.
    """
    from siamese_search.datasets.joining import load_joined
    from siamese_search.datasets.layouts import load_dataset
    from siamese_search.evaluation.evaluate import evaluate as measure
    from siamese_search.evaluation.subject import choose_subject, seen_warning, select_identities
    from siamese_search.vectors.k_reciprocal import KReciprocal

    if calibrate and flip:
        raise UsageError("a search embeds no mirror images, so calibrate without flip")
    settings = _settings()
    named = settings.model if model is None else os.fspath(model)
    subject = choose_subject(data, named)
    if queries is not None and subject.others:
        raise UsageError(
            "queries are searched in one data set; name it too (sss evaluate photos/ --queries …)"
        )
    dataset = load_joined(subject.paths, subject.layout if layout == "auto" else layout)
    asked = None if queries is None else load_dataset(Path(queries), layout)
    chosen, reason = select_identities(subject, dataset, asked, identities)
    if notify is not None:
        notify(f"model {subject.bundle.name}, data {subject.place} ({dataset.layout}: {dataset.reason})")
        notify(reason)
    records, query_records = dataset.records, None if asked is None else asked.records
    if chosen is not None:
        records = [record for record in records if record.identity in chosen]
        query_records = None if query_records is None else [r for r in query_records if r.identity in chosen]
    threads = settings.threads if threads is None else threads
    report = measure(
        records,
        load(subject.bundle, device, threads),
        queries=query_records,
        use_cameras=use_cameras,
        depth=depth,
        flip=flip,
        rerank=KReciprocal() if rerank else None,
        quantise=quantise,
        model_name=subject.bundle.name,
        data=subject.place,
        batch_size=settings.batch_size if batch_size is None else batch_size,
        threads=threads,
        progress=progress,
    )
    report = replace(report, warning=seen_warning(subject.bundle, dataset, asked, chosen))
    if not flip:  # a search embeds no mirror images, and so a calibration knows none
        with suppress(BundleError):  # a damaged one is for --calibrate to replace
            report = replace(report, kept=subject.bundle.calibration)
    if calibrate:
        from siamese_search.evaluation.calibrate import calibrate as fit
        from siamese_search.evaluation.calibrate import save_calibration

        report = replace(report, calibration=fit(report.pairs, f"{subject.place}: {reason}"))
        assert report.calibration is not None
        save_calibration(subject.bundle, report.calibration)
    return report


def new_run_directory(preset: str) -> str:
    """``runs/reid-20260131-235959``: sorts by time, and is new."""
    import time

    return f"runs/{preset}-{time.strftime('%Y%m%d-%H%M%S')}"


def _training() -> ModuleType:
    """The training module, or MissingExtraError where torch and its company are not installed."""
    from importlib import import_module

    from siamese_search.errors import MissingExtraError

    try:
        return import_module("siamese_search.training.run")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("siamese_search", "ingest"):
            raise
        raise MissingExtraError("training", "torch") from None


def _settings() -> Settings:
    from siamese_search.settings import load_settings

    return load_settings()

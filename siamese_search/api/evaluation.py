"""Measuring a model, and two models against each other, on identities that they have not seen."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamese_search.errors import BundleError, DataError, UsageError, printable
from siamese_search.workspace import (
    Notify,
    StrPath,
    current_settings,
    load,
)

if TYPE_CHECKING:
    from siamese_search.evaluation.compare import PairedReport
    from siamese_search.evaluation.report import EvaluationReport
    from siamese_search.model.embedder import Device


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
    settings = current_settings()
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


def compare_models(
    a: StrPath,
    b: StrPath,
    data: StrPath | None = None,
    *,
    queries: StrPath | None = None,
    identities: StrPath | Sequence[str] | None = None,
    layout: str = "auto",
    notify: Callable[[str], None] | None = None,
    **options: Any,
) -> PairedReport:
    """Measure two bundles on the same queries, and how sure the difference is (bootstrap over identities).

    data: labelled images; by default what ``a`` was trained on. identities: as in :func:`siamese_search.evaluate`; by
    default those that both held out, where both did. options: the others of :func:`siamese_search.evaluate`.
    Raises DataError where no identity is left, and as :func:`siamese_search.evaluate`; UsageError for ``calibrate``.
    """
    from siamese_search.datasets.joining import load_joined
    from siamese_search.datasets.layouts import load_dataset
    from siamese_search.datasets.splits import RESERVED_IDENTITIES
    from siamese_search.evaluation.compare import compare_reports
    from siamese_search.evaluation.subject import choose_subject, select_identities

    if options.get("calibrate"):
        raise UsageError("calibrate one model at a time: sss evaluate --model RUN --calibrate")
    first = choose_subject(data, str(a))
    where = first.data if data is None else data
    asked = None if queries is None else load_dataset(Path(queries), layout)
    common: set[str] | None = None
    for subject in (first, choose_subject(where, str(b))):
        dataset = load_joined(subject.paths, subject.layout if layout == "auto" else layout)
        chosen, reason = select_identities(subject, dataset, asked, identities)
        if notify is not None:
            notify(f"model {subject.bundle.name}: {reason}")
        if chosen is not None:
            common = set(chosen) if common is None else common & chosen
    wanted: str | list[str] = "all"
    if common is not None:
        wanted = sorted(common - RESERVED_IDENTITIES)
        if not wanted:
            raise DataError(
                f"no identity of {printable(str(where))} was held out by both models: name others with --identities"
            )
    reports = [
        evaluate(where, queries=queries, model=model, identities=wanted, layout=layout, **options)
        for model in (a, b)
    ]
    return compare_reports(*reports)

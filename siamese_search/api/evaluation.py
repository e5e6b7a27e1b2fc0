"""Measuring a model, and two models against each other, on identities that they have not seen."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from siamese_search.api.calibration import check_place, keep
from siamese_search.errors import BundleError, DataError, UsageError, printable
from siamese_search.evaluation.options import EvaluateOptions
from siamese_search.evaluation.report import EvaluationReport
from siamese_search.options import layout_of, request
from siamese_search.workspace import Notify, StrPath, current_settings, load, threads_in_use

if TYPE_CHECKING:
    from siamese_search.evaluation.findings import PairedReport
    from siamese_search.evaluation.subject import Subject
    from siamese_search.render.notebook import Plot


class Report(EvaluationReport):
    """An :class:`~siamese_search.evaluation.report.EvaluationReport` that draws itself."""

    @classmethod
    def of(cls, report: EvaluationReport) -> Self:
        return cls(**{one.name: getattr(report, one.name) for one in fields(report)})

    def plot(self) -> Plot:
        """CMC, ROC and scores of pairs, as a figure of matplotlib's: a notebook shows it, ``savefig`` writes it."""
        from siamese_search.render.notebook import plot_report

        return plot_report(self)

    def _repr_html_(self) -> str:
        from siamese_search.render.notebook import report_html

        return report_html(self)


@request(EvaluateOptions)
def evaluate(
    data: StrPath | None = None,
    *,
    options: EvaluateOptions,
    progress: Callable[[str, int, int], None] | None = None,
    notify: Notify | None = None,
) -> Report:
    """Measure how well a model finds the right identity among labelled images, through a gallery of their own.

    Every image is a query against all the others, or those of ``queries`` against those of ``data``. Without ``data``
    the newest run under ``runs/`` is measured on the data set that it was trained on. By default the identities are the
    held-out ones where ``data`` is what the model was trained on, else all. A calibration (``report.calibration``) is
    kept in the gallery in use, made where there is none; in the bundle of a run where the images are the run's own and
    no gallery is named.

    Raises DataError (no identity, nobody to find, an identity that is not there), BundleError, UsageError.
    """
    from siamese_search.datasets.layouts import load_dataset
    from siamese_search.datasets.splits import load_joined
    from siamese_search.evaluation.evaluate import evaluate as measure
    from siamese_search.evaluation.subject import choose_subject, seen_warning, select_identities

    if options.calibrate and options.flip:
        raise UsageError("a calibration is of images as they are: calibrate without --flip")
    settings = current_settings()
    named = settings.model if options.model is None else os.fspath(options.model)
    subject = choose_subject(data, named)
    into_bundle = options.store is None and options.gallery is None and subject.is_own_data
    if options.calibrate and not into_bundle:
        check_place(options.store, options.gallery, subject.bundle)
    if options.queries is not None and subject.others:
        raise UsageError(
            "queries are searched in one data set; name it too (sss evaluate photos/ --queries …)"
        )
    dataset = load_joined(subject.paths, _layout(subject, options))
    asked = None if options.queries is None else load_dataset(Path(options.queries), layout_of(options))
    chosen, reason = select_identities(subject, dataset, asked, options.identities)
    if notify is not None:
        notify(f"model {subject.bundle.name}, data {subject.place} ({dataset.layout}: {dataset.reason})")
        notify(reason)
    records, query_records = dataset.records, None if asked is None else asked.records
    if chosen is not None:
        records = [record for record in records if record.identity in chosen]
        query_records = None if query_records is None else [r for r in query_records if r.identity in chosen]
    threads = threads_in_use(options.threads)
    batch_size = settings.batch_size if options.batch_size is None else options.batch_size
    report = measure(
        records,
        load(subject.bundle, options.device, threads),
        queries=query_records,
        options=replace(options, threads=threads, batch_size=batch_size),
        model_name=subject.bundle.name,
        data=subject.place,
        progress=progress,
    )
    report = replace(report, warning=seen_warning(subject.bundle, dataset, asked, chosen))
    if not options.flip:  # a calibration is of images as they are
        with suppress(BundleError):  # a damaged one is for --calibrate to replace
            report = replace(report, kept=subject.bundle.calibration)
    if options.calibrate:
        from siamese_search.evaluation.calibrate import calibrate as fit
        from siamese_search.evaluation.calibrate import save_calibration

        found = fit(report.pairs, f"{subject.place}: {reason}")
        if into_bundle:
            save_calibration(subject.bundle, found)
            place = f"model {printable(subject.bundle.name)}"
        else:
            place = keep(options.store, options.gallery, subject.bundle, found)
        report = replace(report, calibration=found, calibrated_place=place)
    return Report.of(report)


def _layout(subject: Subject, options: EvaluateOptions) -> str:
    """How the data is read: as asked for, else as its run has read it."""
    asked = layout_of(options)
    return subject.layout if asked == "auto" else asked


@request(EvaluateOptions)
def compare_models(
    a: StrPath,
    b: StrPath,
    data: StrPath | None = None,
    *,
    options: EvaluateOptions,
    progress: Callable[[str, int, int], None] | None = None,
    notify: Notify | None = None,
) -> PairedReport:
    """Measure two bundles on the same queries, and how sure the difference is (bootstrap over identities).

    data: by default what ``a`` was trained on. identities: by default those that both held out, where both did. Raises
    as :func:`siamese_search.evaluate`, and UsageError for ``calibrate``.
    """
    from siamese_search.datasets.layouts import load_dataset
    from siamese_search.datasets.splits import RESERVED_IDENTITIES, load_joined
    from siamese_search.evaluation.findings import compare_reports
    from siamese_search.evaluation.subject import choose_subject, select_identities

    if options.calibrate:
        raise UsageError("calibrate one model at a time: sss evaluate --model RUN --calibrate")
    if options.model is not None:
        raise UsageError(
            f"{printable(str(options.model))}: a comparison is of two bundles, a and b; leave model out"
        )
    first = choose_subject(data, str(a))
    where = first.data if data is None else data
    asked = None if options.queries is None else load_dataset(Path(options.queries), layout_of(options))
    common: set[str] | None = None
    for subject in (first, choose_subject(where, str(b))):
        dataset = load_joined(subject.paths, _layout(subject, options))
        chosen, reason = select_identities(subject, dataset, asked, options.identities)
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
        evaluate(where, options=replace(options, model=model, identities=wanted), progress=progress)
        for model in (a, b)
    ]
    return compare_reports(*reports)

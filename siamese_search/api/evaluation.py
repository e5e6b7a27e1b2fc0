"""Measuring a model, or two against each other, on identities that they have not seen; what a gallery's scores mean."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from siamese_search import render
from siamese_search.datasets.layouts import load_dataset
from siamese_search.datasets.splits import load_joined, those_of
from siamese_search.embedding import looks_of
from siamese_search.errors import (
    BundleError,
    DataError,
    GalleryNotFoundError,
    ModelMismatchError,
    UsageError,
    amount,
    printable,
)
from siamese_search.evaluation.calibrate import calibrate as fit
from siamese_search.evaluation.calibrate import save_calibration, telling_pairs
from siamese_search.evaluation.evaluate import StageProgress
from siamese_search.evaluation.evaluate import evaluate as measure
from siamese_search.evaluation.findings import PairedReport, compare_reports
from siamese_search.evaluation.options import EvaluateOptions
from siamese_search.evaluation.report import EvaluationReport
from siamese_search.evaluation.subject import Subject, choose_subject, seen_warning, select_identities
from siamese_search.gallery.checks import vector_of
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.filters import Condition
from siamese_search.model.bundle import Bundle
from siamese_search.model.calibration import Calibration
from siamese_search.options import layout_of, request
from siamese_search.retrieval.judging import keep_calibration, take_back
from siamese_search.settings import load_settings
from siamese_search.workspace import Notify, StrPath, load, model_of, open_to_write, store_in_use, threads_in_use


class Report(EvaluationReport):
    """An :class:`~siamese_search.evaluation.report.EvaluationReport` that draws itself."""

    def plot(self) -> render.Plot:
        """CMC, ROC and scores of pairs, as a figure of matplotlib's: a notebook shows it, ``savefig`` writes it."""
        return render.plot_report(self)

    def _repr_html_(self) -> str:
        return render.report_html(self)


@request(EvaluateOptions)
def evaluate(
    data: StrPath | None = None,
    *,
    options: EvaluateOptions,
    progress: StageProgress | None = None,
    notify: Notify | None = None,
) -> Report:
    """Measure how well a model finds the right identity among labelled images, through a gallery of their own.

    Every image is a query against all the others, or those of ``queries`` against those of ``data``. Without ``data``
    the newest run under ``runs/`` is measured on the data set that it was trained on. By default the identities are the
    held-out ones where ``data`` is what the model was trained on, else all. A calibration (``report.calibration``) is
    kept in the gallery in use, made where there is none; in the run's bundle for its own images where none is named.

    Raises DataError (no identity, nobody to find, an identity that is not there), BundleError, UsageError.
    """
    if options.calibrate and options.flip:
        raise UsageError("a calibration is of images as they are: calibrate without --flip")
    settings = load_settings()
    named = settings.model if options.model is None else os.fspath(options.model)
    subject = choose_subject(data, named)
    into_bundle = options.store is None and options.gallery is None and subject.is_own_data
    if options.calibrate and not into_bundle:
        check_place(options.store, options.gallery, subject.bundle)
    if options.queries is not None and subject.others:
        raise UsageError("queries are searched in one data set; name it too (sss evaluate photos/ --queries …)")
    dataset = load_joined(subject.paths, _layout(subject, options))
    asked = None if options.queries is None else load_dataset(Path(options.queries), layout_of(options))
    chosen, reason = select_identities(subject, dataset, asked, options.identities)
    if notify is not None:
        notify(f"model {subject.bundle.name}, data {subject.place} ({dataset.layout}: {dataset.reason})")
        notify(reason)
    records, query_records = dataset.records, None if asked is None else asked.records
    if chosen is not None:
        records = those_of(records, chosen)
        query_records = None if query_records is None else those_of(query_records, chosen)
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
    further: dict[str, Any] = {"warning": seen_warning(subject.bundle, dataset, asked, chosen)}
    if not options.flip:  # a calibration is of images as they are
        with suppress(BundleError):  # a damaged one is for --calibrate to replace
            further["kept"] = subject.bundle.calibration
    if options.calibrate:
        looks = looks_of([record.path for record in records], subject.bundle.input_size)
        found = further["calibration"] = replace(fit(report.pairs, f"{subject.place}: {reason}"), looks=looks)
        if into_bundle:
            save_calibration(subject.bundle, found)
            further["calibrated_place"] = f"model {printable(subject.bundle.name)}"
        else:
            further["calibrated_place"] = keep(options.store, options.gallery, subject.bundle, found)
    return Report(**{**vars(report), **further})


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
    progress: StageProgress | None = None,
    notify: Notify | None = None,
) -> PairedReport:
    """Measure two bundles on the same queries, and how sure the difference is (bootstrap over identities).

    data: by default what ``a`` was trained on. identities: by default those that both held out, where both did. Raises
    as :func:`siamese_search.evaluate`, and UsageError for ``calibrate``.
    """
    if options.calibrate:
        raise UsageError("calibrate one model at a time: sss evaluate --model RUN --calibrate")
    if options.model is not None:
        raise UsageError(f"{printable(str(options.model))}: a comparison is of two bundles, a and b; leave model out")
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
    if common is not None and not common:
        raise DataError(
            f"no identity of {printable(str(where))} was held out by both models: name others with --identities"
        )
    wanted = "all" if common is None else sorted(common)
    reports = [
        evaluate(where, options=replace(options, model=model, identities=wanted), progress=progress) for model in (a, b)
    ]
    return compare_reports(*reports)


#: Labelled images of a gallery that are looked at, drawn by their ids, which are hashes.
MOST_IMAGES = 10_000
#: Pairs across cameras that it takes to leave the others out.
_LEAST_PAIRS = 100


@dataclass(frozen=True, slots=True)
class CalibrationSummary:
    """Whose calibration a gallery has now: its own, or ``None`` for its model's. images, identities: measured on."""

    gallery: str
    store: str
    calibration: Calibration | None
    images: int = 0
    identities: int = 0

    def to_json(self) -> dict[str, Any]:
        """The JSON contract of ``sss calibrate --json``."""
        return {
            "collection": self.gallery,
            "store": self.store,
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "images": self.images,
            "identities": self.identities,
        }


def calibrate(*, store: StrPath | None = None, gallery: str | None = None, undo: bool = False) -> CalibrationSummary:
    """Measure what scores mean on a gallery's own labelled images, by their stored vectors, and keep it there.

    undo: take the last one back instead; again: the newer one. Raises DataError for too few labelled images, UsageError
    for nothing to take back, GalleryNotFoundError, StoreError.
    """
    with store_in_use(store, gallery) as (opened, name), opened.open(name, mode="w") as found:
        if undo:
            return CalibrationSummary(name, opened.location, take_back(found))
        known, images, identities = _measured(found)
        keep_calibration(found, known)
        return CalibrationSummary(name, opened.location, known, images, identities)


def _measured(gallery: Gallery) -> tuple[Calibration, int, int]:
    """A calibration of the gallery's labelled images, their number, and that of their identities."""
    labelled: list[Any] = []
    if "identity" in gallery.fields():
        fields = [one for one in ("identity", "camera", "key", "path") if one in gallery.fields()]
        points = gallery.scroll([Condition("identity", "present")], with_vectors=True, fields=fields)
        labelled = list(islice((one for one in points if one.is_somebody), MOST_IMAGES))
    if not labelled:
        raise DataError(
            f"{gallery.what} has no labelled images to calibrate on: set labels"
            " with sss label, or measure on others like them: sss evaluate PHOTOS --calibrate"
        )
    vectors = np.stack([vector_of(gallery, one) for one in labelled]).astype(np.float32)
    names = [str(one.identity) for one in labelled]
    pairs, across = telling_pairs(vectors, names, [one.camera for one in labelled], _LEAST_PAIRS)
    images, identities = len(names), len(set(names))
    data = f"gallery {gallery.name}: {amount(images, 'image')} of {amount(identities, 'identity')}"
    found = fit(pairs, data + ", across cameras" * across)
    with suppress(ModelMismatchError):  # whose images' size nobody knows
        found = replace(found, looks=looks_of([one.path for one in labelled], model_of(gallery.model).input_size))
    return found, images, identities


def check_place(store: StrPath | None, gallery: str | None, bundle: Bundle) -> None:
    """Raise UsageError where the gallery that a calibration is for holds vectors of another model than ``bundle``."""
    with store_in_use(store, gallery) as (opened, name), suppress(GalleryNotFoundError):
        made_by = opened.generations(name).current
        if made_by.fingerprint != bundle.fingerprint:
            raise UsageError(
                f"{opened.what(name)} was made by another model"
                f" ({made_by.fingerprint[:12]}) than the one measured ({bundle.fingerprint[:12]}), so it cannot keep"
                " its calibration: name the gallery that is meant with --gallery, or the model with --model"
            )


def keep(store: StrPath | None, gallery: str | None, bundle: Bundle, calibration: Calibration) -> str:
    """Keep a calibration in a gallery, made if need be; for people, where that is."""
    with open_to_write(store, gallery, os.fspath(bundle.path)) as (found, _):
        keep_calibration(found, calibration)
        empty = "" if found.count() else ", which has no images yet"
        return f"{found.what}{empty}"

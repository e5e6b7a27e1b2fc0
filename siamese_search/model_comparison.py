"""compare_models(): is one model better than another on identities that neither has seen?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamese_search.errors import DataError, UsageError, printable
from siamese_search.workspace import StrPath

if TYPE_CHECKING:
    from siamese_search.evaluation.compare import PairedReport


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
    from siamese_search import api
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
        api.evaluate(where, queries=queries, model=model, identities=wanted, layout=layout, **options)
        for model in (a, b)
    ]
    return compare_reports(*reports)

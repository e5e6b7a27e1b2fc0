"""The care for a gallery as functions: labels by hand, duplicates, proposed identities, export."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamese_search.curation.duplicates import THRESHOLD, Group, find_duplicates
from siamese_search.curation.export import export_gallery, format_of
from siamese_search.curation.identities import Proposals, propose
from siamese_search.curation.labels import LabelPlan, check_plan, plan_labels, shown_path, write_changes, write_undo
from siamese_search.curation.options import ClusterOptions, LabelOptions
from siamese_search.errors import ModelMismatchError, UsageError
from siamese_search.gallery.filters import parse_where
from siamese_search.gallery.times import bind_to
from siamese_search.model.bundle import load_bundle
from siamese_search.options import Progress, request
from siamese_search.retrieval.judging import gallery_calibration
from siamese_search.settings import load_settings
from siamese_search.workspace import StrPath, model_of, path_text, reference, store_in_use

#: Changes that the JSON of ``sss label`` lists; it counts all.
MOST_LISTED = 10_000


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """What labels were applied, or would be (``dry_run``). undo: the file with the former values, if asked for."""

    plan: LabelPlan
    gallery: str
    store: str
    dry_run: bool
    undo: Path | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The JSON contract of ``sss label --json``."""
        values = [(change, name) for change in self.plan.changes for name in change.after]
        return {
            "rows": self.plan.rows,
            "changed": len(self.plan.changes),
            "unchanged": self.plan.unchanged,
            "fields": dict(sorted(Counter(name for _, name in values).items())),
            "changes": [
                {"path": shown_path(one), "key": one.key, "source": one.source}
                | {"field": name, "before": one.before[name], "after": one.after[name]}
                for one, name in values[:MOST_LISTED]
            ],
            "dry_run": self.dry_run,
            "undo": None if self.undo is None else str(self.undo),
            "seconds": round(self.seconds, 3),
            "collection": self.gallery,
            "store": self.store,
        }


@request(LabelOptions)
def label(
    table: StrPath,
    *,
    options: LabelOptions,
    progress: Progress | None = None,
    on_plan: Callable[[LabelPlan], None] | None = None,
    stop: threading.Event | None = None,
) -> LabelSummary:
    """Apply the labels of a CSV (identity, camera, any metadata column) to the images that its rows name.

    See :func:`siamese_search.curation.labels.plan_labels` for the table. Nothing is written unless every row can be.
    on_plan: called with the checked plan before anything is written. stop: set it to end after the points in hand
    (KeyboardInterrupt is raised; the same call goes on). Raises DataError, UsageError (the undo file exists),
    StoreError.
    """
    started = time.monotonic()
    dry_run, given = options.dry_run, Path(path_text(table, "a table of labels"))
    with (
        store_in_use(options.store, options.gallery) as (opened, name),
        opened.open(name, mode="r" if dry_run else "w") as found,
    ):
        plan = plan_labels(found, given, options.names())
        if on_plan is not None:
            on_plan(plan)
        check_plan(plan)
        written = None
        if not dry_run and plan.changes:
            if options.undo is not None:
                written = Path(options.undo)
                write_undo(plan, written)
            write_changes(found, plan.changes, progress=progress, stop=stop)
        return LabelSummary(plan, name, opened.location, dry_run, written, time.monotonic() - started)


def duplicates(
    *,
    threshold: float | None = None,
    where: str | Sequence[str] = (),
    store: StrPath | None = None,
    gallery: str | None = None,
    progress: Progress | None = None,
) -> list[Group]:
    """The same pictures in a gallery, in groups, the one to keep first. Nothing is changed or deleted.

    threshold: least cosine similarity of two vectors whose files are compared (0.9).
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise UsageError(f"a threshold of similarity lies above 0 and up to 1, not {threshold:g}")
    conditions = parse_where(where)
    least = THRESHOLD if threshold is None else threshold
    with store_in_use(store, gallery) as (opened, name), opened.open(name) as found:
        return find_duplicates(found, least, bind_to(found, conditions), progress=progress)


@request(ClusterOptions)
def propose_identities(*, options: ClusterOptions, progress: Callable[[str], None] = lambda _stage: None) -> Proposals:
    """Cluster a gallery's images without identity, for a person to review. Changes nothing.

    The model's calibration counts where the gallery has none. See :func:`siamese_search.curation.identities.propose`.
    """
    conditions = parse_where(options.where)
    named = load_settings().model if options.model is None else str(options.model)
    with store_in_use(options.store, options.gallery) as (opened, name), opened.open(name) as found:
        bundle = None
        if named:
            bundle = load_bundle(named)
            reference(bundle).check(found.model, f"gallery {name!r}")
        else:
            with suppress(ModelMismatchError):  # the vectors are there; only what scores mean is not
                bundle = model_of(found.model)
        bound = bind_to(found, conditions)
        known = gallery_calibration(found) or (None if bundle is None else bundle.calibration)
        return propose(found, bound, calibration=known, options=options, progress=progress)


def export(
    out: StrPath,
    *,
    format: str | None = None,
    where: str | Sequence[str] = (),
    vectors: bool = True,
    store: StrPath | None = None,
    gallery: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a gallery's points to a file for other programs; the JSON of ``sss export``.

    format: ``parquet``, ``npz``, ``csv``, ``jsonl`` or ``fiftyone`` (a directory); by default what ``out`` is named.
    Raises as :func:`siamese_search.curation.export.export_gallery`.
    """
    started = time.monotonic()
    target = Path(path_text(out, "an export"))
    chosen = format_of(target, format)
    conditions = parse_where(where)
    with store_in_use(store, gallery) as (opened, name), opened.open(name) as found:
        done = export_gallery(found, target, chosen, bind_to(found, conditions), vectors=vectors, progress=progress)
        return {
            "out": str(target),
            "format": chosen,
            "points": done.points,
            "left_out": done.left_out,
            "vectors": vectors,
            "seconds": round(time.monotonic() - started, 3),
            "collection": name,
            "store": opened.location,
        }

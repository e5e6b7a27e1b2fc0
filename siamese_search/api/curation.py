"""The care for a gallery as functions: labels by hand, duplicates, proposed identities, export.

As in :mod:`siamese_search.api`: the command line is a thin skin over these, whatever is not given comes from the
settings, and every failure is a :class:`~siamese_search.errors.SiameseSearchError` with a one-line message. A store
is a directory or a server's URL; nothing here knows which.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamese_search.curation.options import ClusterOptions, LabelOptions
from siamese_search.options import request
from siamese_search.workspace import StrPath, current_settings, place_of

if TYPE_CHECKING:
    from siamese_search.curation.duplicates import Group
    from siamese_search.curation.identities import Proposals
    from siamese_search.curation.labels import LabelPlan

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
        from siamese_search.curation.labels import shown_path
        from siamese_search.retrieval.results import json_path

        counts: dict[str, int] = {}
        listed: list[dict[str, Any]] = []
        for change in self.plan.changes:
            for name, after in change.after.items():
                counts[name] = counts.get(name, 0) + 1
                if len(listed) < MOST_LISTED:
                    place = {
                        "path": json_path(shown_path(change)),
                        "key": change.key,
                        "source": change.source,
                    }
                    listed.append({**place, "field": name, "before": change.before[name], "after": after})
        return {
            "rows": self.plan.rows,
            "changed": len(self.plan.changes),
            "unchanged": self.plan.unchanged,
            "fields": dict(sorted(counts.items())),
            "changes": listed,
            "dry_run": self.dry_run,
            "undo": None if self.undo is None else json_path(self.undo),
            "seconds": round(self.seconds, 3),
            "collection": self.gallery,
            "store": self.store,
        }


@request(LabelOptions)
def label(
    table: StrPath,
    *,
    options: LabelOptions,
    progress: Callable[[int, int], None] | None = None,
    on_plan: Callable[[LabelPlan], None] | None = None,
    stop: threading.Event | None = None,
) -> LabelSummary:
    """Apply the labels of a CSV (identity, camera, any metadata column) to the images that its rows name.

    See :func:`siamese_search.curation.labels.plan_labels` for the table. Nothing is written unless every row can be.
    columns: only these. dry_run: change nothing. undo: a new file for the former values; applying it takes the change
    back. on_plan: called with the checked plan before anything is written. stop: set it to end after the
    points in hand (KeyboardInterrupt is raised; the same call goes on).
    Raises DataError (a table or rows that cannot be applied), UsageError (the undo file exists), StoreError.
    """
    from siamese_search.curation.labels import apply_labels, check_plan, plan_labels, write_undo
    from siamese_search.gallery.opening import open_store

    started = time.monotonic()
    place, name = place_of(current_settings(), options.store, options.gallery)
    dry_run = options.dry_run
    aside = None if options.undo is None else Path(options.undo)
    with open_store(place) as opened, opened.open(name, mode="r" if dry_run else "w") as found:
        plan = plan_labels(found, Path(table), options.names())
        if on_plan is not None:
            on_plan(plan)
        check_plan(plan)
        written = None
        if not dry_run and plan.changes:
            if aside is not None:
                write_undo(plan, aside)
                written = aside
            apply_labels(found, plan, progress=progress, stop=stop)
        return LabelSummary(plan, name, opened.location, dry_run, written, time.monotonic() - started)


def duplicates(
    *,
    threshold: float | None = None,
    where: str | Sequence[str] = (),
    store: StrPath | None = None,
    gallery: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Group]:
    """The same pictures in a gallery, in groups, the one to keep first. Nothing is changed or deleted.

    threshold: least cosine similarity of two vectors whose files are compared (0.9). See
    :func:`siamese_search.curation.duplicates.find_duplicates`.
    """
    from siamese_search.curation.duplicates import THRESHOLD, find_duplicates
    from siamese_search.errors import UsageError
    from siamese_search.gallery.filters import parse_where
    from siamese_search.gallery.opening import open_store
    from siamese_search.gallery.times import bind_to

    if threshold is not None and not 0 < threshold <= 1:
        raise UsageError(f"a threshold of similarity lies above 0 and up to 1, not {threshold:g}")
    conditions = parse_where([where] if isinstance(where, str) else list(where))
    place, name = place_of(current_settings(), store, gallery)
    with open_store(place) as opened, opened.open(name) as found:
        bound = bind_to(found, conditions)
        least = THRESHOLD if threshold is None else threshold
        return find_duplicates(found, least, bound, progress=progress)


@request(ClusterOptions)
def propose_identities(
    *,
    options: ClusterOptions,
    progress: Callable[[str], None] = lambda _stage: None,
) -> Proposals:
    """Cluster a gallery's images without identity (``labelled``: all), for a person to review. Changes nothing.

    neighbours: about as many images as an identity has. least: lowest mean k-reciprocal similarity of two clusters
    that are merged, 0 to 1. cosine: lowest mean cosine, by default what the gallery's calibration, else its model's,
    gives for a false match rate of 0.01. model: the bundle whose calibration counts, by default the gallery's own. See
    :func:`siamese_search.curation.identities.propose`.
    """
    from siamese_search.curation.identities import propose
    from siamese_search.errors import ModelMismatchError
    from siamese_search.gallery.filters import parse_where
    from siamese_search.gallery.opening import open_store
    from siamese_search.gallery.times import bind_to
    from siamese_search.model.bundle import load_bundle
    from siamese_search.retrieval.judging import gallery_calibration
    from siamese_search.workspace import model_of

    conditions = parse_where([options.where] if isinstance(options.where, str) else list(options.where))
    settings = current_settings()
    place, name = place_of(settings, options.store, options.gallery)
    named = settings.model if options.model is None else str(options.model)
    with open_store(place) as opened, opened.open(name) as found:
        bundle = None
        if named:
            bundle = load_bundle(named)
            if bundle.fingerprint != found.model.fingerprint:
                raise ModelMismatchError(
                    f"model {bundle.fingerprint[:12]} did not make gallery {name!r}: that was"
                    f" {found.model.fingerprint[:12]}"
                )
        else:
            with suppress(ModelMismatchError):  # the vectors are there; only what scores mean is not
                bundle = model_of(found.model)
        bound = bind_to(found, conditions)
        return propose(
            found,
            bound,
            calibration=gallery_calibration(found) or (None if bundle is None else bundle.calibration),
            options=options,
            progress=progress,
        )


def export(
    out: StrPath,
    *,
    format: str | None = None,
    where: str | Sequence[str] = (),
    vectors: bool = True,
    store: StrPath | None = None,
    gallery: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write a gallery's points to a file for other programs; the JSON of ``sss export``.

    format: ``parquet``, ``npz``, ``csv``, ``jsonl`` or ``fiftyone`` (a directory); by default what ``out`` is named.
    where: filters such as ``"camera=2"``. vectors: False leaves them out. See
    :func:`siamese_search.curation.export.run.export_gallery` for what it raises.
    """
    from siamese_search.curation.export.run import export_gallery, format_of
    from siamese_search.gallery.filters import parse_where
    from siamese_search.gallery.opening import open_store
    from siamese_search.gallery.times import bind_to
    from siamese_search.retrieval.results import json_path

    started = time.monotonic()
    target = Path(out)
    chosen = format_of(target, format)
    conditions = parse_where([where] if isinstance(where, str) else list(where))
    place, name = place_of(current_settings(), store, gallery)
    with open_store(place) as opened, opened.open(name) as found:
        bound = bind_to(found, conditions)
        done = export_gallery(found, target, chosen, bound, vectors=vectors, progress=progress)
        return {
            "out": json_path(target),
            "format": chosen,
            "points": done.points,
            "left_out": done.left_out,
            "vectors": vectors,
            "seconds": round(time.monotonic() - started, 3),
            "collection": name,
            "store": opened.location,
        }

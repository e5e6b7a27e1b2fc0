"""The verbs that keep and move whole galleries: re-index, optimise, verify, describe, drop, push and pull."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from siamese_search import workspace
from siamese_search.errors import BundleError, ModelMismatchError, UsageError, printable
from siamese_search.gallery import open_store
from siamese_search.gallery.contract import Gallery, ModelRef, OptimiseProgress, Store
from siamese_search.maintenance.copy import CopyReport, copy_gallery
from siamese_search.maintenance.options import ReindexOptions
from siamese_search.maintenance.reindex import ReindexSummary, run_reindex
from siamese_search.maintenance.verify import VerifySummary, verify_gallery
from siamese_search.model.bundle import Bundle
from siamese_search.options import Progress, request
from siamese_search.retrieval.judging import NOBODY, Judge, judge_in
from siamese_search.retrieval.ranking import people_of
from siamese_search.settings import load_settings
from siamese_search.workspace import StrPath, bundle_in_use, load, model_of, place_of, store_in_use, threads_in_use


@request(ReindexOptions)
def reindex(
    model: StrPath | None = None,
    *,
    options: ReindexOptions,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> ReindexSummary:
    """Embed a gallery's images again with ``model`` (default: the settings', else the bundled one).

    The new vectors are checked and replace the old ones in one step when all are there; until then, and after a failure
    or an interruption, the gallery is as it was, and the same call goes on. The old ones are kept for :func:`rollback`
    until :func:`drop_old`. Raises DataError (an image that has gone), UsageError (the gallery is this model's already),
    StoreError.
    """
    if options.keep_vectors and model is not None:
        raise UsageError("the vectors are kept or a model makes new ones: give one of the two")
    with store_in_use(options.store, options.gallery) as (opened, name):
        made_by = opened.generations(name).current
        embedder = None
        if not options.keep_vectors:
            bundle = bundle_in_use(model)
            if made_by.fingerprint == bundle.fingerprint:
                raise UsageError(f"{opened.what(name)} is by this model already: nothing to do")
            made_by = workspace.reference(bundle)
            embedder = load(bundle, options.device, threads_in_use(options.threads))
        storage = None  # what the store makes of the present one
        if options.storage is not None or options.quantise is not None:
            with opened.open(name) as current:
                storage = opened.default_storage(current.storage).changed(options.storage, options.quantise)
        return run_reindex(
            opened,
            name,
            made_by,
            embedder,
            options=replace(options, batch_size=options.batch_size or load_settings().batch_size),
            storage=storage,
            progress=progress,
            stop=stop,
        )


def rollback(*, store: StrPath | None = None, gallery: str | None = None) -> tuple[ModelRef, ModelRef]:
    """Put the former generation of a gallery back in its place, in one step: (the model now, the one before).

    A second call undoes the first. What was ingested since the re-index is in the newer generation only. Raises
    StoreError where there is no former generation.
    """
    with store_in_use(store, gallery) as (opened, name):
        before = opened.generations(name).current
        return opened.rollback(name), before


def drop_old(*, store: StrPath | None = None, gallery: str | None = None) -> int:
    """Delete every generation of a gallery but the current one, unfinished ones too; how many there were."""
    with store_in_use(store, gallery) as (opened, name):
        return opened.drop_old(name)


def drop(gallery: str, *, store: StrPath | None = None) -> None:
    """Delete a gallery with all its generations. The images are not touched. Asks nobody."""
    with store_in_use(store, gallery) as (opened, name):
        opened.drop(name)


def galleries(*, store: StrPath | None = None, gallery: str | None = None) -> dict[str, Any]:
    """What a store holds, or one gallery of it, as in the JSON of ``sss info``; none where there is no store."""
    with store_in_use(store, gallery) as (opened, _):
        found = []
        for name in opened.names() if gallery is None else [gallery]:
            with opened.open(name) as one:
                found.append(facts_of(opened, one))
        return {"store": opened.location, "galleries": found}


def describe(
    *, store: StrPath | None = None, gallery: str | None = None, model: StrPath | None = None
) -> dict[str, Any]:
    """:func:`galleries` and the model in use, the JSON of ``sss info``. Raises StoreError, BundleError."""
    return {**galleries(store=store, gallery=gallery), "model": model_facts(bundle_in_use(model))}


def model_facts(bundle: Bundle) -> dict[str, Any]:
    """The ``model`` of :func:`describe`."""
    return {
        "name": bundle.name,
        "fingerprint": bundle.fingerprint,
        "dim": bundle.dim,
        "input_size": list(bundle.input_size),
        "enlarge": (bundle.meta.get("network") or {}).get("enlarge", 1),
        "backbone": bundle.meta.get("backbone"),
        "heldout_identities": len(bundle.heldout_identities),
        "metrics": dict(bundle.meta.get("metrics") or {}),
    }


def facts_of(store: Store, opened: Gallery) -> dict[str, Any]:
    """All about an open gallery: GalleryInfo, the numbers of identities and cameras, the other generations' models."""
    facts = asdict(opened.info())
    identities, cameras = (
        opened.facet(field, limit=2**31 - 1) if field in facts["fields"] else {} for field in ("identity", "camera")
    )
    facts["identities"], facts["cameras"] = len(people_of(opened, identities)), len(cameras)
    judge = verdicts_in(opened)
    facts["calibration"], facts["no_verdict"] = judge.owner, judge.why
    generations = store.generations(opened.name)
    for which, model in (("previous", generations.previous), ("building", generations.building)):
        facts[which] = None if model is None else asdict(model)
    return facts


def verdicts_in(gallery: Gallery) -> Judge:
    """What verdicts rest on in an open gallery; nobody where its model is not on this machine, or is damaged."""
    with suppress(ModelMismatchError, BundleError):
        return judge_in(gallery, model_of(gallery.model))
    return NOBODY


def no_verdicts(*, store: StrPath | None = None, gallery: str | None = None) -> str:
    """Why searches in a gallery give scores only, in one line; empty where they say match or no match."""
    with store_in_use(store, gallery) as (opened, name), opened.open(name) as found:
        return verdicts_in(found).why


def optimise(
    *,
    store: StrPath | None = None,
    gallery: str | None = None,
    index: bool | None = None,
    progress: OptimiseProgress | None = None,
) -> dict[str, Any]:
    """Tidy a gallery up, so that it opens faster, in less memory; the JSON of ``sss optimise``.

    index: build an HNSW index (True) or drop it (False); by default where it pays. progress: stage and seconds.
    """
    started = time.monotonic()
    with store_in_use(store, gallery) as (opened, name), opened.open(name, mode="w") as found:
        changed = found.optimise(index=index, progress=progress)
        info = found.info()
        return {
            "changed": changed,
            "points": info.points,
            "indexed_points": info.indexed_points,
            "size_bytes": info.size_bytes,
            "resident_bytes": info.resident_bytes,
            "seconds": round(time.monotonic() - started, 3),
            "collection": name,
            "store": opened.location,
        }


def verify(
    *,
    store: StrPath | None = None,
    gallery: str | None = None,
    files: bool = True,
    checksum: bool = False,
    progress: Progress | None = None,
) -> VerifySummary:
    """As :func:`siamese_search.maintenance.verify.verify_gallery`. Nothing is changed."""
    with store_in_use(store, gallery) as (opened, name), opened.open(name) as found:
        return verify_gallery(found, files=files, checksum=checksum, progress=progress)


@dataclass(frozen=True, slots=True)
class CopySummary:
    """What a push or pull did: from where to where, of which model, and the counts of points."""

    gallery: str
    source: str
    target: str
    model: str
    report: CopyReport
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The JSON contract of ``sss push --json`` and ``sss pull --json``."""
        return {
            **asdict(self.report),
            "seconds": round(self.seconds, 3),
            "collection": self.gallery,
            "from": self.source,
            "to": self.target,
            "model": self.model,
        }


def push(
    to: StrPath,
    *,
    store: StrPath | None = None,
    gallery: str | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> CopySummary:
    """Copy a gallery (payloads, vectors, model) into the store ``to``, under the same name, made where needed.

    Points that are there already, the same, are not sent again; points that only ``to`` has stay. Verified by count and
    by sampled vectors. Raises ModelMismatchError where ``to`` has a gallery of this name by another model, StoreError.
    """
    place, name = place_of(load_settings(), store, gallery)
    return _copy(place, os.fspath(to), name, progress, stop)


def pull(
    source: StrPath,
    *,
    store: StrPath | None = None,
    gallery: str | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> CopySummary:
    """:func:`push` the other way: copy a gallery out of the store ``source`` into the settings' one."""
    place, name = place_of(load_settings(), store, gallery)
    return _copy(os.fspath(source), place, name, progress, stop)


def _copy(source: str, target: str, name: str, progress: Progress | None, stop: threading.Event | None) -> CopySummary:
    started = time.monotonic()
    with open_store(source) as giver, open_store(target) as taker:
        local = not (giver.shared or taker.shared)
        real = [os.path.realpath(one.location) if local else one.location for one in (giver, taker)]
        if real[0] == real[1]:
            raise UsageError(f"{printable(giver.location)} is both the source and the target: name two stores")
        with (
            giver.open(name) as ours,
            taker.open(
                name, model=ours.model, create=True, mode="w", storage=taker.default_storage(ours.storage)
            ) as theirs,
        ):
            model = ours.model.name or ours.model.fingerprint
            report = copy_gallery(ours, theirs, progress=progress, stop=stop)
        return CopySummary(name, giver.location, taker.location, model, report, time.monotonic() - started)

"""What scores mean in a gallery: measured on its own labels, kept in it, taken back."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from siamese_search.errors import (
    BundleError,
    DataError,
    GalleryNotFoundError,
    ModelMismatchError,
    UsageError,
    printable,
)
from siamese_search.workspace import StrPath, model_of, open_to_write, store_in_use

if TYPE_CHECKING:
    from siamese_search.gallery.contract import Gallery
    from siamese_search.model.bundle import Bundle
    from siamese_search.model.calibration import Calibration
    from siamese_search.retrieval.judging import Judge

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


def calibrate(
    *, store: StrPath | None = None, gallery: str | None = None, undo: bool = False
) -> CalibrationSummary:
    """Measure what scores mean on a gallery's own labelled images, by their stored vectors, and keep that in the
    gallery.

    undo: take the last one back instead; again: the newer one. Raises DataError for too few labelled images, UsageError
    for nothing to take back, GalleryNotFoundError, StoreError.
    """
    from siamese_search.retrieval.judging import keep_calibration, take_back

    with store_in_use(store, gallery) as (opened, name), opened.open(name, mode="w") as found:
        if undo:
            return CalibrationSummary(name, opened.location, take_back(found))
        known, images, identities = _measured(found)
        keep_calibration(found, known)
        return CalibrationSummary(name, opened.location, known, images, identities)


def _measured(gallery: Gallery) -> tuple[Calibration, int, int]:
    """A calibration of the gallery's labelled images, their number, and that of their identities."""
    import numpy as np

    from siamese_search.evaluation.calibrate import calibrate as fit
    from siamese_search.evaluation.protocol import Labels
    from siamese_search.evaluation.verification import pair_scores
    from siamese_search.gallery.checks import vector_of
    from siamese_search.gallery.filters import Condition
    from siamese_search.retrieval.grouping import is_somebody

    labelled: list[Any] = []
    if "identity" in gallery.fields():
        fields = [one for one in ("identity", "camera", "key") if one in gallery.fields()]
        points = gallery.scroll([Condition("identity", "present")], with_vectors=True, fields=fields)
        labelled = list(islice((one for one in points if is_somebody(one.identity)), MOST_IMAGES))
    if not labelled:
        raise DataError(
            f"gallery {gallery.name!r} in {printable(gallery.store)} has no labelled images to calibrate on: set labels"
            " with sss label, or measure on others like them: sss evaluate PHOTOS --calibrate"
        )
    vectors = np.stack([vector_of(gallery, one) for one in labelled]).astype(np.float32)
    names = [str(one.identity) for one in labelled]
    cameras = [one.camera for one in labelled]
    pairs, how = pair_scores(vectors, Labels.within(names, cameras)), ", across cameras"
    if pairs.genuine_pairs < _LEAST_PAIRS or not any(cameras):
        pairs, how = pair_scores(vectors, Labels.within(names)), ""
    identities = len(set(names))
    return (
        fit(pairs, f"gallery {gallery.name}: {len(names):,} images of {identities:,} identities{how}"),
        len(names),
        identities,
    )


def verdicts_in(gallery: Gallery) -> Judge | None:
    """What verdicts rest on in an open gallery; ``None`` where its model is not on this machine, or is damaged."""
    from siamese_search.retrieval.judging import judge_in

    with suppress(ModelMismatchError, BundleError):
        return judge_in(gallery, model_of(gallery.model).calibration)
    return None


def no_verdicts(*, store: StrPath | None = None, gallery: str | None = None) -> str:
    """Why searches in a gallery give scores only, in one line; empty where they say match or no match."""
    with store_in_use(store, gallery) as (opened, name), opened.open(name) as found:
        judge = verdicts_in(found)
    return "" if judge is None else judge.why


def check_place(store: StrPath | None, gallery: str | None, bundle: Bundle) -> None:
    """Raise UsageError where the gallery that a calibration is for holds vectors of another model than ``bundle``."""
    with store_in_use(store, gallery) as (opened, name), suppress(GalleryNotFoundError):
        made_by = opened.generations(name).current
        if made_by.fingerprint != bundle.fingerprint:
            raise UsageError(
                f"gallery {name!r} in {printable(opened.location)} was made by another model"
                f" ({made_by.fingerprint[:12]}) than the one measured ({bundle.fingerprint[:12]}), so it cannot keep"
                " its calibration: name the gallery that is meant with --gallery, or the model with --model"
            )


def keep(store: StrPath | None, gallery: str | None, bundle: Bundle, calibration: Calibration) -> str:
    """Keep a calibration in a gallery, made if need be; for people, where that is."""
    from siamese_search.retrieval.judging import keep_calibration

    with open_to_write(store, gallery, os.fspath(bundle.path)) as (found, _):
        keep_calibration(found, calibration)
        empty = "" if found.count() else ", which has no images yet"
        return f"gallery {found.name!r} in {printable(found.store)}{empty}"

"""compare(): are two images the same identity? No gallery needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from siamese_search.errors import UsageError, printable
from siamese_search.workspace import StrPath, load, query_images

if TYPE_CHECKING:
    from siamese_search.retrieval.comparison import Comparison


def compare(
    a: StrPath,
    b: StrPath,
    *,
    model: StrPath | None = None,
    fmr: float | None = None,
    threshold: float | None = None,
    threads: int | None = None,
) -> Comparison:
    """Score every pair of an image of ``a`` and one of ``b``: image files, or directories of them.

    model: a bundle (default: the settings', else the bundled one). fmr: false match rate of the threshold (0.01), for
    a calibrated model; threshold: a cosine similarity instead. Without either the scores come undecided.
    Raises UsageError (both given, or a rate that the model cannot give), ImageError, DataError, BundleError.
    """
    from siamese_search.model.bundle import load_bundle
    from siamese_search.retrieval.comparison import compare as score
    from siamese_search.retrieval.matching import check_fmr
    from siamese_search.settings import load_settings

    if fmr is not None and threshold is not None:
        raise UsageError("give either a false match rate or a threshold, not both")
    settings = load_settings()
    bundle = load_bundle((settings.model if model is None else os.fspath(model)) or None)
    check_fmr(bundle.calibration, fmr, printable(bundle.name))
    left, right = ([path for path in query_images(side) if isinstance(path, Path)] for side in (a, b))
    return score(
        left,
        right,
        load(bundle, "cpu", settings.threads if threads is None else threads),
        bundle.calibration,
        threshold=threshold,
        false_match_rate=fmr,
    )

"""What a training run, a sweep and an adaptation are asked for beside their hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from siamese_search import options as shared
from siamese_search.options import Request, StrPath, option
from siamese_search.training.config import PRESETS


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(Request):
    """See :func:`siamese_search.api.training.train`."""

    preset: str = option("reid", "Recipe to start from.", choices=tuple(PRESETS))
    out: StrPath | None = option(None, "Run directory.  [default: runs/PRESET-DATE-TIME]", metavar="DIR")
    resume: StrPath | None = option(None, "Continue the run in DIR, with its own options.", metavar="DIR")
    init: StrPath = option(
        "imagenet",
        "Initial weights: imagenet (timm's, else the [imagenet] extra's), bundled, none, a bundle, or a file.",
        metavar="WEIGHTS",
    )
    holdout_ids: StrPath | Sequence[str] | None = option(
        None,
        "Identities that training must not see, one per line; SOURCE/ID for those of one data set only.",
        metavar="FILE",
    )
    holdout: float | None = option(
        None,
        "Identities of each data set to hold out: a share (0.15), a number (20), or 0.  [default: 0.1]",
        kind=float,
        metavar="X",
    )
    teacher: StrPath | None = option(None, "Network (.xml, .onnx) or vectors (.npz) to distil from.", metavar="FILE")
    layout: str = shared.layout()
    pattern: str | None = shared.pattern()
    device: str = shared.training_device()
    threads: int | None = shared.threads()


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions(RunOptions):
    """The same for :func:`siamese_search.api.training.sweep`, in a sweep's words."""

    out: StrPath | None = option(None, "Directory of the sweep.  [default: runs/sweep-DATE-TIME]", metavar="DIR")
    resume: StrPath | None = option(None, "Continue the sweep in DIR, with its own options.", metavar="DIR")
    holdout: float | None = option(
        None, "Identities to hold out: a share (0.15) or a number (20).  [default: 0.1]", kind=float, metavar="X"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptOptions(Request):
    """See :func:`siamese_search.api.training.adapt`."""

    out: StrPath | None = option(None, "Run directory.  [default: runs/adapt-DATE-TIME]", metavar="DIR")
    resume: StrPath | None = option(None, "Continue the adaptation in DIR, with its own options.", metavar="DIR")
    init: StrPath = option(
        "bundled",
        "The model to adapt: bundled, a bundle, imagenet (weights that know no identities yet), or a file of weights.",
        metavar="WEIGHTS",
    )
    labels: StrPath | None = option(
        None,
        "Identities that a person gave some images: a CSV with path or key and identity, or a review.",
        metavar="FILE.csv",
    )
    layout: str = shared.layout()
    pattern: str | None = shared.pattern()
    device: str = shared.training_device()
    threads: int | None = shared.threads()

"""Training: one run, a sweep of them, or an adaptation to images without labels. Needs the ``[torch]`` extra."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from siamese_search import render
from siamese_search.curation.identities import Proposal, Proposals, arranged, write_review
from siamese_search.datasets.layouts import survey
from siamese_search.datasets.records import point_id
from siamese_search.errors import MissingExtraError, TrainingError, UsageError, printable
from siamese_search.io.files import check_output
from siamese_search.model.bundle import META_NAME
from siamese_search.options import layout_of, request
from siamese_search.settings import load_settings
from siamese_search.training.config import adapt_config, adapt_fields
from siamese_search.training.config import preset as find_preset
from siamese_search.training.data import HoldOut
from siamese_search.training.options import AdaptOptions, RunOptions, SweepOptions
from siamese_search.training.sweep.grid import parse_grid
from siamese_search.training.sweep.record import RECORD_NAME, Sweep, difference, find_unfinished, load_sweep, plan_sweep
from siamese_search.workspace import StrPath, threads_in_use

if TYPE_CHECKING:
    from siamese_search.training.adapt import AdaptResult
    from siamese_search.training.loop import Reporter
    from siamese_search.training.run import TrainResult
    from siamese_search.training.sweep.run import SweepReporter


@request(RunOptions)
def train(
    data: StrPath | Sequence[StrPath] | None = None,
    *,
    options: RunOptions,
    reporter: Reporter | None = None,
    stop: threading.Event | None = None,
    **hyperparameters: Any,
) -> TrainResult:
    """Train an embedding on the identities in ``data``; the run directory ``out`` becomes a model bundle.

    data: a data set, or several: identities of different data sets are different people, each data set has an equal
    share of every batch, and identities and keys become ``SOURCE/ID``, ``SOURCE/KEY``. ``hyperparameters``: fields of
    :class:`~siamese_search.training.config.TrainConfig` (``epochs=5, margin=0.5``). holdout_ids: a file, or the
    identities themselves. stop: set it to end after the batch in hand (KeyboardInterrupt is raised, a checkpoint kept).

    Raises MissingExtraError without the ``[torch]`` extra, DataError, TrainingError, UsageError.
    """
    threads = threads_in_use(options.threads)
    config = find_preset(options.preset)
    unknown = set(hyperparameters) - set(config.__slots__)
    if unknown:
        raise UsageError(f"unknown hyperparameter {sorted(unknown)[0]!r}; see `sss train --help`")
    config = config.with_options(**hyperparameters)
    data = load_settings().data if data is None else data
    sources = (Path(data),) if isinstance(data, (str, os.PathLike)) else tuple(Path(path) for path in data)
    if options.resume is None:
        if not sources:
            raise UsageError("nothing to train on; name at least one data set")
        for source in sources:
            survey(source, layout_of(options))  # fails before torch is imported, which takes seconds
    run = needing_torch("siamese_search.training.run", "training")
    if options.resume is not None:
        resumed: TrainResult = run.resume(Path(options.resume), reporter, stop, options.device, threads)
        return resumed
    asked = run.TrainRequest(
        data=sources[0] if len(sources) == 1 else sources,
        out=Path(new_run_directory(options.preset) if options.out is None else options.out),
        config=config,
        layout=layout_of(options),
        holdout=_held_out(options, config.seed),
        init=os.fspath(options.init),
        teacher=None if options.teacher is None else Path(options.teacher),
        device=options.device,
        threads=threads,
    )
    trained: TrainResult = run.train(asked, reporter, stop)
    return trained


def _held_out(options: RunOptions, seed: int) -> HoldOut:
    """Which identities training must not see."""
    ids = options.holdout_ids
    if options.holdout is not None and ids is not None:
        raise UsageError("give either a number of identities to hold out or a list of them, not both")
    amount = 0.1 if options.holdout is None else options.holdout
    if isinstance(ids, (str, os.PathLike)):
        return HoldOut(ids_file=Path(ids), amount=amount, seed=seed)
    return HoldOut(ids=None if ids is None else tuple(ids), amount=amount, seed=seed)


def new_run_directory(preset: str) -> str:
    """``runs/reid-20260131-235959``: sorts by time, and is new."""
    return f"runs/{preset}-{time.strftime('%Y%m%d-%H%M%S')}"


def needing_torch(module: str, what: str) -> Any:
    """A module of ours, or MissingExtraError where torch and its company are not installed. what: for which it is."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("siamese_search", "ingest"):
            raise
        raise MissingExtraError(what, "torch") from None


@request(SweepOptions)
def sweep(
    *data: StrPath,
    options: SweepOptions,
    reporter: SweepReporter | None = None,
    stop: threading.Event | None = None,
    **hyperparameters: Any,
) -> Sweep:
    """Train a model for every combination of hyperparameters, and measure all on the same held-out identities.

    data and options are those of :func:`train`, but one or more hyperparameters have several values (``margin=[0.2,
    0.5, 1.0], epochs=5``; text with commas will do). Each run is a bundle in a directory of its own inside ``out``,
    beside ``sweep.json``, ``results.csv`` and ``sweep.png``. What is finished is never trained again: the same call
    goes on. A run that fails has ``state == "failed"`` and a ``reason``, and does not stop the others.

    Raises as :func:`train`.
    """
    planned = plan_runs(*data, options=options, **hyperparameters)
    return run_planned(planned, device=options.device, threads=options.threads, reporter=reporter, stop=stop)


@request(SweepOptions)
def plan_runs(
    *data: StrPath, options: SweepOptions, notify: Callable[[str], None] | None = None, **hyperparameters: Any
) -> Sweep:
    """What :func:`sweep` would do, or where it stopped; nothing is written, and torch is not needed.

    The same sweep, begun in ``out`` (or, without one, under ``runs/``) and not finished, is taken up again.
    Raises UsageError, DataError; TrainingError where ``out`` holds something else.
    """
    if options.resume is not None:
        return load_sweep(Path(options.resume))
    grid = parse_grid(hyperparameters)
    # Chosen with the first seed for all runs: on other identities their figures could not be compared.
    seed = int(grid.get("seed", (find_preset(options.preset).seed,))[0])
    planned = plan_sweep(
        _places(data),
        Path(new_run_directory("sweep") if options.out is None else options.out),
        options.preset,
        grid,
        layout=layout_of(options),
        holdout=_held_out(options, seed),
        init=os.fspath(options.init),
        teacher=None if options.teacher is None else Path(options.teacher),
    )
    if options.out is None:
        begun = find_unfinished(Path("runs"), planned)
        if begun is None:
            return planned
        if notify is not None:
            notify(f"going on with {printable(begun)}, the same sweep (another --out begins a new one)")
        return load_sweep(begun)
    return _resume_or_refuse(planned)


def run_planned(
    planned: Sweep,
    *,
    device: str = "auto",
    threads: int | None = None,
    reporter: SweepReporter | None = None,
    stop: threading.Event | None = None,
) -> Sweep:
    """Bring the runs of a sweep that :func:`plan_runs` made to their end."""
    training = needing_torch("siamese_search.training.sweep.run", "training")
    how = {"device": device, "threads": threads_in_use(threads), "reporter": reporter, "stop": stop}
    done: Sweep = training.run_sweep(planned, **how, draw=render.draw_sweep)
    return done


def _places(data: Sequence[StrPath]) -> Path | tuple[Path, ...]:
    """The data sets as named, else the one that the settings name."""
    if data:
        return Path(data[0]) if len(data) == 1 else tuple(Path(one) for one in data)
    settings = load_settings()
    if not Path(settings.data).exists():
        raise UsageError(
            f"no DATA given, and {printable(settings.data)} ({printable(settings.origin('data'))}) does not exist:"
            ' name a directory (sss sweep photos/ --margin 0.2,0.5), or set data = "photos" in sss.toml'
        )
    return Path(settings.data)


def _resume_or_refuse(planned: Sweep) -> Sweep:
    """The sweep in the directory that was named, if it is the same one or there is none."""
    out = planned.directory
    if (out / RECORD_NAME).exists():
        there = load_sweep(out)
        differs = difference(planned, there)
        if differs is not None:
            raise TrainingError(
                f"{printable(out)}: holds another sweep (its {differs} differs): continue that one with"
                f" --resume {quote(printable(out))}, or choose another --out"
            )
        return there
    if any((out / name).exists() for name in ("run.json", META_NAME)):
        raise TrainingError(f"{printable(out)}: holds a training run: choose another --out")
    check_output(out, directory=True, error=TrainingError)
    return planned


#: The clusters of the finished model, in its run directory: a table to review, and a sheet to look at.
TABLE_NAME, SHEET_NAME = "clusters.csv", "clusters.png"


@request(AdaptOptions)
def adapt(
    data: StrPath | None = None,
    *,
    options: AdaptOptions,
    reporter: Reporter | None = None,
    stop: threading.Event | None = None,
    **hyperparameters: Any,
) -> AdaptResult:
    """Adapt a model to the images in ``data`` without a label; the run directory ``out`` becomes a model bundle.

    Each epoch the images are clustered and the clusters learned as identities, until they no longer change. Labels in
    ``data`` are only reported on. ``hyperparameters``: fields of :class:`~siamese_search.training.config.AdaptConfig`
    (``epochs=10, freeze=3``); size and kind of the network are those of the model. stop: set it to end after the batch
    in hand (KeyboardInterrupt is raised, a checkpoint kept).

    Beside the bundle are ``clusters.csv``, which ``sss label`` applies after a review, and ``clusters.png``. Raises
    MissingExtraError without the ``[torch]`` extra, DataError, TrainingError, UsageError, BundleError.
    """
    threads = threads_in_use(options.threads)
    unknown = set(hyperparameters) - set(adapt_fields())
    if unknown:
        raise UsageError(f"unknown hyperparameter {sorted(unknown)[0]!r}; see `sss adapt --help-all`")
    if options.resume is not None:
        run = needing_torch("siamese_search.training.adapt", "adapting")
        result: AdaptResult = run.resume(Path(options.resume), reporter, stop, options.device, threads)
    else:
        place = Path(load_settings().data if data is None else data)
        survey(place, layout_of(options))  # fails before torch is imported, which takes seconds
        config = adapt_config(os.fspath(options.init), **hyperparameters)
        run = needing_torch("siamese_search.training.adapt", "adapting")
        asked = run.AdaptRequest(
            data=place,
            out=Path(new_run_directory("adapt") if options.out is None else options.out),
            config=config,
            layout=layout_of(options),
            init=os.fspath(options.init),
            labels=None if options.labels is None else Path(options.labels),
            device=options.device,
            threads=threads,
        )
        result = run.adapt(asked, reporter, stop)
    found = proposals(result)
    write_review(found, result.bundle.path / TABLE_NAME)
    if any(one.status != "single" for one in found.images):
        render.draw_clusters(found, result.bundle.path / SHEET_NAME)
    return result


def proposals(result: AdaptResult) -> Proposals:
    """The clusters as ``sss cluster`` proposes them.

    One in which a person gave an identity takes it; one with several is a conflict.
    """
    source = os.path.realpath(os.path.commonpath([one.path.parent for one in result.records]))
    alone = [
        Proposal(point_id(source, one.key), str(one.path.absolute()), one.key, "", one.camera, given or one.identity)
        for one, given in zip(result.records, result.confirmed, strict=True)
    ]
    images = arranged(alone, result.confirmed, result.embeddings, result.clusters)
    config = result.bundle.meta["training"]["config"]
    return Proposals(images, config["neighbours"], config["least"], None)

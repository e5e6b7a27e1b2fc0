"""The verb :func:`sweep` (``siamese_search.sweep``), in its two halves: plan, then run."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamese_search.errors import MissingExtraError, TrainingError, UsageError, printable

if TYPE_CHECKING:
    from siamese_search.model.embedder import Device
    from siamese_search.training.sweep import SweepReporter
    from siamese_search.training.sweep_record import Sweep

StrPath = str | os.PathLike[str]


def sweep(
    *data: StrPath,
    preset: str = "reid",
    out: StrPath | None = None,
    layout: str = "auto",
    holdout: float | None = None,
    holdout_ids: StrPath | Sequence[str] | None = None,
    init: StrPath = "imagenet",
    teacher: StrPath | None = None,
    resume: StrPath | None = None,
    device: Device = "auto",
    threads: int | None = None,
    reporter: SweepReporter | None = None,
    stop: threading.Event | None = None,
    **hyperparameters: Any,
) -> Sweep:
    """Train a model for every combination of hyperparameters, and measure all on the same held-out identities.

    data: one data set or several (default: the settings').
    hyperparameters: as for :func:`~siamese_search.api.train`, but one or more have several values
    (``margin=[0.2, 0.5, 1.0], epochs=5``; text with commas will do). The other options too are those of
    ``train``. Each run is a bundle in a directory of its own inside ``out`` (default: ``runs/sweep-DATE-TIME``),
    beside ``sweep.json``, ``results.csv`` and ``sweep.png``.

    What is finished is never trained again: the same call, or ``resume`` with the sweep's directory, goes on. A
    run that fails has ``state == "failed"`` and a ``reason``, and does not stop the others.
    stop: set it to end after the batch in hand (KeyboardInterrupt is raised, everything kept).
    Raises UsageError, DataError, TrainingError, and MissingExtraError without the ``[torch]`` extra.
    """
    planned = plan(
        *data,
        preset=preset,
        out=out,
        layout=layout,
        holdout=holdout,
        holdout_ids=holdout_ids,
        init=init,
        teacher=teacher,
        resume=resume,
        **hyperparameters,
    )
    return run(planned, device=device, threads=threads, reporter=reporter, stop=stop)


def plan(
    *data: StrPath,
    preset: str = "reid",
    out: StrPath | None = None,
    layout: str = "auto",
    holdout: float | None = None,
    holdout_ids: StrPath | Sequence[str] | None = None,
    init: StrPath = "imagenet",
    teacher: StrPath | None = None,
    resume: StrPath | None = None,
    notify: Callable[[str], None] | None = None,
    **hyperparameters: Any,
) -> Sweep:
    """What :func:`sweep` would do, or where it stopped; nothing is written, and torch is not needed.

    The same sweep, begun in ``out`` (or, without one, under ``runs/``) and not finished, is taken up again.
    Raises UsageError, DataError; TrainingError where ``out`` holds something else.
    """
    from siamese_search.training.data import HoldOut
    from siamese_search.training.grid import parse_grid
    from siamese_search.training.presets import preset as find_preset
    from siamese_search.training.sweep_record import find_unfinished, load_sweep, plan_sweep

    if resume is not None:
        return load_sweep(Path(resume))
    if holdout is not None and holdout_ids is not None:
        raise UsageError("give either a number of identities to hold out or a list of them, not both")
    grid = parse_grid(hyperparameters)
    ids_file, ids = None, None
    if isinstance(holdout_ids, (str, os.PathLike)):
        ids_file = Path(holdout_ids)
    elif holdout_ids is not None:
        ids = tuple(holdout_ids)
    planned = plan_sweep(
        _places(data),
        Path(_new_directory() if out is None else out),
        preset,
        grid,
        layout=layout,
        # Chosen with the first seed for all runs: on other identities their figures could not be compared.
        holdout=HoldOut(
            ids_file=ids_file,
            ids=ids,
            amount=0.1 if holdout is None else holdout,
            seed=int(grid.get("seed", (find_preset(preset).seed,))[0]),
        ),
        init=os.fspath(init),
        teacher=None if teacher is None else Path(teacher),
    )
    if out is None:
        begun = find_unfinished(Path("runs"), planned)
        if begun is None:
            return planned
        if notify is not None:
            notify(f"going on with {printable(begun)}, the same sweep (another --out begins a new one)")
        return load_sweep(begun)
    return _resume_or_refuse(planned)


def run(
    planned: Sweep,
    *,
    device: Device = "auto",
    threads: int | None = None,
    reporter: SweepReporter | None = None,
    stop: threading.Event | None = None,
) -> Sweep:
    """Bring the runs of a sweep that :func:`plan` made to their end."""
    from siamese_search.settings import load_settings

    try:
        training = import_module("siamese_search.training.sweep")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("siamese_search", "ingest"):
            raise
        raise MissingExtraError("training", "torch") from None
    threads = load_settings().threads if threads is None else threads
    done: Sweep = training.run_sweep(planned, device=device, threads=threads, reporter=reporter, stop=stop)
    return done


def _places(data: Sequence[StrPath]) -> Path | tuple[Path, ...]:
    """The data sets as named, else the one that the settings name."""
    from siamese_search.settings import load_settings

    if data:
        return Path(data[0]) if len(data) == 1 else tuple(Path(one) for one in data)
    settings = load_settings()
    if not Path(settings.data).exists():
        raise UsageError(
            f"no DATA given, and {printable(settings.data)} ({printable(settings.origin('data'))}) does not exist:"
            ' name a directory (sss sweep photos/ --margin 0.2,0.5), or set data = "photos" in sss.toml'
        )
    return Path(settings.data)


def _new_directory() -> str:
    from siamese_search.api import new_run_directory

    return new_run_directory("sweep")


def _resume_or_refuse(planned: Sweep) -> Sweep:
    """The sweep in the directory that was named, if it is the same one or there is none."""
    from siamese_search.model.bundle import META_NAME
    from siamese_search.training.sweep_record import RECORD_NAME, difference, load_sweep

    out = planned.directory
    if (out / RECORD_NAME).exists():
        there = load_sweep(out)
        differs = difference(planned, there)
        if differs is not None:
            raise TrainingError(
                f"{printable(out)}: holds another sweep (its {differs} differs): continue that one with"
                f" --resume {printable(out)}, or choose another --out"
            )
        return there
    if any((out / name).exists() for name in ("run.json", META_NAME)):
        raise TrainingError(f"{printable(out)}: holds a training run: choose another --out")
    return planned

"""Training, one run or a sweep of them, and an int8 copy of what was trained. Training needs the ``[torch]`` extra."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.errors import DataError, MissingExtraError, TrainingError, UsageError, printable
from siamese_search.io.files import check_output
from siamese_search.options import layout_of, request
from siamese_search.training.options import RunOptions, SweepOptions
from siamese_search.workspace import (
    StrPath,
    bundle_in_use,
    current_settings,
    load,
    query_images,
    threads_in_use,
)

if TYPE_CHECKING:
    from siamese_search.model.bundle import Bundle
    from siamese_search.model.embedder import Embedder
    from siamese_search.training.data import HoldOut
    from siamese_search.training.run import Reporter, TrainResult
    from siamese_search.training.sweep.record import Sweep
    from siamese_search.training.sweep.run import SweepReporter


#: Images that set the ranges of the activations, and as many others that the result is measured on.
IMAGES = 128


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
    from siamese_search.datasets.layouts import survey
    from siamese_search.training.config import preset as find_preset

    threads = threads_in_use(options.threads)
    config = find_preset(options.preset)
    unknown = set(hyperparameters) - set(config.__slots__)
    if unknown:
        raise UsageError(f"unknown hyperparameter {sorted(unknown)[0]!r}; see `sss train --help`")
    config = config.with_options(**hyperparameters)
    data = current_settings().data if data is None else data
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
    from siamese_search.training.data import HoldOut

    ids = options.holdout_ids
    if options.holdout is not None and ids is not None:
        raise UsageError("give either a number of identities to hold out or a list of them, not both")
    return HoldOut(
        ids_file=Path(ids) if isinstance(ids, (str, os.PathLike)) else None,
        ids=None if ids is None or isinstance(ids, (str, os.PathLike)) else tuple(ids),
        amount=0.1 if options.holdout is None else options.holdout,
        seed=seed,
    )


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
    *data: StrPath,
    options: SweepOptions,
    notify: Callable[[str], None] | None = None,
    **hyperparameters: Any,
) -> Sweep:
    """What :func:`sweep` would do, or where it stopped; nothing is written, and torch is not needed.

    The same sweep, begun in ``out`` (or, without one, under ``runs/``) and not finished, is taken up again.
    Raises UsageError, DataError; TrainingError where ``out`` holds something else.
    """
    from siamese_search.training.config import preset as find_preset
    from siamese_search.training.sweep.grid import parse_grid
    from siamese_search.training.sweep.record import find_unfinished, load_sweep, plan_sweep

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
    from siamese_search.render.sweep import draw_sweep

    training = needing_torch("siamese_search.training.sweep.run", "training")
    threads = threads_in_use(threads)
    done: Sweep = training.run_sweep(
        planned, device=device, threads=threads, reporter=reporter, stop=stop, draw=draw_sweep
    )
    return done


def _places(data: Sequence[StrPath]) -> Path | tuple[Path, ...]:
    """The data sets as named, else the one that the settings name."""
    if data:
        return Path(data[0]) if len(data) == 1 else tuple(Path(one) for one in data)
    settings = current_settings()
    if not Path(settings.data).exists():
        raise UsageError(
            f"no DATA given, and {printable(settings.data)} ({printable(settings.origin('data'))}) does not exist:"
            ' name a directory (sss sweep photos/ --margin 0.2,0.5), or set data = "photos" in sss.toml'
        )
    return Path(settings.data)


def _resume_or_refuse(planned: Sweep) -> Sweep:
    """The sweep in the directory that was named, if it is the same one or there is none."""
    from siamese_search.model.bundle import META_NAME
    from siamese_search.training.sweep.record import RECORD_NAME, difference, load_sweep

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
    try:
        check_output(out, directory=True)
    except OSError as error:
        raise TrainingError(f"{printable(out)}: cannot be written: {error.strerror or error}") from None
    return planned


@dataclass(frozen=True)
class QuantisedModel:
    """An int8 bundle. cosine: mean and least, between its embeddings and those of the original, on ``measured`` images
    (not those it was calibrated with, where there were others). speed: images per second over those of the original.
    """

    bundle: Bundle
    calibrated: int
    measured: int
    mean_cosine: float
    least_cosine: float
    speed: float

    def to_json(self) -> dict[str, Any]:
        return {
            "bundle": str(self.bundle.path),
            "fingerprint": self.bundle.fingerprint,
            "calibrated_on": self.calibrated,
            "measured_on": self.measured,
            "mean_cosine": round(self.mean_cosine, 6),
            "least_cosine": round(self.least_cosine, 6),
            "speed": round(self.speed, 3),
        }


def quantise_model(
    images: StrPath,
    out: StrPath,
    *,
    model: StrPath | None = None,
    count: int = IMAGES,
    threads: int | None = None,
) -> QuantisedModel:
    """Write an int8 copy of a model into the new directory ``out``, and compare the two.

    images: a directory of the kind of images that will be embedded. count: images to calibrate with. Raises UsageError,
    DataError (no image can be read), BundleError, MissingExtraError.
    """
    if count < 1:
        raise UsageError(f"quantising needs at least 1 image, not {count}")
    try:
        import onnx  # noqa: F401 - the quantiser needs it

        from siamese_search.model.weights_file import quantise
    except ModuleNotFoundError:
        raise MissingExtraError("quantising", "torch") from None
    bundle = bundle_in_use(model)
    if bundle.meta.get("precision") == "int8":
        raise UsageError(
            f"{printable(bundle.name)} is an int8 model already: name the one that it was made from"
        )
    pixels = _read(images, bundle.input_size, 2 * count)
    inside, others = pixels[::2], pixels[1::2]
    others = others if len(others) else inside
    small = quantise(bundle, inside, Path(out))
    threads = threads_in_use(threads)
    before, seconds_before = _embedded(load(bundle, "cpu", threads), others)
    after, seconds_after = _embedded(load(small, "cpu", threads), others)
    cosines = (before * after).sum(axis=1)
    return QuantisedModel(
        small,
        len(inside),
        len(others),
        float(cosines.mean()),
        float(cosines.min()),
        seconds_before / seconds_after,
    )


def _read(images: StrPath, size: tuple[int, int], count: int) -> NDArray[np.uint8]:
    """At most ``count`` images, evenly spread, uint8 [n, H, W, 3]; what cannot be read is passed over."""
    from siamese_search.io.decoding import BatchDecoder

    paths = [path for path in query_images(images) if isinstance(path, Path)]
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int))]
    with BatchDecoder(size, 2) as decoder, decoder.submit(chosen).result() as decoded:
        if not decoded.rows:
            raise DataError(
                f"{printable(str(images))}: none of {len(chosen)} images can be read; check the path"
            )
        return decoded.pixels.copy()


def _embedded(embedder: Embedder, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """Embeddings float32 [n, d], and the seconds that they took, the first batch aside."""
    embedder.embed(pixels[:8])
    started = time.perf_counter()
    vectors = embedder.embed(pixels)
    return vectors, max(time.perf_counter() - started, 1e-9)

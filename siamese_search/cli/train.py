"""Models: ``sss train`` from labelled images, ``sss sweep`` with several values of an option, ``sss adapt`` without
labels; ``sss quantise``, a copy of one in 8-bit integers."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from siamese_search import api
from siamese_search.cli.options import LongCommand, OutPath, Place, hyperparameter_options, json_option
from siamese_search.cli.output import interrupted, note, safe, warn, warn_skipped, write_answer, write_table, write_text
from siamese_search.cli.progress import SweepScreen, TrainScreen
from siamese_search.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_PARTIAL, UsageError, amount, printable
from siamese_search.io.files import read_json
from siamese_search.io.resources import stop_on_signals
from siamese_search.options import click_option, click_options
from siamese_search.render.marks import decimal, rate
from siamese_search.settings import load_settings
from siamese_search.training.config import adapt_config
from siamese_search.training.config import preset as find_preset
from siamese_search.training.options import AdaptOptions, RunOptions, SweepOptions
from siamese_search.training.sweep.grid import text

if TYPE_CHECKING:
    from siamese_search.training.adapt import AdaptResult
    from siamese_search.training.sweep.record import Sweep

_TRAIN_EPILOG = """\b
Examples:
  sss train photos/                               one folder per identity
  sss train photos/ --preset apn --margin 0.5     the classic triplet recipe
  sss train photos/ --holdout 0.2 --init bundled  a fifth held out
  sss train market/ --holdout-ids ids.txt         these identities held out
  sss train market/ faces/                        two sets, equal shares
  sss train --resume runs/reid-20260101-120000    after Ctrl-C or a crash
  torchrun --nproc-per-node 4 -m siamese_search train photos/  four GPUs

The run directory is a model bundle: sss ingest --model runs/NAME, sss evaluate --model runs/NAME.
"""

_SWEEP_EPILOG = """\b
Examples:
  sss sweep photos/ --margin 0.2,0.5,1.0             three models, one table
  sss sweep photos/ --margin 0.2,0.5 --lr 1e-3,3e-4  all four combinations
  sss sweep photos/ --epochs 5 --seed 0,1,2          how much is luck?
  sss sweep --resume runs/sweep-20260101-120000      after Ctrl-C or a crash

Each run is a model bundle: sss evaluate --model DIR/margin=0.5.
"""


def _named(run: Path) -> str:
    """The run as a command names it."""
    from siamese_search.model.bundle import as_named  # loads numpy

    return quote(safe(as_named(run)))


#: What a first run needs; the rest is behind --help-all.
_OFTEN = ("preset", "out", "resume", "init", "holdout", "holdout_ids", "epochs", "batch_size", "lr", "device")


@click.command("train", cls=LongCommand, often=_OFTEN, epilog=_TRAIN_EPILOG)
@click.argument("data", type=click.Path(), nargs=-1, metavar="[DATA]...")
@click_options(RunOptions)
@json_option
@hyperparameter_options
def train_command(data: tuple[str, ...], options: RunOptions, json: bool, **hyperparameters: Any) -> int:
    """Train an embedding on the identities in DATA (default: data in sss.toml, else ./data).

    Identities of different data sets are different people, and each data set has an equal share of every batch.
    Some identities are held out; after every epoch, retrieval among them shows how good the model is.
    Ctrl-C writes a checkpoint, and --resume goes on from there to the same curve.
    """
    speaks = os.environ.get("RANK", "0") == "0"  # of several processes under torchrun, the first
    if options.resume is None:
        data = _data(data)
        options = replace(options, out=options.out or api.new_run_directory(options.preset))
        epochs: int | None = find_preset(options.preset).with_options(**hyperparameters).epochs
    else:
        _refuse_with_resume()
        epochs = _epochs_of(Path(options.resume))
    with stop_on_signals() as stop, TrainScreen(stop, epochs) as screen:
        try:
            result = api.train(data, options=options, reporter=screen if speaks else None, stop=stop, **hyperparameters)
        except KeyboardInterrupt:
            return _interrupted(Path(str(options.resume or options.out))) if speaks else EXIT_INTERRUPTED
    if not speaks:
        return EXIT_DONE
    held, figures = "nothing held out", result.metrics
    if figures:
        people = amount(len(result.bundle.heldout_identities), "identity")
        held = f"{people}: rank-1 {figures['rank1']:.1%}, mAP {figures['mAP']:.1%}"
    write_answer(result.to_json(), f"model     {safe(result.bundle.path)}\nheld out  {held}", json=json)
    if not json:
        note(f"next: sss evaluate --model {_named(result.bundle.path)}")
    return EXIT_PARTIAL if result.failed else EXIT_DONE


def _data(named: tuple[str, ...]) -> tuple[str, ...]:
    """The data sets to train on: as named, else the one in the settings; what was chosen is said."""
    if named:
        return named
    settings = load_settings()
    origin = settings.origin("data")
    if Path(settings.data).exists():
        note(f"no DATA given: taking {safe(settings.data)} ({safe(origin)})")
        return (settings.data,)
    note("sss train learns from labelled images: one folder per identity, Market-1501 names, or a CSV")
    raise UsageError(
        f"no DATA given, and {printable(settings.data)} ({printable(origin)}) does not exist: name a directory"
        ' (sss train photos/), or set data = "photos" in sss.toml'
    )


def _refuse_with_resume(what: str = "run") -> None:
    """What goes on has its options already; one given again would silently mean nothing."""
    ctx = click.get_current_context()
    allowed = {"resume", "device", "threads", "json", "dry_run", "debug"}
    for parameter in ctx.command.params:
        name = str(parameter.name)
        if name not in allowed and ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            given = parameter.opts[0] if isinstance(parameter, click.Option) else "DATA"
            raise UsageError(f"--resume continues a {what} with its own options; leave out {given}")


def _epochs_of(run: Path) -> int | None:
    """How many epochs a run was started for, for the progress display; the trainer checks the file itself."""
    with suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
        return int(read_json(run / "run.json")["config"]["epochs"])
    return None


def _interrupted(directory: Path, verb: str = "train") -> int:
    """Say what an interrupted run has kept, and how to go on."""
    if (directory / "checkpoint.safetensors").exists():
        return interrupted(f"; a checkpoint is kept, go on with: sss {verb} --resume {quote(safe(directory))}")
    return interrupted(" before the first checkpoint; nothing was kept")


@click.command(
    "sweep",
    cls=LongCommand,
    often=("preset", "out", "resume", "init", "holdout", "epochs", "margin", "lr", "seed", "dry_run"),
    epilog=_SWEEP_EPILOG,
)
@click.argument("data", type=click.Path(), nargs=-1, metavar="[DATA]...")
@click_options(SweepOptions)
@click.option("--dry-run", is_flag=True, help="List the runs and stop.")
@json_option
@partial(hyperparameter_options, several=True)
def sweep_command(
    data: tuple[str, ...], options: SweepOptions, dry_run: bool, json: bool, **hyperparameters: Any
) -> int:
    """Train on DATA once per value of an option, or per combination of values, and compare the models.

    Any hyperparameter takes several values with commas between them. All runs hold out the same identities, and
    are measured on those: AUC, true positive rate at fixed false positive rates, rank-1, mAP. The same command
    goes on after Ctrl-C; finished runs are kept.
    """
    from siamese_search.training.data import as_paths

    if options.resume is not None:
        _refuse_with_resume("sweep")
    given = {name: values for name, values in hyperparameters.items() if values is not None}
    planned = api.plan_runs(*data, options=options, notify=note, **given)
    if dry_run:
        write_answer(planned.to_json, partial(_print_plan, planned), json=json)
        return EXIT_DONE
    places = ", ".join(safe(place) for place in as_paths(planned.data))
    todo = f"{len(planned.unfinished)} of {amount(len(planned.runs), 'run')} to do"
    note(f"{todo}, on {places} into {safe(planned.directory)}")
    with stop_on_signals() as stop, SweepScreen(stop) as screen:
        try:
            api.run_planned(planned, device=options.device, threads=options.threads, reporter=screen, stop=stop)
        except KeyboardInterrupt:
            return _sweep_interrupted(planned)
    _print_sweep(planned, json=json)
    warn_skipped(planned.failed)
    states = {run.state for run in planned.runs}
    if states == {"failed"}:
        return EXIT_FAILED
    return EXIT_PARTIAL if "failed" in states or planned.failed else EXIT_DONE


def _print_plan(sweep: Sweep) -> None:
    epochs = sum(run.point.config.epochs for run in sweep.unfinished)
    write_table(
        [("run", "text"), *((name.replace("_", "-"), "number") for name in sweep.swept), ("state", "text")],
        [[run.name, *(text(run.point.values[name]) for name in sweep.swept), run.state] for run in sweep.runs],
    )
    write_text(
        f"{len(sweep.unfinished)} of {amount(len(sweep.runs), 'run')} to do, {amount(epochs, 'epoch')};"
        f" {amount(len(sweep.heldout_identities), 'identity')} held out, {amount(len(sweep.protocol.queries), 'query')}"
    )


def _print_sweep(sweep: Sweep, *, json: bool) -> None:
    from siamese_search.training.sweep.record import PLOT_NAME, TABLE_NAME

    write_answer(sweep.to_json, partial(_print_table, sweep), json=json)
    for run in sweep.runs:
        if run.state == "failed":
            warn(f"{run.name} failed: {run.reason}")
    note(f"wrote {safe(sweep.directory / TABLE_NAME)} and {PLOT_NAME} beside it")
    if sum(run.state == "done" for run in sweep.runs) > 1:
        note("the best of several on the same identities flatters itself: measure it on others before you tell")


def _print_table(sweep: Sweep) -> None:
    from siamese_search.training.sweep.record import SHOWN_RATES

    names = [name.replace("_", "-") for name in sweep.swept]
    names += ["AUC", *(f"TPR@FPR {far}" for far in SHOWN_RATES.values()), "rank-1", "mAP"]
    failed = any(run.state == "failed" for run in sweep.runs)
    rows = []
    for run in sweep.runs:
        found = run.figures
        figures: list[str] = [""] * (3 + len(SHOWN_RATES))
        if found is not None:
            rates = [rate(found.tar_at_far.get(far)) for far in SHOWN_RATES]
            figures = [decimal(found.auc), *rates, rate(found.rank1), rate(found.mAP)]
        reason = [f"failed: {run.reason}" if run.state == "failed" else ""] if failed else []
        rows.append([*(text(run.point.values[name]) for name in sweep.swept), *figures, *reason])
    write_table([*((name, "number") for name in names), *([("", "words")] if failed else [])], rows)


def _sweep_interrupted(sweep: Sweep) -> int:
    from siamese_search.training.sweep.record import RECORD_NAME

    if not (sweep.directory / RECORD_NAME).exists():
        return interrupted(" before the first run; nothing was kept")
    done = f"{sum(run.state == 'done' for run in sweep.runs)} of {amount(len(sweep.runs), 'run')} done"
    return interrupted(
        f"; {done}, the one in hand is kept, go on with: sss sweep --resume {quote(safe(sweep.directory))}"
    )


_ADAPT_EPILOG = """\b
Examples:
  sss adapt photos/ --out runs/mine                     no label used
  sss adapt photos/ --epochs 0                          only cameras: a minute
  sss adapt photos/ --epochs 8 --height 128 --width 64  quick on a CPU
  sss adapt photos/ --labels reviewed.csv               some identities known
  sss adapt --resume runs/mine                          after Ctrl-C

Then: sss reindex --model runs/mine (a gallery of these images), or sss ingest photos/ --model runs/mine.
"""

_ADAPT_OFTEN = (
    "out", "resume", "init", "labels", "epochs", "iters", "freeze", "height", "width", "neighbours", "least", "lr",
    "device",
)  # fmt: skip


@click.command("adapt", cls=LongCommand, often=_ADAPT_OFTEN, epilog=_ADAPT_EPILOG)
@click.argument("data", type=click.Path(), required=False)
@click_options(AdaptOptions)
@json_option
@partial(hyperparameter_options, adapting=True)
def adapt_command(data: str | None, options: AdaptOptions, json: bool, **hyperparameters: Any) -> int:
    """Adapt a model to the images in DATA, of which nobody has said who is on them.

    Each epoch the images are clustered, and the clusters learned as identities, until they change no more; with
    --epochs 0 the model only gets the statistics and the mean embedding of each camera, which takes a minute. Labels
    that DATA has are not used; how well the clusters agree with them is shown. Ctrl-C writes a checkpoint.
    """
    if options.resume is None:
        if data is None:
            raise UsageError("no DATA given: name a directory of images (sss adapt photos/)")
        options = replace(options, out=options.out or api.new_run_directory("adapt"))
        epochs: int | None = adapt_config(str(options.init), **hyperparameters).epochs
    else:
        _refuse_with_resume()
        epochs = _epochs_of(Path(options.resume))
    with stop_on_signals() as stop, TrainScreen(stop, epochs) as screen:
        try:
            result = api.adapt(data, options=options, reporter=screen, stop=stop, **hyperparameters)
        except KeyboardInterrupt:
            return _interrupted(Path(str(options.resume or options.out)), "adapt")
    write_answer(result.to_json, partial(_print_adapted, result), json=json)
    return EXIT_PARTIAL if result.failed else EXIT_DONE


def _print_adapted(result: AdaptResult) -> None:
    path, found = result.bundle.path, result.final
    epochs = f"{len(result.history)} of at most {result.bundle.meta['training']['config']['epochs']}"
    text = f"{amount(found['clusters'], 'cluster')}, {amount(found['singles'], 'single image')}"
    seen = f"{text}: look at {safe(path / api.SHEET_NAME)}"
    write_text(f"model     {safe(path)}\nepochs    {epochs}\nimages    {len(result.records)} in {seen}")
    if "purity" in found:
        given = sum(name is not None for name in result.confirmed)
        used = f"of {amount(given, 'image')} used, others not; by all" if given else "not used; by them"
        write_text(f"labels    {used} purity {found['purity']:.1%}, adjusted Rand index {found['ari']:.1%}")
    run = _named(path)
    note(f"next: sss reindex --model {run} (your gallery), or sss ingest DIR --model {run} (a new one)")


_QUANTISE_EPILOG = """\b
Examples:
  sss quantise photos/ --out runs/small                     the bundled one
  sss quantise photos/ --model runs/first --out runs/small  another one
  sss evaluate photos/ --compare runs/first runs/small      what it costs

Measure before you use it: without instructions for 8-bit arithmetic (VNNI, Arm dot product) it is no faster.
"""


@click.command("quantise", epilog=_QUANTISE_EPILOG)
@click.argument("images", type=click.Path(), metavar="IMAGES")
@click.option(
    "--out", required=True, type=OutPath(directory=True), metavar="DIR", help="New directory for the int8 bundle."
)
@click.option("--model", metavar="BUNDLE", help="Model to copy.  [default: the bundled one; SSS_MODEL]")
@click.option("--count", type=click.IntRange(min=1), default=128, metavar="N", help="Images to calibrate with.")
@click_option(Place, "threads")
@json_option
def quantise_command(images: str, out: Path, model: str | None, count: int, threads: int | None, json: bool) -> None:
    """Write a copy of a model that computes in 8-bit integers, calibrated with some of the images in IMAGES.

    Its embeddings are slightly different ones, so it is a model of its own: a gallery takes either, never both.
    """
    made = api.quantise_model(images, out, model=model, count=count, threads=threads)
    text = (
        f"model   {safe(made.bundle.path)}\n"
        f"cosine  mean {made.mean_cosine:.4f}, least {made.least_cosine:.4f}, to the original\n"
        f"of      {amount(made.measured, 'image')}\n"
        f"speed   {made.speed:.2f} times that of the original, here"
    )
    write_answer(made.to_json(), text, json=json)
    if not json:
        compared = f"{quote(safe(model or 'bundled'))} {_named(out)}"
        note(f"next: sss evaluate {quote(safe(images))} --compare {compared}")

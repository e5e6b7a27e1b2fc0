"""``sss train``: a model from labelled images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from siamese_search.cli.hyperparameters import TrainCommand, hyperparameter_options
from siamese_search.cli.options import device_option, json_option, layout_option
from siamese_search.cli.output import note, safe, write_json, write_text
from siamese_search.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_PARTIAL, UsageError, printable
from siamese_search.training.presets import PRESETS
from siamese_search.training.presets import preset as find_preset

EPILOG = """\b
Examples:
  sss train photos/                                one folder per identity
  sss train photos/ --preset apn --margin 0.5      the classic triplet recipe, another margin
  sss train photos/ --holdout 0.2 --init bundled   a fifth of the identities for validation
  sss train market/ --holdout-ids ids.txt          exactly these identities held out
  sss train market/ faces/                         two data sets, equal shares of every batch
  sss train --resume runs/reid-20260101-120000     go on after Ctrl-C or a crash
  torchrun --nproc-per-node 4 -m siamese_search train photos/    four GPUs, each --batch-size

The run directory is a model bundle: sss ingest --model runs/NAME, sss evaluate --model runs/NAME.
"""


@click.command("train", cls=TrainCommand, epilog=EPILOG, short_help="Train a model on your own identities.")
@click.argument("data", nargs=-1, metavar="[DATA]...")
@click.option("--preset", type=click.Choice(list(PRESETS)), default="reid", help="Recipe to start from.")
@click.option("--out", metavar="DIR", help="Run directory.  [default: runs/PRESET-DATE-TIME]")
@click.option("--resume", metavar="DIR", help="Continue the run in DIR, with its own options.")
@click.option(
    "--init",
    metavar="WEIGHTS",
    default="imagenet",
    help="Initial weights: imagenet (through timm), bundled, none, or a bundle's directory.",
)
@click.option(
    "--holdout-ids",
    metavar="FILE",
    help="Identities that training must not see, one per line; SOURCE/ID for those of one data set only.",
)
@click.option(
    "--holdout",
    type=float,
    metavar="X",
    help="Identities of each data set to hold out: a share (0.15), a number (20), or 0.  [default: 0.1]",
)
@click.option("--teacher", metavar="FILE", help="Network (.xml, .onnx) or vectors (.npz) to distil from.")
@layout_option
@device_option
@click.option("--threads", type=click.IntRange(min=0), metavar="N", help="CPU threads; 0 takes all.")
@json_option
@hyperparameter_options
def command(
    data: tuple[str, ...],
    preset: str,
    out: str | None,
    resume: str | None,
    init: str,
    holdout_ids: str | None,
    holdout: float | None,
    teacher: str | None,
    layout: str,
    device: str,
    threads: int | None,
    json: bool,
    **hyperparameters: Any,
) -> int:
    """Train an embedding on the identities in DATA (default: data in sss.toml, else ./data).

    Identities of different data sets are different people, and each data set has an equal share of every batch.
    Some identities are held out; after every epoch, retrieval among them shows how good the model is.
    Ctrl-C writes a checkpoint, and --resume goes on from there to the same curve.
    """
    from ingest import stop_on_signals
    from siamese_search.api.train import new_run_directory, train
    from siamese_search.cli.train_screen import TrainScreen

    changes = {name: value for name, value in hyperparameters.items() if value is not None}
    speaks = os.environ.get("RANK", "0") == "0"  # of several processes under torchrun, the first
    if resume is None:
        data = _data(data)
        out = out or new_run_directory(preset)
        if speaks:
            note(f"training on {', '.join(safe(path) for path in data)} into {safe(out)}")
        epochs: int | None = find_preset(preset).with_options(**changes).epochs
    else:
        _refuse_with_resume(click.get_current_context())
        epochs = _epochs_of(Path(resume))
    with stop_on_signals() as stop, TrainScreen(stop, epochs) as screen:
        try:
            result = train(
                data,
                preset=preset,
                out=out,
                layout=layout,
                holdout=holdout,
                holdout_ids=holdout_ids,
                init=init,
                teacher=teacher,
                resume=resume,
                device=device,
                threads=threads,
                reporter=screen if speaks else None,
                stop=stop,
                **changes,
            )
        except KeyboardInterrupt:
            return _interrupted(Path(str(resume or out))) if speaks else EXIT_INTERRUPTED
    if not speaks:
        return EXIT_DONE
    if json:
        write_json(result.to_json())
    else:
        figures = result.metrics
        held = f"rank-1 {figures['rank1']:.1%}, mAP {figures['mAP']:.1%}" if figures else "nothing held out"
        count = len(result.bundle.heldout_identities)
        write_text(
            f"model     {safe(result.bundle.path)}\n"
            f"held out  {f'{count} identities: {held}' if figures else held}"
        )
        note(f"next: sss evaluate --model {safe(result.bundle.path)}")
    return EXIT_PARTIAL if result.failed else EXIT_DONE


def _data(named: tuple[str, ...]) -> tuple[str, ...]:
    """The data sets to train on: as named, else the one in the settings; what was chosen is said."""
    from siamese_search.settings import load_settings

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


def _refuse_with_resume(ctx: click.Context) -> None:
    """A resumed run has its options already; one given again would silently mean nothing."""
    from click.core import ParameterSource

    allowed = {"resume", "device", "threads", "json", "debug"}
    for parameter in ctx.command.params:
        name = str(parameter.name)
        if name not in allowed and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            given = parameter.opts[0] if isinstance(parameter, click.Option) else "DATA"
            raise UsageError(f"--resume continues a run with its own options; leave out {given}")


def _epochs_of(run: Path) -> int | None:
    """How many epochs a run was started for, for the progress display; the trainer checks the file itself."""
    import json

    try:
        return int(json.loads((run / "run.json").read_text(encoding="utf-8"))["config"]["epochs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _interrupted(directory: Path) -> int:
    if (directory / "checkpoint.safetensors").exists():
        note(f"sss: interrupted; a checkpoint is kept, go on with: sss train --resume {printable(directory)}")
    else:
        note("sss: interrupted before the first checkpoint; nothing was kept")
    return EXIT_INTERRUPTED

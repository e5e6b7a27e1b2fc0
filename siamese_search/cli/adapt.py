"""``sss adapt``: a model adapted to images that nobody has labelled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from siamese_search.cli.fields import LongCommand, adaptation_options
from siamese_search.cli.options import json_option
from siamese_search.cli.output import note, safe, write_json, write_text
from siamese_search.cli.progress import TrainScreen
from siamese_search.cli.train import epochs_of, interrupted, refuse_with_resume
from siamese_search.errors import EXIT_DONE, EXIT_PARTIAL, UsageError
from siamese_search.io.resources import stop_on_signals
from siamese_search.options import click_options
from siamese_search.training.options import AdaptOptions

if TYPE_CHECKING:
    from siamese_search.training.adapt import AdaptResult

_EPILOG = """\b
Examples:
  sss adapt photos/ --out runs/mine                     from the bundled model, no label used
  sss adapt photos/ --epochs 0                          light, colours and cameras alone: a minute
  sss adapt photos/ --epochs 8 --height 128 --width 64  small images: quick on a CPU
  sss adapt photos/ --labels reviewed.csv               some identities are known: they are kept
  sss adapt --resume runs/mine                          go on after Ctrl-C or a crash

Then: sss reindex --model runs/mine (a gallery of these images), or sss ingest photos/ --model runs/mine.
"""

_OFTEN = (
    "out", "resume", "init", "labels", "epochs", "iters", "freeze", "height", "width", "neighbours", "least", "lr",
    "device",
)  # fmt: skip


@click.command("adapt", cls=LongCommand, often=_OFTEN, epilog=_EPILOG)
@click.argument("data", type=click.Path(), required=False)
@click_options(AdaptOptions)
@json_option
@adaptation_options
def adapt_command(data: str | None, options: AdaptOptions, json: bool, **hyperparameters: Any) -> int:
    """Adapt a model to the images in DATA, of which nobody has said who is on them.

    Each epoch the images are clustered, and the clusters learned as identities, until they change no more; with
    --epochs 0 the model only gets the statistics and the mean embedding of each camera, which takes a minute. Labels
    that DATA has are not used; how well the clusters agree with them is shown. Ctrl-C writes a checkpoint.
    """
    from siamese_search.api.training import adapt, new_run_directory
    from siamese_search.training.config import adapt_config

    if options.resume is None:
        if data is None:
            raise UsageError("no DATA given: name a directory of images (sss adapt photos/)")
        options = replace(options, out=options.out or new_run_directory("adapt"))
        epochs: int | None = adapt_config(str(options.init), **hyperparameters).epochs
    else:
        refuse_with_resume(click.get_current_context(), "run")
        epochs = epochs_of(Path(options.resume))
    given = {name: value for name, value in hyperparameters.items() if value is not None}
    with stop_on_signals() as stop, TrainScreen(stop, epochs) as screen:
        try:
            result = adapt(data, options=options, reporter=screen, stop=stop, **given)
        except KeyboardInterrupt:
            return interrupted(Path(str(options.resume or options.out)), "adapt")
    if json:
        write_json(result.to_json())
    else:
        _print(result)
    return EXIT_PARTIAL if result.failed else EXIT_DONE


def _print(result: AdaptResult) -> None:
    from siamese_search.api.training import SHEET_NAME

    path, found = result.bundle.path, result.final
    epochs = f"{len(result.history)} of at most {result.bundle.meta['training']['config']['epochs']}"
    text = f"{found['clusters']} clusters, {found['singles']} single images: look at {safe(path / SHEET_NAME)}"
    write_text(f"model     {safe(path)}\nepochs    {epochs}\nimages    {len(result.records)} in {text}")
    if "purity" in found:
        write_text(f"labels    not used; by them purity {found['purity']:.1%}, adjusted Rand index {found['ari']:.1%}")
    note(f"next: sss reindex --model {safe(path)} (your gallery), or sss ingest DIR --model {safe(path)} (a new one)")

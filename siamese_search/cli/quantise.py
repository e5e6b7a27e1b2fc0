"""``sss quantise``: a model in 8-bit integers."""

from __future__ import annotations

from pathlib import Path

import click

from siamese_search.cli.options import OutPath, Place, json_option
from siamese_search.cli.output import note, safe, write_json, write_pairs
from siamese_search.errors import EXIT_DONE
from siamese_search.options import click_option

_QUANTISE_EPILOG = """\b
Examples:
  sss quantise photos/ --out runs/small                     of the bundled model
  sss quantise photos/ --model runs/first --out runs/small  of another one
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
def quantise_command(images: str, out: Path, model: str | None, count: int, threads: int | None, json: bool) -> int:
    """Write a copy of a model that computes in 8-bit integers, calibrated with some of the images in IMAGES.

    Its embeddings are slightly different ones, so it is a model of its own: a gallery takes either, never both.
    """
    from siamese_search.api.model import quantise_model

    made = quantise_model(images, out, model=model, count=count, threads=threads)
    if json:
        write_json(made.to_json())
    else:
        cosine = f"mean {made.mean_cosine:.4f}, least {made.least_cosine:.4f}, to the original ({made.measured} images)"
        write_pairs(
            [
                ("model", safe(made.bundle.path)),
                ("cosine", cosine),
                ("speed", f"{made.speed:.2f} times that of the original, here"),
            ]
        )
        note(f"next: sss evaluate {safe(images)} --compare {safe(model or 'bundled')} {safe(out)}")
    return EXIT_DONE

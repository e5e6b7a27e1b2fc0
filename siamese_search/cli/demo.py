"""``sss demo``: the synthetic data set."""

from __future__ import annotations

from pathlib import Path

import click

from siamese_search.cli.options import json_option
from siamese_search.cli.output import safe, write_json, write_text
from siamese_search.datasets.options import DemoOptions
from siamese_search.options import click_options

EPILOG = """\b
Examples:
  sss demo                     into ./demo
  sss demo /tmp/people --identities 100 --cameras 6 --seed 7
"""


@click.command("demo", epilog=EPILOG, short_help="Draw a small synthetic data set to try things on.")
@click.argument("directory", metavar="[DIR]", default="demo", type=click.Path(path_type=Path))
@click_options(DemoOptions)
@json_option
def demo_command(directory: Path, options: DemoOptions, json: bool) -> None:
    """Draw synthetic people, seen by several cameras, as JPEG files with Market-1501 names.

    Writes DIR/gallery to ingest and DIR/queries to search for (default DIR: demo).
    """
    from siamese_search.cli.progress import Bar
    from siamese_search.datasets.demo import generate_demo

    with Bar("drawing", "images") as bar:
        made = generate_demo(directory, options=options, progress=bar.update)
    if json:
        write_json(
            {
                "gallery": made.gallery,
                "queries": made.queries,
                "identities": made.identities,
                "images": made.images,
            }
        )
        return
    write_text(
        f"{made.images} images of {options.identities} people and {options.distractors} strangers,"
        f" {options.cameras} cameras\n"
        f"gallery  {safe(made.gallery)}\n"
        f"queries  {safe(made.queries)}"
    )

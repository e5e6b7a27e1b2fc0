"""``sss demo``: the synthetic data set."""

from __future__ import annotations

from pathlib import Path

import click

from siamese_search.cli.options import json_option
from siamese_search.cli.output import safe, write_json, write_text

EPILOG = """\b
Examples:
  sss demo                     into ./demo
  sss demo /tmp/people --identities 100 --cameras 6 --seed 7
"""


@click.command("demo", epilog=EPILOG, short_help="Draw a small synthetic data set to try things on.")
@click.argument("directory", metavar="[DIR]", default="demo", type=click.Path(path_type=Path))
@click.option("--identities", type=int, default=24, metavar="N", help="People to draw.")
@click.option("--cameras", type=int, default=4, metavar="N", help="Cameras that see them.")
@click.option("--images-per-camera", type=int, default=2, metavar="N", help="Images of each, per camera.")
@click.option("--distractors", type=int, default=24, metavar="N", help="Images of people who are no answer.")
@click.option("--seed", type=int, default=0, metavar="N", help="Same seed, same images.")
@json_option
def demo_command(
    directory: Path,
    identities: int,
    cameras: int,
    images_per_camera: int,
    distractors: int,
    seed: int,
    json: bool,
) -> None:
    """Draw synthetic people, seen by several cameras, as JPEG files with Market-1501 names.

    Writes DIR/gallery to ingest and DIR/queries to search for (default DIR: demo).
    """
    from siamese_search.cli.progress import Bar
    from siamese_search.datasets.demo import generate_demo

    with Bar("drawing", "images") as bar:
        made = generate_demo(
            directory,
            identities=identities,
            cameras=cameras,
            images_per_camera=images_per_camera,
            distractors=distractors,
            seed=seed,
            progress=bar.update,
        )
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
        f"{made.images} images of {identities} people and {distractors} strangers, {cameras} cameras\n"
        f"gallery  {safe(made.gallery)}\n"
        f"queries  {safe(made.queries)}"
    )

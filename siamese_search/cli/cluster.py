"""``sss cluster``: identities proposed for images that have none, for a person to review."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from siamese_search.cli.options import json_option, store_options
from siamese_search.cli.output import note, safe, write_json, write_text
from siamese_search.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:
    from siamese_search.curation.identities import Proposals

EPILOG = """\b
Examples:
  sss cluster review.csv                       images without identity
  sss cluster review.csv --save sheet.png      and a picture of each cluster
  sss cluster review.csv --all                 images with an identity lend it to their cluster
  sss cluster review.csv --where camera=1
then edit the column 'proposed identity' and apply it:
  sss label review.csv --dry-run
"""


@click.command("cluster", epilog=EPILOG, short_help="Propose identities for images without one.")
@click.argument("out", metavar="OUT.csv", type=click.Path(path_type=Path))
@click.option("--where", multiple=True, metavar="FILTER", help='Such as "camera=2"; may be repeated.')
@click.option("--all", is_flag=True, help="Cluster images that have an identity too.")
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE.png", help="Also draw the clusters.")
@click.option(
    "--neighbours",
    type=click.IntRange(min=1),
    default=20,
    metavar="N",
    help="About as many images as an identity has; fewer where each was seen a few times only.",
)
@click.option(
    "--least",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.25,
    metavar="S",
    help="Least mean k-reciprocal similarity of two clusters that are merged: higher is more clusters.",
)
@click.option(
    "--min-score",
    type=click.FloatRange(-1, 1),
    metavar="S",
    help="Least mean cosine of two clusters that are merged.  [default: by calibration]",
)
@click.option(
    "--prefix", default="new", metavar="NAME", help="New identities are called NAME-0001, NAME-0002, ..."
)
@store_options
@json_option
def command(
    out: Path,
    where: tuple[str, ...],
    all: bool,
    save: Path | None,
    neighbours: int,
    least: float,
    min_score: float | None,
    prefix: str,
    store: str | None,
    gallery: str | None,
    model: str | None,
    json: bool,
) -> int:
    """Group images that seem to show one identity, by their stored vectors, and write OUT.csv for a person to review.

    Nothing in the gallery is changed. Clusters come largest first, the surest images of each first; single images are
    at the end. At most 20,000 images at once.
    """
    from siamese_search.api import curation
    from siamese_search.curation.review import write_review
    from siamese_search.render.clusters import draw_clusters

    if save is not None and save.suffix.lower() != ".png":
        raise UsageError(f"{safe(save)}: --save draws a PNG; name the file with .png")
    if not prefix.strip() or not prefix.isprintable() or prefix.isdecimal():
        raise UsageError(f"--prefix {safe(prefix)!r} must be a printable name, and not a number")
    started = time.monotonic()
    found = curation.propose_identities(
        where=where,
        labelled=all,
        neighbours=neighbours,
        least=least,
        cosine=min_score,
        prefix=prefix,
        store=store,
        gallery=gallery,
        model=model,
    )
    write_review(found, out)
    if save is not None:
        draw_clusters(found, save)
        note(f"wrote {safe(save)}")
    if found.cosine is None:
        note(
            "the model has no calibration, so only neighbourhoods decide; --min-score sets a least similarity"
        )
    if json:
        write_json(_shape(found, out, time.monotonic() - started))
    else:
        _print(found, out)
    return EXIT_DONE


def _print(found: Proposals, out: Path) -> None:
    singles = found.count("single")
    known, new, conflicts = found.count("known"), found.count("new"), found.count("conflict")
    write_text(
        f"{len(found.images):,} images: {new:,} new identities, {known:,} known ones, {conflicts:,} conflicts,"
        f" {singles:,} single images"
    )
    write_text(f"review {safe(out)}, then: sss label {safe(out)} --dry-run")


def _shape(found: Proposals, out: Path, seconds: float) -> dict[str, Any]:
    """The JSON contract of ``sss cluster --json``."""
    from siamese_search.retrieval.results import json_path

    return {
        "out": json_path(out),
        "images": len(found.images),
        "new": found.count("new"),
        "known": found.count("known"),
        "conflicts": found.count("conflict"),
        "single": found.count("single"),
        "neighbours": found.neighbours,
        "least": found.least,
        "min_score": None if found.cosine is None else round(found.cosine, 6),
        "seconds": round(seconds, 3),
    }

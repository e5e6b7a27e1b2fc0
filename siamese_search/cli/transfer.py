"""A gallery copied: ``sss push`` and ``sss pull`` into or out of another store, ``sss export`` into a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from siamese_search.cli.options import json_flag, json_option, place_options, where_option
from siamese_search.cli.output import note, safe, warn, write_json, write_text
from siamese_search.errors import EXIT_DONE, EXIT_INTERRUPTED

if TYPE_CHECKING:
    from siamese_search.api.maintenance import CopySummary


_PUSH_EPILOG = """\b
Examples:
  sss push http://localhost:6333                    the gallery in use, to a server
  sss push http://localhost:6333 --gallery station  another one
  sss push /mnt/backup/store                        to another directory
"""

_PULL_EPILOG = """\b
Examples:
  sss pull http://localhost:6333                    a server's gallery into ./.sss
  sss pull http://localhost:6333 --gallery station  another one
"""

_EXPORT_EPILOG = """\b
Examples:
  sss export gallery.parquet                    typed columns; needs '.[analysis]'
  sss export labels.csv --no-vectors            to edit in a spreadsheet; `sss label` reads it
  sss export night.npz --where night=true       numpy.load(), no pickle
  sss export for-fiftyone --format fiftyone     a FiftyOneDataset directory

\b
FiftyOne reads the last one with
  fiftyone.Dataset.from_dir("for-fiftyone", dataset_type=fiftyone.types.FiftyOneDataset)
"""


@click.command("push", epilog=_PUSH_EPILOG, short_help="Copy a gallery into another store.")
@click.argument("to", type=click.Path(), metavar="URL|DIR")
@place_options
@json_option
def push_command(to: str, store: str | None, gallery: str | None, json: bool) -> int:
    """Copy a gallery, vectors and all, into the store URL|DIR under the same name.

    What is there already is not sent again, so the same command goes on where it was interrupted; images that
    only the other store has stay. The copy is checked by count, and bit by bit for a sample of its vectors.
    """
    from siamese_search.api import maintenance

    return _copied("push", lambda **how: maintenance.push(to, store=store, gallery=gallery, **how), json)


def _copied(title: str, copy: Callable[..., CopySummary], json: bool) -> int:
    """A push or a pull with its progress, its answer and its exit code."""
    from siamese_search.cli.progress import Bar
    from siamese_search.io.resources import stop_on_signals

    try:
        with Bar(title, "images") as bar, stop_on_signals() as stop:
            summary = copy(progress=bar.update, stop=stop)
    except KeyboardInterrupt:
        note("sss: interrupted; what was copied is kept, and the same command goes on from there")
        return EXIT_INTERRUPTED
    if json:
        write_json(summary.to_json())
        return EXIT_DONE
    report = summary.report
    extra = f", {report.extra:,} only there" if report.extra else ""
    write_text(
        f"{report.points:,} images: {report.copied:,} copied, {report.kept:,} there already{extra}"
        f" ({summary.seconds:.1f} s); {report.verified} vectors compared"
        f"{', its calibration too' if report.calibrated else ''}\n"
        f"gallery '{safe(summary.gallery)}' from {safe(summary.source)} to {safe(summary.target)}"
    )
    return EXIT_DONE


@click.command("pull", epilog=_PULL_EPILOG, short_help="Copy a gallery out of another store.")
@click.argument("source", type=click.Path(), metavar="URL|DIR")
@place_options
@json_option
def pull_command(source: str, store: str | None, gallery: str | None, json: bool) -> int:
    """Copy a gallery, vectors and all, out of the store URL|DIR into the one in use, under the same name.

    As `sss push` the other way: resumable, and checked in the end. Searching it needs the gallery's model here.
    """
    from siamese_search.api import maintenance

    return _copied("pull", lambda **how: maintenance.pull(source, store=store, gallery=gallery, **how), json)


@click.command("export", epilog=_EXPORT_EPILOG, short_help="Write a gallery to a file for other programs.")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--format",
    type=click.Choice(["parquet", "npz", "csv", "jsonl", "fiftyone"]),
    help="By default what the name of OUT says.",
)
@where_option
@click.option("--no-vectors", is_flag=True, help="Leave the vectors out.")
@place_options
@json_flag
def export_command(
    out: Path,
    format: str | None,
    where: tuple[str, ...],
    no_vectors: bool,
    store: str | None,
    gallery: str | None,
    json: bool,
) -> int:
    """Write all points of a gallery, labels and vectors, to OUT: .parquet, .npz, .csv, .jsonl, or for FiftyOne.

    OUT gets its name when it is whole. Memory does not grow with the gallery. Images are not copied.
    """
    from siamese_search.api import curation
    from siamese_search.cli.progress import Bar

    with Bar("export", "images") as bar:
        done = curation.export(
            out,
            format=format,
            where=where,
            vectors=not no_vectors,
            store=store,
            gallery=gallery,
            progress=bar.update,
        )
    if done["left_out"]:
        warn(f"{done['left_out']:,} images left out: the gallery does not know their path")
    if json:
        write_json(done)
    else:
        write_text(f"{done['points']:,} images written to {safe(out)}")
        if done["format"] == "fiftyone":
            note(
                f"load it with: fiftyone.Dataset.from_dir({safe(out)!r},"
                " dataset_type=fiftyone.types.FiftyOneDataset)"
            )
    return EXIT_DONE

"""``sss export``: a gallery as a file for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from siamese_search.cli.options import json_flag, place_options, where_option
from siamese_search.cli.output import note, safe, warn, write_json, write_text
from siamese_search.errors import EXIT_DONE

EPILOG = """\b
Examples:
  sss export gallery.parquet                    typed columns; needs '.[analysis]'
  sss export labels.csv --no-vectors            to edit in a spreadsheet; `sss label` reads it
  sss export night.npz --where night=true       numpy.load(), no pickle
  sss export for-fiftyone --format fiftyone     a FiftyOneDataset directory

\b
FiftyOne reads the last one with
  fiftyone.Dataset.from_dir("for-fiftyone", dataset_type=fiftyone.types.FiftyOneDataset)
"""


@click.command("export", epilog=EPILOG, short_help="Write a gallery to a file for other programs.")
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

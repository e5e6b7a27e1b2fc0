"""``sss label``: a reviewed CSV becomes labels of a gallery's images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from siamese_search.cli.options import json_option, place_options
from siamese_search.cli.output import note, safe, warn, write_json, write_table, write_text
from siamese_search.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:
    from siamese_search.api.curation import LabelSummary
    from siamese_search.curation.labels import LabelPlan

EPILOG = """\b
Examples:
  sss label review.csv --dry-run            what would change
  sss label review.csv --undo-file undo.csv apply it, keeping the former values
  sss label undo.csv                        take it back

The CSV names each image by key and source, or by path; its other columns are labels: identity, camera, any field.
An empty cell leaves a label as it is, <none> takes it away. The review of `sss cluster` is such a file.
"""

_SHOWN = 20


@click.command("label", epilog=EPILOG, short_help="Apply the labels of a reviewed CSV.")
@click.argument("table", metavar="FILE.csv", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option(
    "--undo-file",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="Write the former values to this new file; `sss label` applies it.",
)
@click.option("--columns", metavar="NAME,...", help="Apply only these columns.")
@place_options
@json_option
def command(
    table: Path,
    dry_run: bool,
    undo_file: Path | None,
    columns: str | None,
    store: str | None,
    gallery: str | None,
    json: bool,
) -> int:
    """Set labels by hand: those of FILE.csv, for the images that its rows name.

    Every row is checked first, and nothing is changed unless all of them can be applied. Labels that were set in this
    way stay when the images are ingested again, whatever their directory says. Interrupted, the same command
    goes on.
    """
    from siamese_search.api import curation
    from siamese_search.cli.progress import Bar

    if dry_run and undo_file is not None:
        raise UsageError("--dry-run changes nothing, so there is nothing to undo: leave --undo-file out")
    with Bar("label", "images") as bar:
        summary = curation.label(
            table,
            columns=[name.strip() for name in columns.split(",")] if columns else (),
            dry_run=dry_run,
            undo=undo_file,
            store=store,
            gallery=gallery,
            progress=bar.update,
            on_plan=_tell,
        )
    if json:
        write_json(summary.to_json())
    else:
        _print(summary)
    return EXIT_DONE


def _tell(plan: LabelPlan) -> None:
    for text in plan.notes:
        note(text)
    for problem in plan.problems[:_SHOWN]:
        warn(f"{safe(plan.file)}: {problem}")
    if len(plan.problems) > _SHOWN:
        warn(f"and {len(plan.problems) - _SHOWN:,} rows more")


def _print(summary: LabelSummary) -> None:
    from siamese_search.curation.labels import shown_path

    rows: list[list[Any]] = [
        [shown_path(change), name, _cell(change.before[name]), _cell(after)]
        for change in summary.plan.changes[:_SHOWN]
        for name, after in change.after.items()
    ]
    if rows:
        write_table([("image", "path"), ("field", "text"), ("was", "text"), ("is", "text")], rows[:_SHOWN])
        if len(summary.plan.changes) > _SHOWN:
            write_text(f"… and {len(summary.plan.changes) - _SHOWN:,} images more")
    done = "would change" if summary.dry_run else "changed"
    write_text(f"{len(summary.plan.changes):,} images {done}, {summary.plan.unchanged:,} are so already")
    if summary.undo is not None:
        write_text(f"to take it back: sss label {safe(summary.undo)}")
    write_text(f"gallery '{safe(summary.gallery)}' in {safe(summary.store)}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)

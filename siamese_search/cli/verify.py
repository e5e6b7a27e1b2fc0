"""``sss verify``: are the stored vectors sound, and the images still those that were ingested?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from siamese_search.cli.options import json_option, place_options
from siamese_search.cli.output import safe, warn, write_json, write_text
from siamese_search.errors import EXIT_DONE, EXIT_PARTIAL, UsageError

if TYPE_CHECKING:
    from siamese_search.maintenance.verify import VerifySummary

EPILOG = """\b
Examples:
  sss verify                 vectors, and each file's size and time
  sss verify --checksum      each file's content too, after `sss ingest --checksum`
  sss verify --vectors-only  where the images are on another machine
"""


@click.command("verify", epilog=EPILOG, short_help="Check a gallery's vectors and files.")
@place_options
@click.option(
    "--checksum", is_flag=True, help="Compare files by content where that is known. Reads every file."
)
@click.option("--vectors-only", is_flag=True, help="Do not look at the files.")
@json_option
def command(store: str | None, gallery: str | None, checksum: bool, vectors_only: bool, json: bool) -> int:
    """Compare every stored vector with its checksum, and every image's file with what was ingested.

    Each problem is named with its reason (exit code 3): a vector that has changed, a file that is gone, changed or
    cannot be looked at. Nothing is mended: `sss ingest --reembed DIR` embeds images again, `--prune` removes those
    that are gone.
    """
    from siamese_search.api import maintenance
    from siamese_search.cli.progress import Bar

    if checksum and vectors_only:
        raise UsageError("--checksum compares files and --vectors-only leaves them out: give one of the two")
    with Bar("verify", "images") as bar:
        summary = maintenance.verify(
            store=store, gallery=gallery, files=not vectors_only, checksum=checksum, progress=bar.update
        )
    for problem in summary.problems:
        warn(f"{problem.kind} {problem.path or problem.key}: {problem.reason}")
    if summary.wrong > len(summary.problems):
        warn(f"and {summary.wrong - len(summary.problems):,} problems more")
    if json:
        write_json(summary.to_json())
    else:
        write_text(_describe(summary))
    return EXIT_PARTIAL if summary.wrong else EXIT_DONE


def _describe(summary: VerifySummary) -> str:
    counts = [
        f"{getattr(summary, kind):,} {kind}"
        for kind in ("damaged", "missing", "changed", "unreadable")
        if getattr(summary, kind)
    ]
    if summary.unchecked:
        counts.append(f"{summary.unchecked:,} without a checksum")
    return (
        f"{summary.points:,} images: {', '.join(counts) or 'all sound'} ({summary.seconds:.1f} s)\n"
        f"gallery '{safe(summary.collection)}' in {safe(summary.store)}"
    )

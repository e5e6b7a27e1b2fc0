"""``sss optimise``: make a gallery open and answer faster."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from siamese_search.cli.options import json_option, place_options
from siamese_search.cli.output import console, file_size, note, safe, write_json, write_text

EPILOG = """\b
Examples:
  sss optimise              after a large ingest
  sss optimise --index yes  with an HNSW index, for very many searches
"""


@click.command("optimise", epilog=EPILOG, short_help="Make a large gallery open and answer faster.")
@place_options
@click.option(
    "--index",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    help="Build an HNSW index: auto does where it pays (from 400,000 images, with int4 from 2,000,000).",
)
@json_option
def command(store: str | None, gallery: str | None, index: str, json: bool) -> None:
    """Write a gallery's vectors into one compact, read-only part: it opens faster and takes less memory.

    Works on a copy, in a process of its own. Searches and ingests go on; they wait only while the copy is made and
    while it takes the place of the original. Interrupted, the gallery is as it was. Without an index a search
    compares with every vector: quantised to int4 that takes tens of milliseconds for a million.
    """
    from siamese_search.api import maintenance

    with _stages() as show:
        facts = maintenance.optimise(
            store=store,
            gallery=gallery,
            index={"auto": None, "yes": True, "no": False}[index],
            progress=show,
        )
    if json:
        write_json(facts)
    else:
        write_text(_describe(facts))


def _describe(facts: dict[str, Any]) -> str:
    where = f"gallery '{safe(facts['collection'])}' in {safe(facts['store'])}"
    if not facts["changed"]:
        return f"{facts['points']:,} images, nothing to do\n{where}"
    index = f", {facts['indexed_points']:,} of them in an index" if facts["indexed_points"] else ""
    return (
        f"{facts['points']:,} images optimised{index} ({facts['seconds']:.1f} s)\n{where}:"
        f" {file_size(facts['size_bytes'])} on disk, {file_size(facts['resident_bytes'])} in memory to search"
    )


@contextmanager
def _stages() -> Iterator[Callable[[str, float], None]]:
    """What is being done, with the seconds passed on a terminal, and as a line for each stage elsewhere."""
    if not sys.stderr.isatty():
        told: list[str] = []

        def tell(stage: str, seconds: float) -> None:
            if stage not in told:
                told.append(stage)
                note(f"optimise: {stage} (after {seconds:.0f} s)")

        yield tell
        return
    with console(stderr=True).status("optimise") as status:
        yield lambda stage, seconds: status.update(f"optimise: {stage}, {seconds:.0f} s")

"""``sss rollback``: back to the vectors from before a re-index."""

from __future__ import annotations

import click

from siamese_search.cli.options import json_option, place_options
from siamese_search.cli.output import safe, write_json, write_text

EPILOG = """\b
Examples:
  sss rollback                    undo the last `sss reindex`
  sss rollback --gallery station  of another gallery
"""


@click.command("rollback", epilog=EPILOG, short_help="Go back to the vectors from before a reindex.")
@place_options
@json_option
def command(store: str | None, gallery: str | None, json: bool) -> None:
    """Put the vectors from before the last reindex back in their place, in one step.

    The newer ones are kept: a second rollback undoes the first. Images ingested since the reindex are in the
    newer vectors only; ingest them again where they are wanted.
    """
    from siamese_search.api import maintenance

    now, before = maintenance.rollback(store=store, gallery=gallery)
    if json:
        write_json({"model": now.name or now.fingerprint, "former_model": before.name or before.fingerprint})
    else:
        write_text(
            f"now by {safe(now.name or now.fingerprint[:12])} ({safe(now.fingerprint[:12])}),"
            f" was by {safe(before.name or before.fingerprint[:12])} ({safe(before.fingerprint[:12])})"
        )

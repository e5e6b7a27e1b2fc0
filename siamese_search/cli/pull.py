"""``sss pull``: copy a gallery out of another store."""

from __future__ import annotations

import click

from siamese_search.cli.options import json_option, place_options
from siamese_search.cli.push import run

EPILOG = """\b
Examples:
  sss pull http://localhost:6333                    a server's gallery into ./.sss
  sss pull http://localhost:6333 --gallery station  another one
"""


@click.command("pull", epilog=EPILOG, short_help="Copy a gallery out of another store.")
@click.argument("source", metavar="URL|DIR")
@place_options
@json_option
def command(source: str, store: str | None, gallery: str | None, json: bool) -> int:
    """Copy a gallery, vectors and all, out of the store URL|DIR into the one in use, under the same name.

    As `sss push` the other way: resumable, and checked in the end. Searching it needs the gallery's model here.
    """
    from siamese_search.api import maintenance

    return run("pull", lambda **how: maintenance.pull(source, store=store, gallery=gallery, **how), json)

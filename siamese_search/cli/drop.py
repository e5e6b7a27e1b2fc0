"""``sss drop``: delete a gallery."""

from __future__ import annotations

import sys

import click

from siamese_search.cli.options import json_option, store_option
from siamese_search.cli.output import note, safe, write_json, write_text
from siamese_search.errors import EXIT_DONE, EXIT_FAILED, StoreError, UsageError

EPILOG = """\b
Examples:
  sss drop station        asks first
  sss drop station --yes  in a script
"""


@click.command("drop", epilog=EPILOG, short_help="Delete a gallery.")
@click.argument("name", metavar="NAME")
@store_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def command(name: str, store: str | None, yes: bool, json: bool) -> int:
    """Delete the gallery NAME with all its vectors, those kept for a rollback too. The images stay.

    Asks first on a terminal; elsewhere it needs --yes.
    """
    from siamese_search.api import maintenance

    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"nobody can be asked whether to delete gallery {name!r} here: give --yes")
        if not click.confirm(f"delete gallery '{safe(name)}'{_size(name, store)}?", err=True):
            note("nothing was deleted")
            return EXIT_FAILED
    maintenance.drop(name, store=store)
    if json:
        write_json({"dropped": name})
    else:
        write_text(f"gallery '{safe(name)}' deleted")
    return EXIT_DONE


def _size(name: str, store: str | None) -> str:
    """`` (12,936 images) in .sss``; GalleryNotFoundError before anybody is asked."""
    from siamese_search.api import maintenance
    from siamese_search.errors import GalleryNotFoundError

    try:
        facts = maintenance.facts(name, store=store)
    except GalleryNotFoundError:
        raise
    except StoreError:
        return " (damaged)"  # all the more reason to drop it
    return f" ({facts['points']:,} images) in {safe(facts['store'])}"

"""``sss push``, ``sss pull``: a gallery copied into another store, or out of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from siamese_search.cli.options import json_option, place_options
from siamese_search.cli.output import (
    note,
    safe,
    write_json,
    write_text,
)
from siamese_search.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
)

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
    from siamese_search.io.signals import stop_on_signals

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

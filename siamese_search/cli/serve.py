"""``sss serve``: the gallery in a browser, and an API over HTTP."""

from __future__ import annotations

import sys

import click

from siamese_search.cli.output import write_text
from siamese_search.errors import EXIT_DONE
from siamese_search.options import click_options
from siamese_search.web.options import ServeOptions

EPILOG = """\b
Examples:
  sss serve --open
  sss serve --port 0 --read-only
  SSS_SERVE_KEY=$(openssl rand -hex 24) sss serve --host 0.0.0.0

docs/serve.md has the API, and what keeps strangers out.
"""


@click.command("serve", epilog=EPILOG, short_help="Search and care for a gallery in a browser.")
@click_options(ServeOptions)
def serve_command(options: ServeOptions) -> int:
    """Serve a gallery to browsers, and an API under /api/v1, until Ctrl+C or SIGTERM."""
    from siamese_search.web.server import serve

    def started(url: str) -> None:
        write_text(f"Serving at {url} (Ctrl+C ends)\n")
        sys.stdout.flush()

    serve(options, started=started)
    return EXIT_DONE

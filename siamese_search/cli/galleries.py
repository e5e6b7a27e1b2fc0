"""``sss galleries``: what a store holds."""

from __future__ import annotations

import click

from siamese_search.cli.options import json_option, store_option
from siamese_search.cli.output import file_size, safe, write_json, write_table, write_text

EPILOG = """\b
Examples:
  sss galleries                                the store in use
  sss galleries --store http://localhost:6333  a server's
"""


@click.command("galleries", epilog=EPILOG, short_help="List what a store holds.")
@store_option
@json_option
def command(store: str | None, json: bool) -> None:
    """List a store's galleries: images, identities, cameras, model and size.

    `sss info --gallery NAME` tells all about one.
    """
    from siamese_search.api import maintenance

    facts = maintenance.galleries(store=store)
    if json:
        write_json(facts)
    elif not facts["galleries"]:
        write_text(f"{safe(facts['store'])} is empty; fill it with: sss ingest DIR")
    else:
        columns = [("gallery", "text"), ("images", "number"), ("identities", "number"), ("cameras", "number")]
        columns += [("size", "number"), ("model", "path"), ("", "text")]
        write_table(
            columns,
            [
                [
                    item["name"],
                    f"{item['points']:,}",
                    f"{item['identities']:,}",
                    f"{item['cameras']:,}",
                    file_size(item["size_bytes"]),
                    f"{item['model']['name']} ({item['model']['fingerprint'][:12]})".lstrip(),
                    "being re-indexed" if item["building"] else "",
                ]
                for item in facts["galleries"]
            ],
        )

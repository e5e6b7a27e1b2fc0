"""``sss reindex``: a gallery's images in another model's vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from siamese_search.cli.options import Positive, device_option, json_option
from siamese_search.cli.output import note, safe, warn, write_json, write_text
from siamese_search.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_PARTIAL

if TYPE_CHECKING:
    from siamese_search.model.embedder import Device

EPILOG = """\b
Examples:
  sss reindex --model runs/first      embed the gallery's images again, with your own model
  sss reindex --model bundled         back to the model that comes along
"""


@click.command("reindex", epilog=EPILOG, short_help="Embed a gallery's images again, with another model.")
@click.option(
    "--model", metavar="BUNDLE", help="The new model.  [default: the settings', else the bundled one]"
)
@click.option("--store", metavar="DIR", help="Directory of the vector store.  [default: .sss; SSS_STORE]")
@click.option("--gallery", metavar="NAME", help="Gallery inside the store.  [default: default; SSS_GALLERY]")
@click.option("--drop-missing", is_flag=True, help="Leave out images that cannot be read any more.")
@click.option("--batch-size", type=Positive(), metavar="N", help="Images per forward pass.  [default: 64]")
@click.option("--threads", type=click.IntRange(min=0), metavar="N", help="CPU threads; 0 takes all.")
@device_option
@json_option
def command(
    model: str | None,
    store: str | None,
    gallery: str | None,
    drop_missing: bool,
    batch_size: int | None,
    threads: int | None,
    device: Device,
    json: bool,
) -> int:
    """Read a gallery's images again from their files and embed them with another model.

    Searches go on in the old vectors until all new ones are there; then the new ones take their place in one
    step. Interrupted or failed, the gallery is as it was. What is ingested meanwhile, ingest again afterwards.
    """
    from ingest import stop_on_signals
    from siamese_search import api
    from siamese_search.cli.progress import Bar

    try:
        with Bar("reindex", "images") as bar, stop_on_signals() as stop:
            summary = api.reindex(
                model,
                store=store,
                gallery=gallery,
                drop_missing=drop_missing,
                batch_size=batch_size,
                threads=threads,
                device=device,
                progress=bar.update,
                stop=stop,
            )
    except KeyboardInterrupt:
        note("sss: interrupted; the gallery is as it was")
        return EXIT_INTERRUPTED
    for failure in summary.dropped:
        warn(f"dropped {failure.path}: {failure.reason}")
    if json:
        write_json(summary.to_json())
    else:
        write_text(
            f"{summary.images} images embedded again ({summary.seconds:.1f} s)\n"
            f"gallery '{summary.collection}' in {safe(summary.store)}: now by {safe(summary.model)},"
            f" was by {safe(summary.former_model)}"
        )
    return EXIT_PARTIAL if summary.dropped else EXIT_DONE

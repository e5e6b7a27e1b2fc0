"""``sss reindex``: a gallery's images in another model's vectors; ``sss rollback``: back to the vectors from before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from siamese_search.cli.options import (
    Positive,
    embedding_device_option,
    json_option,
    place_options,
    storage_options,
)
from siamese_search.cli.output import note, safe, warn, write_json, write_text
from siamese_search.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_PARTIAL, UsageError

if TYPE_CHECKING:
    from siamese_search.model.embedder import Device


_REINDEX_EPILOG = """\b
Examples:
  sss reindex --model runs/first      embed the gallery's images again, with your own model
  sss reindex --model bundled         back to the model that comes along
  sss rollback                        back to the vectors from before, at once
  sss reindex --drop-old              delete the vectors from before: no way back
  sss reindex --keep-vectors --storage float16 --quantise int4
                                      the same vectors in less space; no image is read
"""

_ROLLBACK_EPILOG = """\b
Examples:
  sss rollback                    undo the last `sss reindex`
  sss rollback --gallery station  of another gallery
"""


@click.command(
    "reindex", epilog=_REINDEX_EPILOG, short_help="Embed a gallery's images again, with another model."
)
@click.option(
    "--model", metavar="BUNDLE", help="The new model.  [default: the settings', else the bundled one]"
)
@place_options
@click.option("--keep-vectors", is_flag=True, help="Copy the vectors; only the storage settings are new.")
@click.option(
    "--drop-old",
    is_flag=True,
    help="Delete the former vectors in the end; without --model and --keep-vectors do nothing else.",
)
@storage_options
@click.option("--drop-missing", is_flag=True, help="Leave out images that cannot be read any more.")
@click.option("--batch-size", type=Positive(), metavar="N", help="Images per forward pass.  [default: 64]")
@click.option("--threads", type=click.IntRange(min=0), metavar="N", help="CPU threads; 0 takes all.")
@embedding_device_option
@json_option
def reindex_command(
    model: str | None,
    store: str | None,
    gallery: str | None,
    keep_vectors: bool,
    drop_old: bool,
    drop_missing: bool,
    storage: str | None,
    quantise: str | None,
    batch_size: int | None,
    threads: int | None,
    device: Device,
    json: bool,
) -> int:
    """Read a gallery's images again from their files and embed them with another model.

    Searches go on in the old vectors until all new ones are there and checked; then those take their place in one
    step. The old ones are kept for `sss rollback`. Interrupted or failed, the gallery is as it was, and the same
    command goes on. What is ingested or removed meanwhile is brought over.
    """
    from ingest import stop_on_signals
    from siamese_search.api import maintenance
    from siamese_search.cli.progress import Bar

    if drop_old and model is None and not keep_vectors:
        return _drop_old(store, gallery, json)
    if keep_vectors and model is not None:
        raise UsageError("--keep-vectors takes no --model: the vectors stay those of the gallery's own")
    try:
        with Bar("reindex", "images") as bar, stop_on_signals() as stop:
            summary = maintenance.reindex(
                model,
                store=store,
                gallery=gallery,
                keep_vectors=keep_vectors,
                drop_missing=drop_missing,
                storage=storage,
                quantise=quantise,
                batch_size=batch_size,
                threads=threads,
                device=device,
                progress=bar.update,
                stop=stop,
            )
    except KeyboardInterrupt:
        note("sss: interrupted; the gallery is as it was, and the same command goes on from here")
        return EXIT_INTERRUPTED
    for failure in summary.dropped:
        warn(f"dropped {failure.path}: {failure.reason}")
    if drop_old:
        maintenance.drop_old(store=store, gallery=gallery)
    if json:
        write_json(summary.to_json())
    else:
        before = "deleted" if drop_old else "kept for `sss rollback` until `sss reindex --drop-old`"
        write_text(
            f"{summary.images} images, {summary.embedded} of them embedded now ({summary.seconds:.1f} s)\n"
            f"gallery '{summary.collection}' in {safe(summary.store)}: now by {safe(summary.model)},"
            f" was by {safe(summary.former_model)}\n"
            f"the former vectors are {before}"
        )
    return EXIT_PARTIAL if summary.dropped else EXIT_DONE


def _drop_old(store: str | None, gallery: str | None, json: bool) -> int:
    from siamese_search.api import maintenance

    count = maintenance.drop_old(store=store, gallery=gallery)
    if json:
        write_json({"generations_dropped": count})
    else:
        write_text(f"{count} former generation{'s' if count != 1 else ''} deleted")
    return EXIT_DONE


@click.command(
    "rollback", epilog=_ROLLBACK_EPILOG, short_help="Go back to the vectors from before a reindex."
)
@place_options
@json_option
def rollback_command(store: str | None, gallery: str | None, json: bool) -> None:
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

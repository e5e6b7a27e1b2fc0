"""``sss reindex``: a gallery's images in another model's vectors; ``sss rollback``: back to the vectors from before."""

from __future__ import annotations

from typing import Any

import click

from siamese_search.cli.options import insecure_option, json_option, place_options
from siamese_search.cli.output import note, safe, warn, write_json, write_text
from siamese_search.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_PARTIAL, UsageError
from siamese_search.maintenance.options import ReindexOptions
from siamese_search.options import click_options

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
@click_options(
    ReindexOptions,
    after={
        "store": [insecure_option],
        "keep_vectors": [
            click.option(
                "--drop-old",
                is_flag=True,
                help="Delete the former vectors in the end; without --model and --keep-vectors do nothing else.",
            )
        ],
    },
)
@json_option
def reindex_command(options: ReindexOptions, drop_old: bool, json: bool) -> int:
    """Read a gallery's images again from their files and embed them with another model.

    Searches go on in the old vectors until all new ones are there and checked; then those take their place in one
    step. The old ones are kept for `sss rollback`. Interrupted or failed, the gallery is as it was, and the same
    command goes on. What is ingested or removed meanwhile is brought over.
    """
    from siamese_search.api import maintenance
    from siamese_search.cli.progress import Bar
    from siamese_search.io.resources import stop_on_signals

    place: dict[str, Any] = {"store": options.store, "gallery": options.gallery}
    if drop_old and options.model is None and not options.keep_vectors:
        return _drop_old(json=json, **place)
    if options.keep_vectors and options.model is not None:
        raise UsageError("--keep-vectors takes no --model: the vectors stay those of the gallery's own")
    try:
        with Bar("reindex", "images") as bar, stop_on_signals() as stop:
            summary = maintenance.reindex(options.model, options=options, progress=bar.update, stop=stop)
    except KeyboardInterrupt:
        note("sss: interrupted; the gallery is as it was, and the same command goes on from here")
        return EXIT_INTERRUPTED
    for failure in summary.dropped:
        warn(f"dropped {failure.shown}: {failure.reason}")
    if drop_old:
        maintenance.drop_old(**place)
    if json:
        write_json(summary.to_json())
    else:
        before = "deleted" if drop_old else "kept for `sss rollback` until `sss reindex --drop-old`"
        calibration = {
            "kept": "\nits calibration is kept",
            "dropped": "\nits calibration was of the former model and stays with that; measure one: sss calibrate",
        }.get(summary.calibration or "", "")
        write_text(
            f"{summary.images} images, {summary.embedded} of them embedded now ({summary.seconds:.1f} s)\n"
            f"gallery '{summary.collection}' in {safe(summary.store)}: now by {safe(summary.model)},"
            f" was by {safe(summary.former_model)}\n"
            f"the former vectors are {before}{calibration}"
        )
    return EXIT_PARTIAL if summary.dropped else EXIT_DONE


def _drop_old(*, json: bool, **place: Any) -> int:
    from siamese_search.api import maintenance

    count = maintenance.drop_old(**place)
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

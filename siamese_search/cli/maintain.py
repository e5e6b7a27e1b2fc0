"""In other vectors (``sss reindex``), in those from before (``rollback``), or elsewhere (``push, pull, export``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from siamese_search import api
from siamese_search.cli.options import Place, insecure_option, json_flag, json_option, place_options
from siamese_search.cli.output import interrupted, note, safe, warn, write_answer
from siamese_search.cli.progress import Bar
from siamese_search.errors import EXIT_DONE, EXIT_PARTIAL, UsageError, amount
from siamese_search.io.resources import stop_on_signals
from siamese_search.maintenance.options import ReindexOptions
from siamese_search.options import click_option, click_options

if TYPE_CHECKING:
    from siamese_search.api.maintenance import CopySummary

_REINDEX_EPILOG = """\b
Examples:
  sss reindex --model runs/first  embed the images again, with your own model
  sss reindex --model bundled     back to the model that comes along
  sss rollback                    back to the vectors from before, at once
  sss reindex --drop-old          delete the vectors from before: no way back
  sss reindex --keep-vectors --storage float16 --quantise int4
                                  the same vectors in less space
"""

_ROLLBACK_EPILOG = """\b
Examples:
  sss rollback                    undo the last `sss reindex`
  sss rollback --gallery station  of another gallery
"""


@click.command("reindex", epilog=_REINDEX_EPILOG)
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
    place: dict[str, Any] = {"store": options.store, "gallery": options.gallery}
    if drop_old and options.model is None and not options.keep_vectors:
        count = api.drop_old(**place)
        write_answer({"generations_dropped": count}, f"{amount(count, 'former generation')} deleted", json=json)
        return EXIT_DONE
    if options.keep_vectors and options.model is not None:
        raise UsageError("--keep-vectors takes no --model: the vectors stay those of the gallery's own")
    try:
        with Bar("reindex", "images") as bar, stop_on_signals() as stop:
            summary = api.reindex(options.model, options=options, progress=bar.update, stop=stop)
    except KeyboardInterrupt:
        return interrupted("; the gallery is as it was, and the same command goes on from here")
    for failure in summary.dropped:
        warn(f"dropped {failure.shown}: {failure.reason}")
    if drop_old:
        api.drop_old(**place)
    before = "deleted" if drop_old else "kept for `sss rollback` until `sss reindex --drop-old`"
    calibration = {
        "kept": "\nits calibration is kept",
        "dropped": "\nits calibration was of the former model and stays with that; measure one: sss calibrate",
    }.get(summary.calibration or "", "")
    text = (
        f"{amount(summary.images, 'image')}, {summary.embedded} of them embedded now ({summary.seconds:.1f} s)\n"
        f"gallery '{summary.collection}' in {safe(summary.store)}: now by {safe(summary.model)},"
        f" was by {safe(summary.former_model)}\nthe former vectors are {before}{calibration}"
    )
    write_answer(summary.to_json(), text, json=json)
    return EXIT_PARTIAL if summary.dropped else EXIT_DONE


@click.command("rollback", epilog=_ROLLBACK_EPILOG)
@place_options
@json_option
def rollback_command(store: str | None, gallery: str | None, json: bool) -> None:
    """Put the vectors from before the last reindex back in their place, in one step.

    The newer ones are kept: a second rollback undoes the first. Images ingested since the reindex are in the
    newer vectors only; ingest them again where they are wanted.
    """
    now, before = api.rollback(store=store, gallery=gallery)
    told = {"model": now.name or now.fingerprint, "former_model": before.name or before.fingerprint}
    names = [f"{safe(one.name or one.fingerprint[:12])} ({safe(one.fingerprint[:12])})" for one in (now, before)]
    write_answer(told, f"now by {names[0]}, was by {names[1]}", json=json)


_PUSH_EPILOG = """\b
Examples:
  sss push http://localhost:6333  the gallery in use, to a server
  sss push /mnt/backup/store      to another directory
"""

_PULL_EPILOG = """\b
Examples:
  sss pull http://localhost:6333                    into ./.sss
  sss pull http://localhost:6333 --gallery station  another gallery
"""

_EXPORT_EPILOG = """\b
Examples:
  sss export gallery.parquet                    typed columns
  sss export labels.csv --no-vectors            to edit, for `sss label`
  sss export night.npz --where night=true       numpy.load(), no pickle
  sss export for-fiftyone --format fiftyone     a FiftyOneDataset directory

\b
FiftyOne reads the last one with
  fiftyone.Dataset.from_dir("for-fiftyone", dataset_type=fiftyone.types.FiftyOneDataset)
"""


@click.command("push", epilog=_PUSH_EPILOG)
@click.argument("to", type=click.Path(), metavar="URL|DIR")
@place_options
@json_option
def push_command(to: str, store: str | None, gallery: str | None, json: bool) -> int:
    """Copy a gallery, vectors and all, into the store URL|DIR under the same name.

    What is there already is not sent again, so the same command goes on where it was interrupted; images and labels
    by hand that only the other store has stay. The copy is checked by count, and a sample of its vectors bit by bit.
    """
    return _copied("push", lambda **how: api.push(to, store=store, gallery=gallery, **how), json)


def _copied(title: str, copy: Callable[..., CopySummary], json: bool) -> int:
    """A push or a pull with its progress, its answer and its exit code."""
    try:
        with Bar(title, "images") as bar, stop_on_signals() as stop:
            summary = copy(progress=bar.update, stop=stop)
    except KeyboardInterrupt:
        return interrupted("; what was copied is kept, and the same command goes on from there")
    report = summary.report
    extra = f", {report.extra:,} only there" if report.extra else ""
    text = (
        f"{amount(report.points, 'image')}: {report.copied:,} copied, {report.kept:,} there already{extra}"
        f" ({summary.seconds:.1f} s); {amount(report.verified, 'vector')} compared"
        f"{', its calibration too' if report.calibrated else ''}\n"
        f"gallery '{safe(summary.gallery)}' from {safe(summary.source)} to {safe(summary.target)}"
    )
    write_answer(summary.to_json(), text, json=json)
    return EXIT_DONE


@click.command("pull", epilog=_PULL_EPILOG)
@click.argument("source", type=click.Path(), metavar="URL|DIR")
@place_options
@json_option
def pull_command(source: str, store: str | None, gallery: str | None, json: bool) -> int:
    """Copy a gallery, vectors and all, out of the store URL|DIR into the one in use, under the same name.

    As `sss push` the other way: resumable, and checked in the end. Searching it needs the gallery's model here.
    """
    return _copied("pull", lambda **how: api.pull(source, store=store, gallery=gallery, **how), json)


@click.command("export", epilog=_EXPORT_EPILOG)
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--format",
    type=click.Choice(["parquet", "npz", "csv", "jsonl", "fiftyone"]),
    help="By default what the name of OUT says.",
)
@click_option(Place, "where")
@click.option("--no-vectors", is_flag=True, help="Leave the vectors out.")
@place_options
@json_flag
def export_command(
    out: Path,
    format: str | None,
    where: tuple[str, ...],
    no_vectors: bool,
    store: str | None,
    gallery: str | None,
    json: bool,
) -> None:
    """Write all points of a gallery, labels and vectors, to OUT: .parquet, .npz, .csv, .jsonl, or for FiftyOne.

    OUT gets its name when it is whole. Memory does not grow with the gallery. Images are not copied.
    """
    with Bar("export", "images") as bar:
        done = api.export(
            out, format=format, where=where, vectors=not no_vectors, store=store, gallery=gallery, progress=bar.update
        )
    if done["left_out"]:
        warn(f"{amount(done['left_out'], 'image')} left out: the gallery does not know their path")
    write_answer(done, f"{amount(done['points'], 'image')} written to {safe(out)}", json=json)
    if done["format"] == "fiftyone" and not json:
        note(f"load it with: fiftyone.Dataset.from_dir({safe(out)!r}, dataset_type=fiftyone.types.FiftyOneDataset)")

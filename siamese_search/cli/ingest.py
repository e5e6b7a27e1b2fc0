"""``sss ingest``: directories of images, lists and buckets into a gallery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from siamese_search.cli.options import (
    Positive,
    embedding_device_option,
    json_option,
    layout_option,
    storage_options,
    store_options,
)
from siamese_search.cli.output import describe_ingest, note, warn, write_json, write_text
from siamese_search.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_PARTIAL, UsageError

if TYPE_CHECKING:
    from ingest.distributed.session import RayOptions
    from ingest.pipeline import Prune
    from ingest.summary import IngestSummary, Progress
    from siamese_search.model.embedder import Device


EPILOG = """\b
Examples:
  sss ingest photos/                        embed every image under photos/ into ./.sss
  sss ingest cam1/ cam2/ --gallery station  two directories into a gallery of their own
  sss ingest people.csv                     paths, identities and metadata from a CSV
  sss ingest /mnt/a --source nas            the same images wherever they are mounted
  sss ingest photos/ --checksum --prune     after files were moved and deleted
  sss ingest photos/ --shard 0/4            the first quarter; 1/4 to 3/4 on other machines
  sss ingest inbox/ --watch                 go on, as files come and go
  sss ingest photos/ --engine ray           on the machines of a Ray cluster
  sss ingest s3://bucket/people             from object storage, or a list of URLs at https://

Run it again at any time: unchanged files are skipped, changed ones replaced. A file is unchanged
while its size and time are; with --checksum, while its content is.
"""


@click.command("ingest", epilog=EPILOG, short_help="Embed directories of images into a gallery.")
@click.argument("directories", metavar="DIR...", nargs=-1, required=True)
@store_options
@layout_option
@click.option("--source", metavar="NAME", help="Name of the source.  [default: the directory's full path]")
@click.option("--batch-size", type=Positive(), metavar="N", help="Images per forward pass.  [default: 64]")
@click.option("--threads", type=click.IntRange(min=0), metavar="N", help="CPU threads; 0 takes all.")
@embedding_device_option
@click.option("--reembed", is_flag=True, help="Embed everything again, unchanged files too.")
@click.option(
    "--checksum",
    is_flag=True,
    help="Compare files by content, not by time; moved ones keep their point. Reads every file.",
)
@click.option("--prune", is_flag=True, help="Remove images whose file under DIR has gone.")
@click.option(
    "--prune-anyway",
    is_flag=True,
    help="The same, even where it is over a fifth of them or some cannot be looked for.",
)
@click.option("--follow-links", is_flag=True, help="Follow symbolic links to folders, and out of DIR.")
@storage_options
@click.option(
    "--shard",
    metavar="I/N",
    help="Only part I (from 0) of N, by a hash of each file's name; auto/N in an indexed Kubernetes job.",
)
@click.option("--failures", metavar="FILE", help="List every skipped file there, as lines of JSON.")
@click.option(
    "--engine",
    type=click.Choice(["process", "ray"]),
    default="process",
    help="Where the work is done: in this process, or by the workers of a Ray cluster ([ray] extra).",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="With --engine ray: a running cluster.  [default: RAY_ADDRESS, else one on this machine]",
)
@click.option(
    "--workers",
    type=Positive(),
    metavar="N",
    help="With --engine ray.  [default: one per GPU, else one per --threads CPUs, 4 by default]",
)
@click.option("--watch", is_flag=True, help="Go on: ingest what is new or changed, remove what is deleted.")
@click.option(
    "--rescan-minutes",
    type=click.FloatRange(min=0),
    default=60.0,
    metavar="N",
    help="With --watch: time between full scans, which find what was missed; 0 for never.",
)
@click.option("--poll", is_flag=True, help="With --watch: for network shares, which tell nobody of changes.")
@json_option
def ingest_command(
    directories: tuple[str, ...],
    store: str | None,
    gallery: str | None,
    model: str | None,
    layout: str,
    source: str | None,
    batch_size: int | None,
    threads: int | None,
    device: Device,
    reembed: bool,
    checksum: bool,
    prune: bool,
    prune_anyway: bool,
    follow_links: bool,
    storage: str | None,
    quantise: str | None,
    shard: str | None,
    failures: str | None,
    engine: Literal["process", "ray"],
    address: str | None,
    workers: int | None,
    watch: bool,
    rescan_minutes: float,
    poll: bool,
    json: bool,
) -> int:
    """Embed the images under each DIR (a directory, a .csv file, or a URL) into a gallery.

    What is there already is kept: only new and changed files are embedded. Files that cannot be read are
    named, counted and skipped (exit code 3), and so are pipes, devices, and links to folders and out of DIR.
    Ctrl-C finishes the batch in hand; the same command goes on.

    With --watch a signal is how it ends, with exit code 0 once the first ingest is complete.
    """
    cluster = _cluster(engine, address, workers, watch)
    pruning: Prune = "anyway" if prune_anyway else "safe" if prune else "no"
    if watch:
        if shard is not None:
            raise UsageError(
                "a watch has all files: leave --shard out, or watch one directory in each process"
            )
        if storage is not None or quantise is not None:
            from siamese_search.api import maintenance

            maintenance.make_gallery(
                store=store, gallery=gallery, model=model, storage=storage, quantise=quantise
            )
        from ingest.watching.watch import WatchOptions
        from siamese_search.cli.watch_screen import run_watch

        options = WatchOptions(
            layout=layout,
            source=source,
            reembed=reembed,
            checksum=checksum,
            prune=pruning,
            follow_links=follow_links,
            rescan_minutes=rescan_minutes,
            poll=poll,
        )
        return run_watch(
            directories,
            options,
            json=json,
            store=store,
            gallery=gallery,
            model=model,
            batch_size=batch_size,
            threads=threads,
            device=device,
            failures=failures,
        )
    from ingest import stop_on_signals
    from ingest.run import ingest
    from siamese_search.cli.progress import Bar

    with Bar("ingest", "images") as bar, stop_on_signals() as stop:

        def show(moment: Progress) -> None:
            extra = f"{moment.failed} failed, " if moment.failed else ""
            extra += f"bottleneck: {moment.bottleneck}" if moment.bottleneck else ""
            bar.update(moment.done, moment.total, rate=moment.images_per_second, extra=extra)

        summary = ingest(
            *directories,
            store=store,
            gallery=gallery,
            model=model,
            layout=layout,
            source=source,
            batch_size=batch_size,
            threads=threads,
            device=device,
            reembed=reembed,
            checksum=checksum,
            follow_links=follow_links,
            prune=pruning,
            shard=shard,
            failures=failures,
            storage=storage,
            quantise=quantise,
            engine=engine,
            ray=cluster,
            progress=show,
            stop=stop,
            notify=note,
        )
    for failure in summary.failures:
        warn(f"skipped {failure.path}: {failure.reason}")
    if summary.failed > len(summary.failures):
        more = summary.failed - len(summary.failures)
        warn(
            f"skipped {more} more; --failures FILE lists them all"
            if failures is None
            else f"skipped {more} more"
        )
    if summary.prune_refused is not None:
        warn(f"{summary.removed or 'nothing'} removed: {summary.prune_refused}")
    if json:
        write_json(summary.to_json())
    else:
        write_text(describe_ingest(summary))
    advice = advise(summary)
    if advice is not None:
        note(advice)
    return _exit_code(summary)


def _cluster(engine: str, address: str | None, workers: int | None, watch: bool) -> RayOptions | None:
    """The cluster's options, where there is one. Raises UsageError for options that do not go together."""
    if engine != "ray":
        if address is not None or workers is not None:
            raise UsageError("--address and --workers are for --engine ray")
        return None
    if watch:
        raise UsageError("--watch runs in one process; ingest with --engine ray, then watch without it")
    from ingest.distributed.session import RayOptions

    debug = bool(click.get_current_context().find_root().meta.get("sss.debug"))
    return RayOptions(address, workers, verbose=debug)


def advise(summary: IngestSummary) -> str | None:
    """What to do after an ingest so large that tidying the gallery up pays; a server does that by itself."""
    from siamese_search.io.location import protocol_of

    if summary.interrupted or protocol_of(summary.store) is not None:  # a server
        return None
    from siamese_search.gallery.storage import COMPACT_FROM

    if summary.new + summary.changed < COMPACT_FROM:
        return None
    return (
        "sss: a gallery of this size opens three times as fast, in a third of the memory, after: sss optimise"
    )


def _exit_code(summary: IngestSummary) -> int:
    if summary.interrupted:
        note("sss: interrupted; what was finished is kept, and the same command goes on from there")
        return EXIT_INTERRUPTED
    return EXIT_PARTIAL if summary.failed or summary.prune_refused is not None else EXIT_DONE

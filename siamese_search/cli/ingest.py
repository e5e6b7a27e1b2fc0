"""``sss ingest``: directories of images, lists and buckets into a gallery, once or as they change."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Literal

import click

from ingest.options import RayOptions, WatchOptions
from ingest.summary import IngestSummary, Observer, Progress, State
from siamese_search import api
from siamese_search.cli.options import LongCommand, insecure_option, json_option
from siamese_search.cli.output import clauses, ingested, interrupted, note, warn, warn_skipped, write_answer
from siamese_search.cli.progress import Bar
from siamese_search.errors import EXIT_DONE, EXIT_PARTIAL, UsageError
from siamese_search.gallery.storage import COMPACT_FROM
from siamese_search.io.location import protocol_of
from siamese_search.io.resources import stop_on_signals
from siamese_search.options import click_option, click_options

#: Files named for the same reason; of further ones the number is told.
_TOLD = 20
_KEPT = "; what was finished is kept, and the same command goes on from there"

EPILOG = """\b
Examples:
  sss ingest photos/                        images below photos/, to ./.sss
  sss ingest cam1/ cam2/ --gallery station  two, into a gallery of their own
  sss ingest people.csv                     paths, identities, other fields
  sss ingest photos/ --checksum --prune     after files were moved and deleted
  sss ingest photos/ --shard 0/4            1/4 to 3/4 on other machines
  sss ingest inbox/ --watch                 go on, as files come and go
  sss ingest s3://bucket/people             object storage, or a list of URLs

Run it again at any time: unchanged files are skipped, changed ones replaced. A file is unchanged
while its size and time are; with --checksum, while its content is.
"""


#: What a first ingest needs; watching, shards, Ray and storage are behind --help-all.
_OFTEN = (
    "store", "gallery", "model", "layout", "pattern", "source", "batch_size", "threads", "device", "checksum", "prune",
    "watch",
)  # fmt: skip


@click.command("ingest", cls=LongCommand, often=_OFTEN, epilog=EPILOG)
@click.argument("directories", type=click.Path(), metavar="DIR...", nargs=-1, required=True)
@click_options(
    WatchOptions,
    after={
        "store": [insecure_option],
        "engine": [click_option(RayOptions, "address"), click_option(RayOptions, "workers")],
    },
)
@json_option
def ingest_command(
    directories: tuple[str, ...], options: WatchOptions, address: str | None, workers: int | None, json: bool
) -> int:
    """Embed the images under each DIR (a directory, a .csv file, or a URL) into a gallery.

    What is there already is kept: only new and changed files are embedded. Images that cannot be read or do not fit
    the layout are named, counted and skipped (exit code 3), and so are pipes, devices, links to folders and out of
    DIR, and the folders in which systems keep thumbnails and deleted files. Hidden files are left alone.
    Ctrl-C finishes the batch in hand; the same command goes on.

    With --watch a signal is how it ends, with exit code 0 once the first ingest is complete.
    """
    cluster = _cluster(options, address, workers)
    if options.watch:
        from ingest.run import watch

        with Bar("ingest", "images") as bar, stop_on_signals() as stop:
            complete = watch(directories, options, WatchScreen(bar, json=json), stop)
        return EXIT_DONE if complete else interrupted(_KEPT)
    with Bar("ingest", "images") as bar, stop_on_signals() as stop:

        def show(moment: Progress) -> None:
            extra = f"{moment.failed} failed, " if moment.failed else ""
            extra += f"bottleneck: {moment.bottleneck}" if moment.bottleneck else ""
            bar.update(moment.done, moment.total, rate=moment.images_per_second, extra=extra)

        summary = api.ingest(*directories, options=options, ray=cluster, progress=show, stop=stop, notify=note)
    told: Counter[str] = Counter()
    for failure in summary.failures:
        told[failure.reason] += 1
        if told[failure.reason] <= _TOLD:
            warn(f"skipped {failure.shown}: {failure.reason}")
    for reason, count in told.items():
        if count > _TOLD:
            warn(f"skipped {count - _TOLD} more: {reason}")
    if summary.failed > len(summary.failures):
        hint = "; --failures FILE lists them all" if options.failures is None else ""
        warn(f"skipped {summary.failed - len(summary.failures)} more{hint}")
    if left := summary.left.gone:
        note(
            f"sss: of {left} stored image{'s' * (left != 1)} the file has gone, such as {summary.left.gone_example}:"
            " they are found until --prune removes them"
        )
    if left := summary.left.unlisted:
        note(
            f"sss: {left} stored image{'s' * (left != 1)} of the same folder are in no row, such as"
            f" {summary.left.unlisted_example}: they are found as before"
        )
    if summary.prune_refused is not None:
        warn(f"{summary.removed or 'nothing'} removed: {summary.prune_refused}")
    write_answer(summary.to_json(), ingested(summary), json=json)
    if advice := advise(summary):
        note(advice)
    embedded = summary.embedded and not summary.interrupted
    if embedded and (reason := api.no_verdicts(store=options.store, gallery=options.gallery)):
        for line in clauses(f"sss: {reason}").split("\n"):
            note(line)
    if summary.interrupted:
        return interrupted(_KEPT)
    return EXIT_PARTIAL if summary.failed or summary.prune_refused is not None else EXIT_DONE


def _cluster(options: WatchOptions, address: str | None, workers: int | None) -> RayOptions | None:
    """The cluster's options, where there is one. Raises UsageError for options that do not go together."""
    if options.engine != "ray":
        if address is not None or workers is not None:
            raise UsageError("--address and --workers are for --engine ray")
        return None
    if options.watch:
        raise UsageError("--watch runs in one process; ingest with --engine ray, then watch without it")
    debug = bool(click.get_current_context().find_root().meta.get("sss.debug"))
    return RayOptions(address, workers, verbose=debug)


def advise(summary: IngestSummary) -> str | None:
    """What to do after an ingest so large that tidying the gallery up pays; a server does that by itself."""
    few = summary.new + summary.changed < COMPACT_FROM
    if few or summary.interrupted or protocol_of(summary.store) is not None:  # a server
        return None
    return "sss: a gallery of this size opens three times as fast, in a third of the memory, after: sss optimise"


class WatchScreen(Observer):
    """The summaries on stdout, everything else on stderr; a progress bar for the first ingest."""

    def __init__(self, bar: Bar, *, json: bool) -> None:
        self._bar, self._json = bar, json
        self._first = True
        self._done = self._failed = 0  # of the parts of the first ingest that are over
        self._last: Progress | None = None

    def said(self, level: Literal["info", "warning"], event: str, message: str) -> None:  # noqa: ARG002
        self._bar.note(message if level == "info" else f"sss: warning: {message}")

    def worked(self, summary: IngestSummary) -> None:
        names = ("new", "changed", "moved", "removed", "failed")
        told = ", ".join(f"{count} {name}" for name in names if (count := getattr(summary, name)))
        if told and not self._first:
            self._write(summary, f"{time.strftime('%H:%M:%S')} {told} ({summary.seconds:.1f} s)")

    def complete(self, summary: IngestSummary) -> None:
        self._bar.close()
        self._first = False
        self._write(summary, ingested(summary))
        note("sss: watching; Ctrl-C ends it")

    def _write(self, summary: IngestSummary, text: str) -> None:
        warn_skipped(summary.failures)
        write_answer(summary.to_json(), text, json=self._json, lines=True)
        sys.stdout.flush()

    def moment(self, state: State, waiting: int, progress: Progress | None = None) -> None:  # noqa: ARG002
        if not self._first or progress is None:
            return
        if self._last is not None and progress.seen < self._last.seen:  # another part has begun
            self._done += self._last.done
            self._failed += self._last.failed
        self._last = progress
        failed = self._failed + progress.failed
        self._bar.update(self._done + progress.done, None, extra=f"{failed} failed" if failed else "")

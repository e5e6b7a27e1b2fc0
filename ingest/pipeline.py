"""run_ingest(): scan → plan → decode → embed → commit, overlapped, in bounded memory.

    thread "scan"         walk and stat, at most 2 chunks of 1,000 files ahead
    thread "plan"         one gallery look-up per chunk, at most 4 batches ahead
    threads "decode"      decode, at most 2 batches ahead of the embedder
    the calling thread    embed
    thread "commit"       upsert and flush, at most 4 batches behind

The model's own threads do nearly all the work and hold no GIL; decoding fills the gaps. Each stage waits for the
next one, never for two, and an error of any of them is raised in the calling thread and ends them all.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from ingest.options import IngestOptions
from ingest.plan import Planner, beside, field_name, keep_sources, with_digests
from ingest.prune import left_behind, places_of
from ingest.prune import prune as prune_points
from ingest.scan import PlannedFile, ScannedFile, Shard, scan_files, survey_roots
from ingest.stages import Committer, Tally, embed_files, prefetch, rarely
from ingest.summary import FailureLog, IngestSummary, Progress
from siamese_search.datasets.csv_layout import CsvLayout
from siamese_search.datasets.layouts import Survey
from siamese_search.datasets.records import encode_key
from siamese_search.datasets.remote_survey import RemoteSurvey
from siamese_search.errors import DataError, UsageError, amount, printable
from siamese_search.gallery.contract import Gallery, ModelRef
from siamese_search.gallery.engine import serial
from siamese_search.io.remote import THREADS as REMOTE_THREADS
from siamese_search.io.resources import available_cpus
from siamese_search.model.embedder import Embedder
from siamese_search.options import layout_of, request

PLAN_AHEAD = 4  # batches
#: Each may hold a large photo. More than this many images in progress, a batch does not have tasks for anyway.
MOST_DECODE_THREADS = 16

#: Decodes and embeds what is planned, for the committer; False where the event came first.
Work = Callable[[Iterator[list[PlannedFile]], Committer, IngestOptions, threading.Event], bool]


def surveyed(roots: Sequence[Path | str | Survey], options: IngestOptions) -> list[Survey]:
    """:func:`survey_roots` as the options ask for it."""
    follow, base = options.follow_links, options.base()
    return survey_roots(roots, layout_of(options), follow_links=follow, images_root=base, prune=options.prune)


@request(IngestOptions)
def run_ingest(
    roots: Sequence[Path | str | Survey],
    gallery: Gallery,
    embedder: Embedder,
    *,
    options: IngestOptions,
    failures: FailureLog | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    pipeline: Work | None = None,
) -> IngestSummary:
    """Bring the gallery up to date with the images under ``roots``: directories, CSV files, URLs, or their surveys.

    Unchanged files (size, modification time, labels) are skipped; changed ones replace their point; where only labels
    or metadata changed, the stored vector is kept. An image or directory that cannot be read is named in ``failures``
    and never stops the rest; an image that was good before keeps its old point, because a file that is being written or
    a disk that fails for a moment must not cost what was known.

    failures: gets every failure, however many there are. progress: called from this thread after every step. stop: when
    set, the batch in hand is finished and committed, and the summary says ``interrupted``; the next run goes on from
    there, as after a crash. pipeline: what decodes and embeds, the CPUs or the GPU of this process by default.

    Raises DataError for a missing root, when there are no images, or when none of them can be used (naming
    three), ModelMismatchError when the gallery's vectors come from another model, and UsageError for pruning with
    checksums in a shard. A shard may be empty, and one none of whose files can be used is no error: it cannot tell
    whether the others fare better.
    """
    shard, prune = options.part, options.prune
    check_arguments(gallery, embedder, options)
    started = time.monotonic()
    surveys = surveyed(roots, options)
    remote = [survey for survey in surveys if isinstance(survey, RemoteSurvey)]
    if remote and options.checksum:
        raise UsageError(
            f"{printable(remote[0].url)}: checksums need the files on this machine; objects are compared by size, time"
            " and ETag; leave out --checksum"
        )
    if remote and not options.decode_threads:
        options = replace(options, decode_threads=REMOTE_THREADS)
    keep_sources(surveys, gallery)
    places = places_of(surveys, options.source, listed=prune != "no")
    waves = _in_waves(surveys, options.source)
    summary = ingest_files(
        [scan_files(wave, options.source, shard) for wave in waves],
        gallery,
        pipeline or in_process(embedder),
        options,
        total=_total(surveys, shard),
        failures=failures,
        progress=progress,
        stop=stop,
    )
    if not summary.interrupted:
        if shard is None and any(survey.images != 0 for survey in surveys):
            names = ", ".join(survey.shown for survey in surveys)
            if summary.seen == 0:
                raise DataError(f"{names}: no images found; check the path, or see the formats in: sss ingest --help")
            if summary.failed == summary.seen:
                first = "; ".join(f"{failure.path}: {failure.reason}" for failure in summary.failures[:3])
                raise DataError(f"{names}: none of the {amount(summary.seen, 'image')} can be used: {first}")
        # Fields that one odd cell had made text, and that are numbers in their tables again, become numbers again.
        kinds = [item for one in surveys if isinstance(one.rows, CsvLayout) for item in one.rows.kinds.items()]
        fields = gallery.fields() if kinds else {}
        for name, kind in kinds:
            if kind != "str" and fields.get(field_name(name)) == "str":
                gallery.narrow(field_name(name), kind)
        if prune != "no":
            pruned = prune_points(gallery, places, anyway=prune == "anyway", shard=shard)
            summary.removed, summary.prune_refused = pruned.removed, pruned.refused
        if shard is None:
            for survey in surveys:
                if survey.images == 0 and prune == "no":
                    summary.seen += 1
                    summary.fail(survey.root, survey.detection.reason)
            # Of several waves an image is counted in each that it is in: then every point's file is looked for.
            known = summary.stored if len(waves) == 1 else 0
            left = left_behind(gallery, places, surveys, known)
            summary.left = left if prune == "no" else replace(left, gone=0, gone_example="")
    summary.seconds = time.monotonic() - started
    return summary


def ingest_files(
    waves: Iterable[Iterable[list[ScannedFile]]],
    gallery: Gallery,
    work: Work,
    options: IngestOptions,
    *,
    total: int | None = None,
    failures: FailureLog | None,
    progress: Callable[[Progress], None] | None,
    stop: threading.Event | None,
) -> IngestSummary:
    """The pipeline below the scan: bring the gallery up to date with these files.

    waves: what one has stored, the next finds. Each is of chunks, from :func:`scan_files` or any lists of at most some
    thousand files; computed in a thread of its own, two chunks ahead. total: of files, where known, for the progress.
    The rest is as :func:`run_ingest` says, but no files at all, or none that can be used, is no error.
    """
    stop = stop or threading.Event()
    model, log = gallery.model, None if failures is None else failures.write
    summary = IngestSummary(gallery.name, gallery.store, model.name or model.fingerprint, log=log)
    tally = Tally(summary, total, progress)
    shared = serial(gallery)
    for chunks in waves:
        if options.checksum:
            chunks = map(with_digests, chunks)
        planner = Planner(shared, tally, reembed=options.reembed, checksum=options.checksum)
        with (
            rarely(),
            closing(prefetch(planner.batches(chunks, options.batch()), PLAN_AHEAD)) as batches,
            Committer(shared, tally) as committer,
        ):
            summary.interrupted = not work(batches, committer, options, stop)
        if summary.interrupted:
            break
    tally.report()
    return tally.finish()


def in_process(embedder: Embedder) -> Work:
    """The work in this process, on its CPUs or its GPU."""

    def work(
        batches: Iterator[list[PlannedFile]], committer: Committer, options: IngestOptions, stop: threading.Event
    ) -> bool:
        threads = options.decode_threads or min(MOST_DECODE_THREADS, available_cpus())
        committer.tally.clock.workers["decode"] = threads
        return embed_files(batches, embedder, committer.put, committer.tally, threads=threads, stop=stop)

    return work


def check_arguments(gallery: Gallery, embedder: Embedder, options: IngestOptions) -> None:
    """Refuse what cannot work before anything is read, such as a gallery of another model than the embedder's."""
    if options.decode_threads < 0:
        raise UsageError(f"the number of decode threads must be at least 0, not {options.decode_threads}")
    ModelRef(embedder.fingerprint, embedder.dim).check(gallery.model, f"gallery {gallery.name!r}")


def _in_waves(surveys: Sequence[Survey], source: str | None) -> list[list[Survey]]:
    """The roots, those that lie in others after these: then an image in both is there when it is met again."""
    bases = [encode_key(os.path.realpath(one.detection.base)) for one in surveys if not isinstance(one, RemoteSurvey)]
    if source is not None and (nested := next((one for one in bases if beside(one, bases)), None)):
        raise UsageError(
            f"{nested} and {beside(nested, bases)[0]} lie in each other: under one source the images in both would be"
            " there twice; name one of them, or leave out --source"
        )
    sources = [source or survey.source for survey in surveys]
    waves: dict[int, list[Survey]] = {}
    for own, survey in zip(sources, surveys, strict=True):
        depth = sum(len(outer) < len(own) for outer in beside(own, set(sources)))
        waves.setdefault(depth, []).append(survey)
    return [waves[depth] for depth in sorted(waves)]


def _total(surveys: Sequence[Survey], shard: Shard | None) -> int | None:
    """How many images the surveys found (of a shard: about); ``None`` where one of them did not count."""
    counts = [survey.images for survey in surveys if survey.images is not None]
    return None if len(counts) < len(surveys) else round(sum(counts) / (1 if shard is None else shard.count))

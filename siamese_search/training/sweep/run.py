"""Running a sweep: each run trained or continued, then measured on the same held-out identities."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol as Structure

from siamese_search.datasets.records import Failure
from siamese_search.errors import SiameseSearchError, in_words
from siamese_search.evaluation.evaluate import embed_records
from siamese_search.evaluation.protocol import Protocol
from siamese_search.evaluation.retrieval import retrieval_metrics
from siamese_search.evaluation.verification import pair_scores
from siamese_search.io.files import atomic_path
from siamese_search.model.bundle import META_NAME, Bundle, load_bundle
from siamese_search.model.embedder import Device, Embedder, load_embedder
from siamese_search.options import Progress
from siamese_search.training.augment import view_recipe
from siamese_search.training.config import TrainConfig
from siamese_search.training.data import HoldOut
from siamese_search.training.directory import CHECKPOINT_NAME, RUN_NAME, TEACHER_NAME, alone
from siamese_search.training.run import Reporter, Silent, TrainRequest, resume, train
from siamese_search.training.sweep.record import PLOT_NAME, Figures, Sweep, SweepRun, held_out_protocol

#: Points of each ROC curve that are kept for the plot.
_ROC_POINTS = 300


class SweepReporter(Structure):
    """How a sweep tells what it does."""

    def begin(self, run: SweepRun, number: int, total: int) -> Reporter:
        """The ``number``-th of ``total`` runs begins or goes on; what is returned hears of training and measuring."""

    def end(self, run: SweepRun) -> None:
        """The run is done or has failed, and that has been written."""


class SilentSweep:
    """A reporter that says nothing."""

    def begin(self, run: SweepRun, number: int, total: int) -> Reporter:  # noqa: ARG002
        return Silent()

    def end(self, run: SweepRun) -> None: ...


def run_sweep(
    sweep: Sweep,
    *,
    device: Device = "auto",
    threads: int = 0,
    reporter: SweepReporter | None = None,
    stop: threading.Event | None = None,
    draw: Callable[[Sweep, Path], None] | None = None,
) -> Sweep:
    """Bring every run of ``sweep`` to its end: finished ones are left alone, the others trained or continued.

    A run that fails, for whatever reason, is recorded so and does not stop the others; the next call tries it again.
    After each run the record and the table are written, and ``draw`` is called with the place of the plot. stop: ends
    the run in hand after its batch (KeyboardInterrupt, all kept). Raises TrainingError where another process does it.
    """
    reporter, stop = reporter or SilentSweep(), stop or threading.Event()
    with alone(sweep.directory, "sweep"):
        sweep.save()
        left = [run for run in sweep.runs if run.state != "done" or not (sweep.path_of(run) / META_NAME).exists()]
        if draw is not None and not left:  # whoever was killed has not drawn it
            draw(sweep, sweep.directory / PLOT_NAME)
        for run in left:
            if stop.is_set():
                raise KeyboardInterrupt
            hears = reporter.begin(run, sweep.runs.index(run) + 1, len(sweep.runs))
            _bring_to_its_end(sweep, run, device, threads, hears, stop)
            sweep.save()
            if draw is not None:
                draw(sweep, sweep.directory / PLOT_NAME)
            reporter.end(run)
    return sweep


def _bring_to_its_end(
    sweep: Sweep, run: SweepRun, device: Device, threads: int, hears: Reporter, stop: threading.Event
) -> None:
    """Train and measure one run; whatever goes wrong becomes its ``reason``."""

    def measuring(done: int, total: int) -> None:
        if stop.is_set():
            raise KeyboardInterrupt  # the bundle is there; only the measuring is done again
        hears.decoding(done, total, "measuring")

    try:
        bundle = _train(sweep, run, device, threads, hears, stop)
        embedder = load_embedder(bundle, device=device, threads=threads)
        run.figures, failed = measure(embedder, sweep.protocol, threads=threads, progress=measuring)
    except Exception as error:  # a night's work must not end with one run, whatever is wrong with it
        strange = not isinstance(error, SiameseSearchError)  # none of ours: of what kind it is, too
        run.state, run.figures, run.reason = "failed", None, in_words(error, 300, named=strange)
        return
    training = bundle.meta["training"]
    run.state, run.reason, run.fingerprint = "done", None, bundle.fingerprint
    run.epochs, run.seconds = int(training["epochs"]), float(training["seconds"])
    _add_failures(sweep, failed)


def _train(
    sweep: Sweep, run: SweepRun, device: Device, threads: int, reporter: Reporter, stop: threading.Event
) -> Bundle:
    """The run's bundle: as it is, continued from its checkpoint, or trained from the beginning."""
    out = sweep.path_of(run)
    if (out / META_NAME).exists():
        return load_bundle(str(out))
    if (out / RUN_NAME).exists() and (out / CHECKPOINT_NAME).exists():
        result = resume(out, reporter, stop, device, threads)
    else:
        (out / RUN_NAME).unlink(missing_ok=True)  # stopped before its first checkpoint: begun again
        _share_teacher(sweep, run, out)
        request = TrainRequest(
            data=sweep.data,
            out=out,
            config=run.point.config,
            layout=sweep.layout,
            holdout=HoldOut(ids=tuple(sweep.heldout_identities)),
            init=sweep.init,
            teacher=Path(sweep.teacher) if sweep.teacher else None,
            device=device,
            threads=threads,
        )
        result = train(request, reporter, stop)
    _add_failures(sweep, result.failed)
    return result.bundle


def _add_failures(sweep: Sweep, failed: Sequence[Failure]) -> None:
    known = {failure.path for failure in sweep.failed}
    sweep.failed += [failure for failure in failed if failure.path not in known]


def _share_teacher(sweep: Sweep, run: SweepRun, out: Path) -> None:
    """Give a new run the teacher's vectors that another one asked for: the images are the same, and so the views."""

    def views(config: TrainConfig) -> tuple[int, str]:
        return config.teacher_views, view_recipe(config) if config.teacher_views else ""

    alike = (other for other in sweep.runs if views(other.point.config) == views(run.point.config))
    found = next((path for other in alike if (path := sweep.path_of(other) / TEACHER_NAME).exists()), None)
    if sweep.teacher and found and found.parent != out:
        with atomic_path(out / TEACHER_NAME) as aside:
            shutil.copyfile(found, aside)


def measure(
    embedder: Embedder, protocol: Protocol, *, threads: int = 0, progress: Progress | None = None
) -> tuple[Figures, Sequence[Failure]]:
    """Embed the images of ``protocol``, rank and verify them in memory, all against all.

    Returns the figures and the images that cannot be read, which take no part.
    Raises DataError where no image can be read or no query is left with a match.
    """
    embedded = embed_records(protocol.gallery, embedder, threads=threads, progress=progress)
    plan = held_out_protocol([protocol.gallery[row] for row in embedded.rows.tolist()])
    vectors = embedded.vectors  # [g, d]; the queries are some of the same rows
    ranking = retrieval_metrics(vectors[plan.same_image], vectors, plan)
    pairs = pair_scores(vectors, plan)
    verification, curve = pairs.metrics(), pairs.roc(_ROC_POINTS)
    false, true = ([round(r, 7) for r in rates.tolist()] for rates in (curve.false_accept_rate, curve.true_accept_rate))
    figures = Figures(ranking.rank1, ranking.mAP, verification.auc, verification.tar_at_far, (false, true))
    return figures, embedded.failed

"""RayPipeline: the work below the scan on a cluster, with the summary, progress and failures of one process."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain

from ingest.distributed.session import Cluster, session
from ingest.distributed.worker import BundleCopy, EmbedWorker, Job, Outcome, Target, bundle_files, pack_work
from ingest.options import IngestOptions, RayOptions
from ingest.pipeline import MOST_DECODE_THREADS
from ingest.scan import PlannedFile
from ingest.stages import Committer, Tally
from siamese_search.errors import ClusterError, amount, printable
from siamese_search.model.bundle import Bundle
from siamese_search.model.embedder import Device
from siamese_search.settings import Settings

#: Units under way per worker: one in hand, one waiting beside it, one on its way there.
_UNITS_PER_WORKER = 3
#: Batches per unit at most: on a CPU a unit should not take many seconds, on a GPU not only a few milliseconds.
_MOST_BATCHES = {"cpu": 4, "gpu": 16}
#: Passes over what is left that may bring nothing before the cluster is given up.
_MOST_FRUITLESS = 3
_TICK_SECONDS = 0.2

_log = logging.getLogger(__name__)


class RayPipeline:
    """For :func:`ingest.pipeline.run_ingest`: what is planned here is decoded and embedded on a Ray cluster's workers.

    Ray is not even imported before something has to be embedded. A worker that dies is started again and its units
    are done again, elsewhere if need be; a point id depends on (source, key) alone, so that what is done twice is there
    once. What Ray loses for good is fed again, until three passes in turn bring nothing.

    bundle: the model; workers that lack it get a copy. threads: CPUs per worker, 0 chooses. places: directories that
    every machine must see. settings: the user's, for workers that write to a server themselves. by_workers: whether
    they do; by default where the store is a server, because an embedded one has a single holder.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: RayOptions,
        settings: Settings,
        *,
        device: Device = "auto",
        threads: int = 0,
        places: Iterable[str] = (),
        by_workers: bool | None = None,
    ) -> None:
        options.check()
        self._bundle, self._options, self._settings = bundle, options, settings
        self._device, self._threads, self._places = device, threads, tuple(places)
        self._by_workers = by_workers

    def __call__(
        self, batches: Iterator[list[PlannedFile]], committer: Committer, options: IngestOptions, stop: threading.Event
    ) -> bool:
        """``decode_threads``: of a worker. Raises ClusterError, and as :func:`~ingest.distributed.session.session`."""
        gallery, tally = committer.gallery, committer.tally
        summary, workers = tally.summary, tally.clock.workers
        by_workers = gallery.shared if self._by_workers is None else self._by_workers
        first = _first(batches, tally, stop)
        if first is None or stop.is_set():
            return not stop.is_set()
        began = time.time()
        with session(self._options, self._device, self._threads) as cluster:
            target = Target(gallery.store, gallery.name, gallery.model, self._settings) if by_workers else None
            job = self._job(cluster, options, target)
            workers["embed"] = cluster.workers
            workers["decode"] = cluster.workers * job.decode_threads
            if by_workers:
                workers["commit"] = cluster.workers
            run = _Run(cluster, job, committer)
            complete = run.run(chain([first], batches), stop)
        summary.workers = cluster.workers
        summary.startup_seconds += max(0.0, run.ready - began) if run.ready else 0.0
        return complete

    def _job(self, cluster: Cluster, options: IngestOptions, target: Target | None) -> Job:
        import ray

        bundle = self._bundle
        return Job(
            bundle=BundleCopy(str(bundle.path), bundle.fingerprint, ray.put(bundle_files(bundle))),
            device="cuda" if cluster.gpus else "cpu" if self._device == "auto" else self._device,
            threads=cluster.cpus,
            decode_threads=options.decode_threads or min(MOST_DECODE_THREADS, cluster.cpus),
            batch_size=options.batch(),
            places=self._places,
            target=target,
        )


def _first(batches: Iterator[list[PlannedFile]], tally: Tally, stop: threading.Event) -> list[PlannedFile] | None:
    """The first batch that has something to embed."""
    for batch in batches:
        tally.report()
        if batch or stop.is_set():
            return batch
    return None


class _Run:
    """One job on one cluster: a thread feeds, a thread reads what comes back, and the calling one counts it."""

    def __init__(self, cluster: Cluster, job: Job, committer: Committer) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from ingest.distributed.feed import Feed

        self._cluster, self._job, self._tally, self._committer = cluster, job, committer.tally, committer
        self._here = NodeAffinitySchedulingStrategy(cluster.node, soft=False)
        self._feed = ray.remote(Feed).options(num_cpus=0, scheduling_strategy=self._here).remote()
        #: Units without an outcome, with their files; guarded, as what follows, by ``_room``.
        self._open: dict[int, list[PlannedFile]] = {}
        self._settled = -1  # the latest unit that has an outcome
        self._fed = False
        self._failed: BaseException | None = None
        self._room = threading.Condition()
        self._over = threading.Event()
        self.ready = 0.0

    def run(self, batches: Iterator[list[PlannedFile]], stop: threading.Event) -> bool:
        """Embed all batches; False where ``stop`` came first, and only those in hand were."""
        feeding = threading.Thread(target=self._feed_all, args=(batches,), name="feed", daemon=True)
        feeding.start()
        try:
            fruitless = 0
            while True:
                with self._room:
                    before, left = self._settled, len(self._open)
                    if self._failed is not None:
                        raise self._failed
                    if self._fed and not left and not self._over.is_set():
                        return True
                if stop.is_set():
                    return False
                error = self._pass(stop)
                if error is not None:
                    _log.info("a pass over what is left ended: %s", error)
                with self._room:
                    fruitless = 0 if self._settled > before or len(self._open) < left else fruitless + 1
                if fruitless >= _MOST_FRUITLESS:
                    raise self._gave_up(error)
        finally:
            self._over.set()
            with self._room:
                self._room.notify_all()
            self._halt()
            feeding.join()

    def _gave_up(self, error: BaseException | None) -> ClusterError:
        with self._room:
            left = sum(map(len, self._open.values()))
            first = next(iter(self._open.values()), None)
        which = f", the first is {printable(first[0].scanned.record.path)}" if first else ""
        # Of a traceback from another machine the last line says what happened.
        lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
        reason = printable(lines[-1][:300]) if lines else "its workers do not answer"
        return ClusterError(
            f"the Ray cluster gave up with {amount(left, 'image')} left{which}: {reason}; what was finished is kept,"
            " and the same command goes on from there (every machine needs this siamese-search with the [ray] extra)"
        )

    # The feeding thread.

    def _feed_all(self, batches: Iterator[list[PlannedFile]]) -> None:
        unit, files = 0, list[PlannedFile]()
        try:
            size = self._unit_size(self._tally.total)
            for batch in batches:
                files += batch
                if len(files) >= size or (not batch and files and not self._open):
                    if not self._put(unit, files):
                        return
                    unit, files = unit + 1, []
                if self._over.is_set():
                    return
            if files and self._put(unit, files):
                unit += 1
        except BaseException as error:
            with self._room:
                self._failed = error
        finally:
            with self._room:
                self._fed = True
            with suppress(Exception):
                self._feed.end.remote(unit)

    def _unit_size(self, total: int | None) -> int:
        """Images per unit: some ten units per worker where there are few images, for all to end at the same time."""
        most = _MOST_BATCHES["gpu" if self._cluster.gpus else "cpu"]
        if total is None:
            return self._job.batch_size * most
        share = total // (10 * self._cluster.workers * self._job.batch_size)
        return self._job.batch_size * max(1, min(most, share))

    def _put(self, unit: int, files: list[PlannedFile]) -> bool:
        """Feed a unit once there is room for it; False when the run is over."""
        with self._room:
            self._room.wait_for(lambda: self._over.is_set() or self._under_way() < self._limit)
            if self._over.is_set():
                return False
            self._open[unit] = files
        work = pack_work(files, whole=self._job.target is not None)
        self._feed.put.remote(unit, work)
        return True

    @property
    def _limit(self) -> int:
        return _UNITS_PER_WORKER * self._cluster.workers + 1

    def _under_way(self) -> int:
        """Units are begun in order: one that many later ones have overtaken waits for a worker that has gone."""
        return sum(unit > self._settled - 2 * self._limit for unit in self._open)

    # The calling thread, with one that reads.

    def _pass(self, stop: threading.Event) -> BaseException | None:
        """One data set, from the first open unit to the last; what made it fail, which the next pass makes up for."""
        ready: queue.Queue[Outcome | BaseException | None] = queue.Queue()
        threading.Thread(target=self._read, args=(ready,), name="outcomes", daemon=True).start()
        halting = False
        while True:
            if stop.is_set() and not halting:
                halting = True
                self._over.set()
                self._halt()
                if not self.ready:  # nothing is in hand yet, and workers may take long to start
                    return None
            with self._room:
                if self._failed is not None:
                    raise self._failed
            try:
                one = ready.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                self._tally.report()
                continue
            if not isinstance(one, Outcome):
                return one
            self._settle(one)
            self._tally.report()

    def _read(self, ready: queue.Queue[Outcome | BaseException | None]) -> None:
        try:
            for outcome in self._outcomes():
                ready.put(outcome)
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    def _outcomes(self) -> Iterator[Outcome]:
        import ray
        from ray.data import ActorPoolStrategy, DataContext, read_datasource

        from ingest.distributed.feed import Source

        context = DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.target_max_block_size = 1  # each unit stays a block of its own, and goes to the worker that is free
        context.max_errored_blocks = -1  # the next pass makes up for them
        context.wait_for_min_actors_s = -1  # who is there begins
        here = {"ray.io/node-id": self._cluster.node}  # where the feed is: a node that dies takes no unread unit along
        with DataContext.current(context):
            units = read_datasource(Source(self._feed), override_num_blocks=1, num_cpus=0, label_selector=here)
            outcomes = units.map_batches(
                EmbedWorker,
                batch_size=None,
                batch_format="pyarrow",
                zero_copy_batch=True,
                fn_constructor_args=(self._job, self._feed),
                compute=ActorPoolStrategy(size=self._cluster.workers, max_tasks_in_flight_per_actor=2),
                num_cpus=self._cluster.cpus,
                num_gpus=self._cluster.gpus or None,
            )
            # Not iter_batches(): that one wants the next block before it gives the last, and the next is fed only once
            # the last has been settled.
            for bundle in outcomes.iter_internal_ref_bundles():
                for table in ray.get(bundle.block_refs):
                    for row in range(len(table)):
                        yield Outcome.from_table(table, row)

    def _settle(self, outcome: Outcome) -> None:
        """Count a unit's outcome, once, and hand vectors to whoever commits them."""
        outcome.raise_error()
        self.ready = min(self.ready or outcome.ready, outcome.ready) if outcome.ready else self.ready
        with self._room:
            files = self._open.get(outcome.unit)
            if files is None:
                return  # done twice
            if outcome.complete:
                del self._open[outcome.unit]
                self._settled = max(self._settled, outcome.unit)
                self._room.notify_all()
        if outcome.complete:
            self._feed.settle.remote(outcome.unit)
        for stage, seconds in outcome.seconds.items():
            self._tally.clock.add(stage, seconds)
        for path, reason in outcome.failures:
            self._tally.fail(path, reason)
        self._tally.add(**outcome.counts)
        if outcome.vectors is not None and len(outcome.rows):
            self._committer.put([files[row] for row in outcome.rows], outcome.vectors)

    def _halt(self) -> None:
        import ray

        if ray.is_initialized():
            with suppress(Exception):
                self._feed.halt.remote()

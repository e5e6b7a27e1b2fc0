"""A whole adaptation: images without labels, clusters, epochs, checkpoints; the finished run is a model bundle."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_search.curation.label_table import absolute, read_label_table
from siamese_search.datasets.layouts import Dataset, load_dataset
from siamese_search.datasets.records import Failure, ImageRecord, decode_key
from siamese_search.errors import DataError, UsageError, amount, printable
from siamese_search.evaluation.calibrate import calibrate, telling_pairs
from siamese_search.io.resources import available_cpus
from siamese_search.model.bundle import Bundle, bundle_of, load_bundle
from siamese_search.model.calibration import Calibration, Looks, figures_of
from siamese_search.model.network import NetworkSpec
from siamese_search.model.weights_file import save_bundle
from siamese_search.training.clusters import ClusterTrainer, figures, renew_statistics
from siamese_search.training.config import ADAPT, SPEC, AdaptConfig, kind_of
from siamese_search.training.data import LabelledImages, PixelSource, unreadable
from siamese_search.training.directory import (
    alone,
    asked_before,
    check_same,
    nothing_left,
    plot_history,
    refuse_used,
    restore,
    start_directory,
    summary,
)
from siamese_search.training.initial import initial_network
from siamese_search.training.loop import Loop, Reporter, Silent
from siamese_search.training.trainer import training_device

#: The field of a CSV that says which images show one identity on its way past one camera.
TRACK = "track"
#: Pairs of either kind below which nothing is calibrated.
_LEAST_PAIRS = 50


@dataclass(frozen=True, slots=True)
class AdaptRequest:
    """Which images to adapt to, from which weights, into which directory. labels: a table of some identities."""

    data: Path
    out: Path
    config: AdaptConfig = ADAPT
    layout: str = "auto"
    init: str = "bundled"  # as for a training
    labels: Path | None = None
    device: str = "auto"
    threads: int = 0


@dataclass(frozen=True, slots=True)
class AdaptResult:
    """A finished run. clusters: of the finished model, int64 [n], of ``records``, whose embeddings are [n, d]."""

    bundle: Bundle
    history: list[dict[str, Any]]
    settled: bool
    records: list[ImageRecord]
    clusters: NDArray[np.int64]
    embeddings: NDArray[np.float32]
    confirmed: list[str | None]  # the identity that a person gave each, if any
    failed: list[Failure]

    @property
    def final(self) -> dict[str, float | int]:
        """What the clusters of the finished model are, as in a row of the history."""
        return figures(self.clusters, np.full(len(self.clusters), -1), _known(self.records))

    def to_json(self) -> dict[str, Any]:
        calibration = self.bundle.calibration
        return {
            "bundle": str(self.bundle.path),
            "fingerprint": self.bundle.fingerprint,
            "images": len(self.records),
            "epochs": len(self.history),
            "settled": self.settled,
            **self.final,
            "calibrated_on": calibration.data if calibration else None,
            "failed": [failure.to_json() for failure in self.failed],
        }


@dataclass
class _ClusterLoop(Loop):
    """The epochs of an adaptation: new clusters first, and the end when they settle."""

    trainer: ClusterTrainer
    config: AdaptConfig
    known: list[str | None]

    @property
    def settled(self) -> bool:
        """Twice running: good first clusters agree with the second ones before anything was learned from them."""
        told = len(self.rows) > 1 and self.config.settle < 1 and not self.trainer.novice  # appearance changes little
        return told and min(row.get("agreement", 0) for row in self.rows[-2:]) >= self.config.settle

    def finished(self) -> bool:
        return self.settled or super().finished()

    def figures(self) -> dict[str, Any]:
        memory = self.trainer.memory
        return figures(memory.labels.cpu().numpy(), memory.former.cpu().numpy(), self.known)

    def _enter_stage(self) -> None:
        self.trainer.start_epoch(self._reading("embedding to cluster"))


def adapt(request: AdaptRequest, reporter: Reporter | None = None, stop: threading.Event | None = None) -> AdaptResult:
    """Adapt from the beginning into ``request.out``, which becomes a bundle.

    ``stop`` as in a training: a checkpoint is written, KeyboardInterrupt raised, and :func:`resume` goes on.
    Raises TrainingError where the directory holds a run or nothing clusters, DataError and UsageError.
    """
    request.config.check()
    refuse_used(request.out)
    with alone(request.out, "run"), nothing_left(request.out):
        return _run(request, reporter or Silent(), stop or threading.Event(), resumed=False)


def resume(
    out: Path,
    reporter: Reporter | None = None,
    stop: threading.Event | None = None,
    device: str = "auto",
    threads: int = 0,
) -> AdaptResult:
    """Continue the run in directory ``out`` from its last checkpoint, with the options it was started with."""

    def request_of(saved: dict[str, Any], **common: Any) -> AdaptRequest:
        labels = Path(saved["labels"]) if saved["labels"] else None
        return AdaptRequest(data=Path(saved["data"]), labels=labels, **common)

    request = replace(asked_before(out, "adapt", request_of), device=device, threads=threads)
    with alone(out, "run"):
        return _run(request, reporter or Silent(), stop or threading.Event(), resumed=True)


def _run(request: AdaptRequest, reporter: Reporter, stop: threading.Event, *, resumed: bool) -> AdaptResult:
    config, out = request.config, request.out
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("sss adapt runs as one process: start it without torchrun")
    device = training_device(request.device)
    threads = request.threads or available_cpus()
    torch.set_num_threads(threads)
    dataset = load_dataset(request.data, request.layout)
    reporter.message(f"adapting to {printable(request.data)} into {printable(out)}")
    reporter.message(f"layout {dataset.layout}: {dataset.reason}")
    network = initial_network(config, request.init, reporter.message, weights=not resumed)
    images, failed = _read(dataset, config, threads, reporter)
    nobody = np.full(len(images.records), -1, np.int64)
    confirmed = Confirmed(nobody, nobody, [None] * len(nobody))
    if request.labels is not None:
        confirmed = read_confirmed(request.labels, images.records, config.seed)
    digest = hashlib.sha256(b"".join(record.key.encode() + b"\0" for record in images.records))
    digest.update(confirmed.seeds.tobytes() + confirmed.aside.tobytes())
    learned = {"images": len(images.records), "digest": digest.hexdigest()}
    if resumed:
        check_same(out, learned)
    count = len({record.camera for record in images.records} - {None})
    text = f"{amount(len(images.records), 'image')}, {amount(count, 'camera') if count else 'cameras unknown'}"
    if request.labels is not None:
        text += f", {int((confirmed.seeds >= 0).sum())} confirmed by a person"
        text += f" and {int((confirmed.aside >= 0).sum())} more kept aside to calibrate on"
    reporter.message(f"{text}; {config.height}×{config.width}, {device}")
    if not resumed:
        saved: dict[str, Any] = {
            "data": str(request.data.resolve()),
            "layout": request.layout,
            "init": request.init,
            "labels": str(request.labels.resolve()) if request.labels else None,
            "heldout_identities": [],
            "train": learned,
            "config": asdict(config),
        }
        start_directory(out, saved)
        if config.statistics:
            told = partial(reporter.decoding, what="statistics of these images")
            count = renew_statistics(
                network, images.pixels, images.rows, seed=config.seed, device=device, progress=told
            )
            reporter.message(f"statistics of these images in {count} normalisations")
    new = kind_of(request.init) not in ("bundled", "bundle")
    trainer = ClusterTrainer(network, config, images, seeds=confirmed.seeds, novice=new, device=device)
    rows = restore(trainer, out, reporter.message) if resumed else []
    loop = _ClusterLoop(out, config, trainer, reporter, stop, rows, [], None, images.pixels, _known(images.records))
    loop.epochs()
    centres, embeddings = trainer.centred(trainer.embed(partial(reporter.decoding, what="embedding at the end")))
    clusters = trainer.cluster(embeddings)
    calibration = _calibration(embeddings, images.records, confirmed, reporter.message)
    if calibration is None:
        calibration = _handed_on(request) if centres is not None and not rows else None
        reporter.message(
            "not calibrated, so no verdicts: give --labels FILE, or a CSV with a column 'track'"
            if calibration is None
            else f"calibrated on {calibration.data}"
        )
    final = figures(clusters, trainer.memory.labels.cpu().numpy(), _known(images.records))
    labels = request.labels.name if request.labels else None
    extra = summary(config, request.init, rows, images=len(images.records), labels=labels, clusters=final)
    if calibration is not None:
        extra["calibration"] = replace(calibration, looks=_looks(images)).to_json()
    if rows:  # none with --epochs 0
        plot_history(out, rows, f"{amount(len(images.records), 'image')} without labels, {config.backbone}")
    save_bundle(trainer.result, out, extra, centres)
    images.pixels.close()
    return AdaptResult(
        load_bundle(out), rows, loop.settled, images.records, clusters, embeddings, confirmed.names, failed
    )


def _read(
    dataset: Dataset, config: AdaptConfig, threads: int, reporter: Reporter
) -> tuple[LabelledImages, list[Failure]]:
    """The images that can be read; all have label 0, for what labels there are is not looked at."""
    told, size = partial(reporter.decoding, what="reading images"), (config.height, config.width)
    pixels = PixelSource([record.path for record in dataset.records], size, threads=threads, progress=told)
    failed = unreadable([pixels], reporter.message)
    records = [dataset.records[row] for row in pixels.usable.tolist()]
    if len(records) < 4:
        raise DataError(f"{printable(dataset.root)}: {amount(len(records), 'image')} cannot be clustered: give more")
    nothing, triplets = np.zeros(len(records), np.int64), np.empty((0, 3), np.int64)
    return LabelledImages(records, nothing, triplets, pixels.usable, pixels), failed


def _looks(images: LabelledImages) -> Looks | None:
    blocks = np.array_split(np.arange(len(images.records)), -(-len(images.records) // 64))
    return Looks.of(np.concatenate([figures_of(images.get(block)) for block in blocks]))


def _known(records: list[ImageRecord]) -> list[str | None]:
    """The identity of each record where its place or name tells it: for the report alone."""
    return [record.identity if record.is_somebody else None for record in records]


def _calibration(
    embeddings: NDArray[np.float32], records: list[ImageRecord], confirmed: Confirmed, say: Callable[[str], None]
) -> Calibration | None:
    """What the new scores mean, from what is known without the clusters; None, said, where that is too little."""
    aside = [f"{one}" if one >= 0 else None for one in confirmed.aside.tolist()]
    tracks = [f"{one.camera} {one.metadata[TRACK]}" if TRACK in one.metadata else None for one in records]
    for names, what, cameras in (
        (aside, "images confirmed by a person, kept out of the training", True),
        (tracks, "images of tracks, of which one identity may have several", False),
    ):
        rows = [row for row, name in enumerate(names) if name is not None]
        given = [records[row].camera for row in rows] if cameras else []
        pairs, _ = telling_pairs(embeddings[rows], [str(names[row]) for row in rows], given, _LEAST_PAIRS)
        if min(pairs.genuine_pairs, pairs.impostor_pairs) >= _LEAST_PAIRS:
            try:
                return calibrate(pairs, f"{len(rows)} {what}")
            except DataError as error:
                say(f"not calibrated on {len(rows)} {what}: {error}")
    return None


def _handed_on(request: AdaptRequest) -> Calibration | None:
    """Where nothing was trained, what the scores of the model mean once it has statistics and centres of its cameras.

    The weights are the same, and what differs from cameras to cameras is what was taken anew.
    """
    if not request.config.statistics or kind_of(request.init) not in ("bundled", "bundle"):
        return None
    bundle = bundle_of(request.init)
    spec = NetworkSpec.from_json(bundle.meta["network"])
    same = all(getattr(request.config, name) == getattr(spec, name) for name in SPEC)
    return bundle.adapted_calibration if same else None


#: Of the confirmed identities, the share that training does not see: the calibration is made on those.
ASIDE = 1 / 3


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Identities of n images: by number, int64 [n], -1 where nobody said, seeds of clusters, some kept aside, names."""

    seeds: NDArray[np.int64]
    aside: NDArray[np.int64]
    names: list[str | None]


def read_confirmed(path: Path, records: Sequence[ImageRecord], seed: int) -> Confirmed:
    """The identities that a table (``path`` or ``key`` and ``identity``, or a review) gives these images.

    A third of the identities with two images or more, by ``seed``, is kept aside, if there are three or more. Raises
    DataError where a row cannot be read or names an image that is not among them.
    """
    table = read_label_table(path, {}, ["identity"])
    if table.problems:
        line, reason = table.problems[0]
        raise DataError(f"{printable(path)}: line {line}: {reason}")
    at = {record.key: row for row, record in enumerate(records)}
    places = {absolute(record.path): row for row, record in enumerate(records)}
    names: dict[int, str] = {}
    for row in table.rows:
        if row.values.get("identity") is None:
            continue
        found = at.get(row.key) if row.key else None
        if found is None and row.path:
            found = places.get(absolute(row.path), places.get(absolute(decode_key(row.path))))
        if found is None:
            raise DataError(
                f"{printable(path)}: line {row.line}: no image {printable(row.key or row.path)} among those that are"
                " adapted to: take the row out, or name the directory that holds it"
            )
        names[found] = str(row.values["identity"])
    if not names:
        raise DataError(f"{printable(path)}: no row gives an identity: fill the column 'identity'")
    known = np.full(len(records), -1, np.int64)
    known[list(names)] = np.unique(list(names.values()), return_inverse=True)[1].reshape(-1)
    several = np.flatnonzero(np.bincount(known[known >= 0]) > 1)
    kept = np.random.default_rng((seed, 6)).permutation(several)[: round(ASIDE * len(several))]
    apart = np.isin(known, kept if len(several) > 2 else [])
    return Confirmed(np.where(apart, -1, known), np.where(apart, known, -1), [*map(names.get, range(len(records)))])

"""A whole training run: data, network, epochs, validation, checkpoints; the finished run is a model bundle."""

from __future__ import annotations

import hashlib
import threading
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_search.datasets.records import Failure, ImageRecord
from siamese_search.errors import amount, printable
from siamese_search.io.files import read_json
from siamese_search.io.resources import available_cpus
from siamese_search.model.bundle import Bundle, load_bundle
from siamese_search.model.weights_file import save_bundle
from siamese_search.training.config import BACKBONE_DEFAULTS, PRESETS, TrainConfig, kind_of, network_of, stages
from siamese_search.training.data import (
    DataPaths,
    HoldOut,
    LabelledImages,
    PixelSource,
    Split,
    as_paths,
    label_images,
    load_split,
    read_paths,
    unreadable,
    written_paths,
)
from siamese_search.training.directory import (
    CHECKPOINT_NAME,
    RUN_NAME,
    TEACHER_NAME,
    alone,
    asked_before,
    check_same,
    load_heads,
    nothing_left,
    plot_history,
    refuse_used,
    restore,
    start_directory,
    summary,
)
from siamese_search.training.initial import fit_heads, initial_network, save_vectors, teacher_vectors
from siamese_search.training.loop import Loop, Reporter, Silent
from siamese_search.training.losses import make_metric_losses, make_sampler
from siamese_search.training.ranks import Ranks, joined
from siamese_search.training.trainer import Trainer, training_device

#: Up to this many, a bundle says by name whom it learned from, so that an evaluation on them can warn.
_NAMED_IDENTITIES = 20_000

__all__ = ["HoldOut", "Reporter", "Silent", "TrainRequest", "TrainResult", "resume", "train"]


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What to train, on what, into which directory."""

    data: DataPaths
    out: Path
    config: TrainConfig = PRESETS["reid"]
    layout: str = "auto"
    holdout: HoldOut = field(default_factory=HoldOut)
    init: str = "imagenet"  # imagenet | bundled | none | a bundle's directory | a file of weights
    teacher: Path | None = None
    device: str = "auto"
    threads: int = 0


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished run. ``metrics`` are on the held-out identities, empty without any."""

    bundle: Bundle
    epochs: int
    metrics: dict[str, float]
    history: list[dict[str, Any]]
    failed: list[Failure]

    def to_json(self) -> dict[str, Any]:
        return {
            "bundle": str(self.bundle.path),
            "fingerprint": self.bundle.fingerprint,
            "epochs": self.epochs,
            "metrics": self.metrics,
            "heldout_identities": len(self.bundle.heldout_identities),
            "failed": [failure.to_json() for failure in self.failed],
        }


def train(request: TrainRequest, reporter: Reporter | None = None, stop: threading.Event | None = None) -> TrainResult:
    """Train from the beginning into ``request.out``, which becomes a bundle.

    stop: ends the run after the batch in hand: a checkpoint is written and KeyboardInterrupt raised; :func:`resume`
    goes on to the same curve. Raises TrainingError if the directory holds a run already, DataError and UsageError.
    """
    asked, reporter = request.config, reporter or Silent()
    asked.check()
    stages(asked)  # sizes that cannot be, as
    make_metric_losses(asked.metric_loss, 2, asked.dim)  # a wrong name, are said at once
    if request.init == "imagenet" and asked.backbone in BACKBONE_DEFAULTS:
        reporter.message(f"initial weights: random, {asked.backbone} has none from ImageNet")
        request = replace(request, init="none")
    own = network_of(request.init)
    if own.get("backbone") == asked.backbone:  # the weights of a bundle were trained with its own shares
        mixed = {name: getattr(asked, name) or own.get(name, 0.0) for name in ("instance_mix", "instance_mix_later")}
        request = replace(request, config=asked.with_options(**mixed))
    return _joined(request, reporter, stop or threading.Event(), resumed=False)


def resume(
    out: Path,
    reporter: Reporter | None = None,
    stop: threading.Event | None = None,
    device: str = "auto",
    threads: int = 0,
) -> TrainResult:
    """Continue the run in directory ``out`` from its last checkpoint, with the options it was started with."""

    def request_of(saved: dict[str, Any], **common: Any) -> TrainRequest:
        held = HoldOut(ids=tuple(map(str, saved["heldout_identities"])))
        teacher = Path(saved["teacher"]) if saved["teacher"] else None
        return TrainRequest(data=read_paths(saved["data"]), holdout=held, teacher=teacher, **common)

    request = replace(asked_before(out, "train", request_of), device=device, threads=threads)
    return _joined(request, reporter or Silent(), stop or threading.Event(), resumed=True)


def _joined(request: TrainRequest, reporter: Reporter, stop: threading.Event, *, resumed: bool) -> TrainResult:
    """The run, with the other processes of a ``torchrun`` where there are any."""
    device = training_device(request.device)
    with joined(device) as ranks:
        if ranks.first and not resumed:
            refuse_used(request.out)
        request = replace(request, out=Path(ranks.agree(str(request.out))))
        if ranks.world > 1 and device == "cuda":
            device = f"cuda:{ranks.local}"
        if not ranks.first:
            reporter = Silent()
        with ExitStack() as held:
            if ranks.first:
                held.enter_context(alone(request.out, "run"))
            if ranks.first and not resumed:
                held.enter_context(nothing_left(request.out))
            return _run(request, reporter, stop, ranks, device, resumed=resumed)


def _run(
    request: TrainRequest, reporter: Reporter, stop: threading.Event, ranks: Ranks, device: str, *, resumed: bool
) -> TrainResult:
    config, out = request.config, request.out
    threads = request.threads or max(1, available_cpus() // ranks.local_world)
    torch.set_num_threads(threads)
    split = load_split(request.data, request.layout, request.holdout)
    places = ", ".join(printable(place) for place in as_paths(request.data))
    reporter.message(f"training on {places} into {printable(out)}")  # not before the data could be read
    for note in split.notes:
        reporter.message(note)
    network = initial_network(config, request.init, reporter.message, weights=not resumed)
    size = stages(config)[0].size

    def read(records: list[ImageRecord], what: str) -> PixelSource:
        return PixelSource(
            [r.path for r in records], size, threads=threads, progress=partial(reporter.decoding, what=what)
        )

    images = label_images(split.train, read(split.train.records, "reading training images"))
    held = read(split.held, "reading held-out images") if split.held else None
    sources = [images.pixels, held] if held else [images.pixels]
    failed = unreadable(sources, reporter.message)
    if resumed:
        check_same(out, _learned_from(images))
    classes = int(images.labels.max()) + 1
    text = f"{amount(len(images.records), 'image')} of {amount(classes, 'identity')} to train on"
    if split.held:
        text += f", {len(split.held)} of {len(split.heldout_identities)} held out"
    reporter.message(f"{text}; preset {config.preset}, {config.height}×{config.width}, {device}")

    if not ranks.first:
        ranks.wait()  # until the first has asked the teacher and kept the answer
    elif not resumed:
        saved = {
            "data": written_paths(request.data),
            **({"sources": list(split.sources)} if split.sources else {}),
            "layout": request.layout,
            "init": request.init,
            "teacher": str(request.teacher.resolve()) if request.teacher else None,
            "heldout_identities": split.heldout_identities,
            "train": _learned_from(images),
            "config": asdict(config),
        }
        start_directory(out, saved)
    teacher = _teacher(request, images, reporter)
    if ranks.first:
        ranks.wait()
    triplets = images.triplets.tolist() if config.batches != "pk" else ()
    trainer = Trainer(
        network, config, images, images.labels,
        sampler=make_sampler(config, images.labels, triplets, images.sources),
        teacher=teacher, device=device, ranks=ranks,
    )  # fmt: skip
    if not resumed:
        _begin_heads(trainer, request, split, reporter)
    rows = restore(trainer, out, reporter.message) if resumed else []
    run = Loop(out, config, trainer, reporter, stop, rows, split.held, held, images.pixels)
    run.epochs()
    metrics = ranks.agree(run.final_metrics() if ranks.first else {})
    if ranks.first:
        save_bundle(trainer.result, out, _summary(request, split, images, rows, metrics))
        title = f"{config.preset}: {amount(classes, 'identity')}, {config.backbone} {config.height}×{config.width}"
        plot_history(out, rows, title)
    ranks.wait()
    for source in sources:
        source.close()
    return TrainResult(load_bundle(out), trainer.progress.epoch, metrics, rows, failed)


def _begin_heads(trainer: Trainer, request: TrainRequest, split: Split, reporter: Reporter) -> None:
    """Heads for initial weights that already embed: without them the first epoch would go into learning these again.

    Those of a run on the same data (progressive resizing is two runs) as they are, else new ones fitted first.
    """
    if taken := _heads_of_same_run(trainer, request, split):
        reporter.message(f"training heads of the same run: {', '.join(taken)}")
    elif kind_of(request.init) in ("bundled", "bundle"):
        told = partial(reporter.decoding, what="embedding for the new heads")
        if losses := fit_heads(trainer, trainer.config.probe_epochs, told):
            change = f"loss {losses[0]:.2f} to {losses[-1]:.2f} in {len(losses)} passes"
            reporter.message(f"new heads fitted to the initial weights: {change}")


def _heads_of_same_run(trainer: Trainer, request: TrainRequest, split: Split) -> list[str]:
    """Take classifier and projection of the run that ``init`` is, if it learned from the same; which were taken."""
    first = Path(request.init)
    asked = (written_paths(request.data), request.layout, split.heldout_identities)
    try:
        saved = read_json(first / RUN_NAME)
        same = (saved["data"], saved["layout"], saved["heldout_identities"]) == asked
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return load_heads(first / CHECKPOINT_NAME, trainer.heads) if same else []


def _learned_from(images: LabelledImages) -> dict[str, Any]:
    """What a run learns from: the identities, and a digest of the images, each with its identity, in order."""
    told = "".join(f"{record.key}\0{record.identity}\0" for record in images.records)
    return {"identities": _names(images), "images": hashlib.sha256(told.encode()).hexdigest()}


def _names(images: LabelledImages) -> list[str]:
    return sorted({str(record.identity) for record in images.records})


def _teacher(request: TrainRequest, images: LabelledImages, reporter: Reporter) -> NDArray[np.float32] | None:
    """The teacher's vectors, kept in the run directory so that a resumed run need not compute them again."""
    if request.teacher is None:
        return None
    kept = request.out / TEACHER_NAME
    told = partial(reporter.decoding, what="asking the teacher")
    asked = partial(teacher_vectors, records=images.records, config=request.config, progress=told)
    if not kept.exists():
        save_vectors(kept, images.records, asked(request.teacher), request.config)
    return asked(kept)  # also the first time: what is kept is rounded, and a resumed run must see the same


def _summary(
    request: TrainRequest, split: Split, images: LabelledImages, rows: list[dict[str, Any]], metrics: dict[str, float]
) -> dict[str, Any]:
    names = _names(images)
    learned = {
        "teacher": request.teacher.name if request.teacher else None,
        "images": len(images.records),
        **({"sources": images.by_source()} if split.sources else {}),
        "identities": len(names),
        **({"identity_names": names} if len(names) <= _NAMED_IDENTITIES else {}),
    }
    found = {"heldout_identities": split.heldout_identities, "metrics": {"heldout": metrics} if metrics else {}}
    return summary(request.config, request.init, rows, **learned) | found

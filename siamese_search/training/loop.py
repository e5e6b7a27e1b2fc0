"""The epochs of a run: training, validation on the held-out identities, checkpoints, history.

Validation, on identities that training never sees, gives rank-1 and mAP, and the loss of the recipe itself.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from siamese_search.datasets.records import ImageRecord
from siamese_search.errors import DataError
from siamese_search.evaluation.protocol import Labels, told
from siamese_search.evaluation.retrieval import RankingMetrics, retrieval_metrics
from siamese_search.model.network import APNNetwork
from siamese_search.options import Progress
from siamese_search.training.config import TrainConfig, stage_at
from siamese_search.training.data import PixelSource
from siamese_search.training.directory import CHECKPOINT_NAME, load_checkpoint, save_checkpoint, write_history
from siamese_search.training.losses import make_sampler, triplet_objective
from siamese_search.training.trainer import Images, StepReport, Trainer

BEST_NAME = "best.safetensors"


class Reporter(Protocol):
    """How a run tells what it does. Every method may be called often; none may block."""

    def message(self, text: str) -> None: ...

    def decoding(self, done: int, total: int, what: str) -> None: ...

    def step(self, report: StepReport) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None: ...


class Silent:
    """A reporter that says nothing."""

    def message(self, text: str) -> None: ...

    def decoding(self, done: int, total: int, what: str) -> None: ...

    def step(self, report: StepReport) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None: ...


@dataclass
class Loop:
    """The epochs of one run in directory ``out``: each trained, validated, saved and told to ``reporter``."""

    out: Path
    config: TrainConfig
    trainer: Trainer
    reporter: Reporter
    stop: threading.Event
    rows: list[dict[str, Any]]
    held_records: Sequence[ImageRecord]
    held: PixelSource | None  # the pixels of held_records
    pixels: PixelSource  # the training images

    def epochs(self) -> None:
        config, trainer = self.config, self.trainer
        while not self.finished():
            self._enter_stage()
            if not trainer.train_epoch(self.reporter.step, self.stop.is_set, self.save):
                self.save()
                raise KeyboardInterrupt
            row: dict[str, Any] = {**trainer.finish_epoch(), **self.figures()}
            last = row["epoch"] == config.epochs
            if self.held and (last or (config.validate_every and row["epoch"] % config.validate_every == 0)):
                row.update(trainer.ranks.agree(self.validate() if trainer.ranks.first else {}))
                if row["mAP"] > trainer.progress.best.get("mAP", -1.0):
                    trainer.progress.best = {key: row[key] for key in ("epoch", "rank1", "mAP")}
                    if trainer.ranks.first:
                        save_checkpoint(self.out / BEST_NAME, {"network": trainer.result}, None, trainer.progress.best)
            self.rows.append(row)
            # The checkpoint first: a history that runs ahead of it would be cut back by a resume.
            self.save()
            if trainer.ranks.first:
                write_history(self.out, self.rows)
            self.reporter.epoch(row)

    def finished(self) -> bool:
        return self.trainer.progress.epoch >= self.config.epochs

    def figures(self) -> dict[str, Any]:
        """What the row of an epoch holds beside the trainer's own figures."""
        return {}

    def _enter_stage(self) -> None:
        """At the first step of a stage of another size: its pixels, and an optimiser without the former's moments."""
        progress = self.trainer.progress
        stage = stage_at(self.config, progress.epoch)
        if progress.epoch == stage.first > 0 and progress.step == 0:
            self.trainer.optimizer.state.clear()  # images of another size have gradients of another scale
        if stage.size == self.pixels.size:
            return
        self.reporter.message(
            f"epochs {stage.first + 1} to {stage.last} at {stage.height}×{stage.width}, peak learning rate {stage.lr:g}"
        )
        self.pixels.resize(stage.size, progress=self._reading("reading training images"))
        if self.held:
            self.held.resize(stage.size, progress=self._reading("reading held-out images"))

    def _reading(self, what: str) -> Progress:
        return partial(self.reporter.decoding, what=what)

    def save(self) -> None:
        self.trainer.check_finite()
        if not self.trainer.ranks.first:
            return
        state = {"progress": asdict(self.trainer.progress), "rows": self.rows}
        save_checkpoint(self.out / CHECKPOINT_NAME, self.trainer.modules, self.trainer.optimizer, state)

    def validate(self) -> dict[str, float]:
        """Figures of the weights that would become the bundle, on the held-out identities."""
        assert self.held is not None
        metrics, loss = validate(
            self.trainer.result, self.held_records, self.held, str(self.trainer.device), self.config
        )
        row = {"rank1": _clean(metrics.rank1), "mAP": _clean(metrics.mAP)}
        if loss is not None:
            row |= {"val_loss": _clean(loss.loss), "val_triplet_accuracy": _clean(loss.accuracy)}
        return row

    def final_metrics(self) -> dict[str, float]:
        """The figures of the weights that are kept, after loading the best where ``keep`` says so."""
        if not self.held:
            return {}
        row = self.rows[-1] if self.rows else {}
        if self.config.keep == "best" and self.trainer.progress.best:
            load_checkpoint(self.out / BEST_NAME, {"network": self.trainer.result}, None)
            row = self.trainer.progress.best
        return {key: row[key] for key in ("rank1", "mAP", "epoch")} if "mAP" in row else {}


def _clean(value: float) -> float:
    return float(value) if math.isfinite(value) else 0.0


_BATCH = 128


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """The triplet or contrastive loss (not weighted) on held-out images, and the triplet accuracy."""

    loss: float
    accuracy: float


def embed_all(
    network: APNNetwork, pixels: Images, rows: NDArray[np.int64], device: torch.device, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """(features, necked), each float32 [n, dim] on the CPU, of these pixel rows in evaluation mode.

    Features are what metric losses act on; necked, of unit length then, is what retrieval uses. Its mode is put back.
    """
    training = network.training
    network.eval()
    found = [torch.empty(2, 0, network.spec.dim)]
    try:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            for start in range(0, len(rows), _BATCH):
                images = torch.from_numpy(pixels.get(rows[start : start + _BATCH])).to(device)
                both = network(network.normalise(images))
                found.append(torch.stack([one.float().cpu() for one in both]))
                if progress:
                    progress(min(start + _BATCH, len(rows)), len(rows))
    finally:
        network.train(training)
    features, necked = torch.cat(found, dim=1)
    return features, necked


def held_out_loss(
    config: TrainConfig, features: NDArray[np.float32], identities: Sequence[str], sources: Sequence[str | None] = ()
) -> HeldOutLoss | None:
    """The recipe's triplet or contrastive loss over one fixed epoch of its batches from these images; None where they
    form no batch: fewer than 2 identities, or no two images of one.

    The batches depend only on ``config.seed`` and the images, so epochs can be compared; features [n, d].
    identities: "" for those without, and for distractors and junk, many people under one name.
    sources: the data set of each image where there are several; triplets and pairs stay within one.
    """
    known = [row for row, name in enumerate(identities) if name]
    features = features[known]
    names = np.array([identities[row] for row in known], dtype=str)
    labels = np.unique(names, return_inverse=True)[1].astype(np.int64)
    origins = [str(sources[row]) for row in known] if sources else []
    places = np.unique(origins, return_inverse=True)[1].astype(np.int64) if origins else None
    try:
        sampler = make_sampler(config, labels, sources=places)
    except DataError:
        return None
    losses, accuracies = [], []
    for batch in sampler.epoch(0):
        flat = batch.reshape(-1)
        rows, of = torch.from_numpy(features[flat]), torch.from_numpy(labels[flat])
        found = triplet_objective(config, rows, of, batch.shape)
        losses.append(float(found.loss))
        accuracies.append(float(found.accuracy))
    return HeldOutLoss(float(np.mean(losses)), float(np.mean(accuracies))) if losses else None


def validate(
    network: APNNetwork, records: Sequence[ImageRecord], pixels: PixelSource, device: str, config: TrainConfig
) -> tuple[RankingMetrics, HeldOutLoss | None]:
    """Every held-out image as a query against all the others; and the recipe's own loss among them.

    Where no query is left under the same-camera rule (single-camera data), cameras are not used.
    """
    rows = pixels.usable
    features, necked = embed_all(network, pixels, rows, torch.device(device))
    embeddings = F.normalize(necked, dim=1).numpy()
    used = [records[row] for row in rows.tolist()]
    ids = [told(record) for record in used]
    people = [name if record.is_somebody else "" for name, record in zip(ids, used, strict=True)]
    cameras = [record.camera for record in used]
    metrics = retrieval_metrics(embeddings, embeddings, Labels.within(ids, cameras))
    if metrics.invalid_queries == metrics.queries:
        metrics = retrieval_metrics(embeddings, embeddings, Labels.within(ids))
    return metrics, held_out_loss(config, features.numpy(), people, [record.source for record in used])

"""The trainer: batches in, a trained network out. No files, no printing: callers are told through callbacks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_search.errors import TrainingError, UsageError
from siamese_search.model.network import APNNetwork
from siamese_search.training.augment import TAUGHT, augment, draw, mixed, view_draws, view_mix
from siamese_search.training.backbone import Passes, add_mixstyle, freeze, hold, trim
from siamese_search.training.config import TrainConfig, stage_at
from siamese_search.training.data import moved
from siamese_search.training.losses import (
    Sampler,
    TripletLoss,
    collapsed_loss,
    cosine_regression,
    make_metric_losses,
    make_sampler,
    metric_loss,
    similarity_matching,
    triplet_objective,
)
from siamese_search.training.ranks import SINGLE, Ranks


class Images(Protocol):
    """Where pixels come from, uint8 [n, H, W, 3]; perhaps also by ``get_tensor(indices, device)``, on the device."""

    def get(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]: ...


@dataclass(slots=True)
class Progress:
    """Where a run stands; what a checkpoint keeps beside the tensors."""

    epoch: int = 0
    step: int = 0  # batches done in this epoch
    global_step: int = 0
    loss_sum: float = 0.0
    triplet_sum: float = 0.0  # of the triplet or contrastive part alone, not weighted
    triplet_last: float = 0.0  # the same of the last batch
    accuracy_sum: float = 0.0
    images: int = 0  # in this epoch
    seconds: float = 0.0  # in this epoch, validation not counted
    best: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What the screen may show after a batch. Means are over the epoch so far."""

    epoch: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float
    lr: float


class Trainer:
    """Trains ``network`` on images with integer labels.

    labels: int64 [n], 0 … classes-1. sampler: which images form a batch; by default what ``config.batches`` says.
    teacher: float32 [1 + v, n, t] unit rows, of the plain images and of v views; or None. ranks: the processes that
    train together. Every random draw depends only on (seed, epoch, step, rank), so a resumed run repeats the other.
    """

    def __init__(
        self,
        network: APNNetwork,
        config: TrainConfig,
        images: Images,
        labels: NDArray[np.int64],
        *,
        sampler: Sampler | None = None,
        teacher: NDArray[np.float32] | None = None,
        device: str = "cpu",
        ranks: Ranks = SINGLE,
    ) -> None:
        self.config, self.ranks, self.images, self.labels = config, ranks, images, labels
        self.device = torch.device(device)
        self._views = [] if teacher is None else [view_draws(config, len(labels), v) for v in range(1, len(teacher))]
        self._mixes = [view_mix(config, len(labels), v + 1) for v in range(len(self._views)) if config.view_mix > 0]
        # What a step looks up lies on the device: nothing but indices and random numbers travel in a step.
        self._labels = torch.from_numpy(labels).to(self.device)
        self._taught = None if teacher is None else torch.from_numpy(teacher).to(self.device)
        self._constants = network.constants(self.device)
        self.progress = Progress()
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.type == "cpu":
            trim(self.network)
        self._frozen = freeze(self.network.backbone, config.freeze)
        self.sampler = sampler or make_sampler(config, labels)
        torch.manual_seed(config.seed)
        self.heads = nn.ModuleDict()
        if config.identity_weight > 0:
            classifier = nn.Linear(network.spec.dim, int(labels.max()) + 1, bias=False)
            nn.init.normal_(classifier.weight, std=0.001)
            self.heads["classifier"] = classifier
        if config.metric_loss and config.metric_weight > 0:
            self.heads["metric"] = make_metric_losses(config.metric_loss, int(labels.max()) + 1, network.spec.dim)
        if teacher is not None:
            self.heads["projection"] = nn.Linear(network.spec.dim, teacher.shape[2])
        self.heads.to(self.device)
        self._parameters = [p for p in (*self.network.parameters(), *self.heads.parameters()) if p.requires_grad]
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        # One kernel for all parameters instead of hundreds; on the CPU the plain step is as fast.
        cuda = self.device.type == "cuda"
        self.optimizer = kind(self._parameters, lr=config.lr, weight_decay=config.weight_decay, fused=cuda)
        if config.mixstyle > 0 and not add_mixstyle(self.network.backbone, config.mixstyle):
            raise UsageError(f"--mixstyle: {config.backbone} has no stages to mix styles after, leave it out")
        # Several processes exchange gradients between the passes and the step; their kernels are launched one by one.
        self._passes = Passes(self.network, self.device, record=cuda and ranks.world == 1)
        # Its decay is warmed up: a short run would otherwise keep its initial weights. It draws nothing random.
        self._ema = ModelEmaV3(self.network, decay=config.ema, use_warmup=True) if config.ema > 0 else None

    @property
    def result(self) -> APNNetwork:
        """The network that is validated and kept: the moving average where there is one."""
        return self.network if self._ema is None else cast(APNNetwork, self._ema.module)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint saves beside the optimiser."""
        saved: dict[str, nn.Module] = {"network": self.network, "heads": self.heads}
        return saved if self._ema is None else {**saved, "ema": self._ema.module}

    def train_epoch(
        self,
        on_step: Callable[[StepReport], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        checkpoint: Callable[[], None] | None = None,
    ) -> bool:
        """Run the rest of the current epoch; True when it is finished, False when ``should_stop`` said so.

        ``checkpoint`` is called between steps every ``config.checkpoint_minutes``.
        Raises TrainingError on a loss that is not finite; the weights of that step are never saved.
        """
        config, state, ranks = self.config, self.progress, self.ranks
        self.network.train()
        hold(self._frozen)
        self.heads.train()
        total = self.sampler.steps(state.epoch)
        steps = ranks.steps(total)
        saved = time.monotonic()
        for number, batch in enumerate(ranks.shard(self.sampler.epoch(state.epoch), total)):
            if number < state.step:
                continue
            started = time.monotonic()
            lr = self.learning_rate(state.epoch + number / steps)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            loss, triplet_loss, accuracy = self._step(batch)
            if not math.isfinite(loss):
                raise self._diverged(f"the loss became {loss}")
            state.step += 1
            state.global_step += 1
            state.loss_sum += loss
            state.triplet_sum += triplet_loss
            state.triplet_last = triplet_loss
            state.accuracy_sum += accuracy
            state.images += batch.size * ranks.world
            state.seconds += time.monotonic() - started
            if on_step:
                means = state.loss_sum / state.step, state.accuracy_sum / state.step
                on_step(StepReport(state.epoch, state.step, steps, *means, state.images / max(state.seconds, 1e-9), lr))
            if ranks.any(should_stop()):
                return False
            if checkpoint and time.monotonic() - saved > 60 * config.checkpoint_minutes:
                checkpoint()
                saved = time.monotonic()
        return True

    def check_finite(self) -> None:
        """Raise TrainingError if a weight is no longer finite: such weights must never replace a checkpoint."""
        if not all(bool(torch.isfinite(p).all()) for p in self._parameters):
            raise self._diverged("the weights stopped being finite")

    def _diverged(self, what: str) -> TrainingError:
        state = self.progress
        return TrainingError(
            f"{what} at step {state.global_step} (epoch {state.epoch + 1}): the last checkpoint before it is kept; "
            "start again with a lower --lr, or check the data"
        )

    def learning_rate(self, epoch: float) -> float:
        """The learning rate at a fractional epoch, of the stage that it is in."""
        return stage_at(self.config, epoch).learning_rate(epoch, self.config.schedule)

    def _step(self, batch: NDArray[np.int64]) -> tuple[float, float, float]:
        """One optimiser step; returns the loss, its triplet part and the triplet accuracy."""
        config = self.config
        indices = batch.reshape(-1)
        # Dropout and drop-path draw from the global generator, where a backbone has them.
        torch.manual_seed(self._seed(0))
        generator = torch.Generator().manual_seed(self._seed(1))
        random = draw(len(indices), generator)
        if view := self._view():
            random[:, TAUGHT] = self._views[view - 1][indices][:, TAUGHT]
        images = self._pixels(indices)
        if view and self._mixes:
            partner, cut = (of_all[indices] for of_all in self._mixes[view - 1])
            images = mixed(images, self._pixels(partner.numpy()), moved(cut, self.device))
        pixels = augment(images, config, moved(random, self.device))
        features, necked = self._passes(self.network.normalise(pixels, self._constants))
        loss, triplet = self._loss(features.float(), necked.float(), indices, batch.shape)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        # The only wait for the device in a step, before the weights change: no loss that is not finite reaches them.
        report = torch.stack([loss.detach(), triplet.loss.detach(), triplet.accuracy])
        value, part, accuracy = self.ranks.mean(report).tolist()
        if not math.isfinite(value):
            return value, 0.0, 0.0
        self.ranks.average(self._parameters, self.network)
        if config.grad_clip > 0:
            nn.utils.clip_grad_norm_(self._parameters, config.grad_clip)
        self.optimizer.step()
        if self._ema is not None:
            self._ema.update(self.network, step=self.progress.global_step)
        return value, part, accuracy

    def _pixels(self, indices: NDArray[np.int64]) -> Tensor:
        """uint8 [n, H, W, 3] of these images, on the device."""
        if hasattr(self.images, "get_tensor"):
            return cast(Tensor, self.images.get_tensor(indices, self.device))
        return moved(torch.from_numpy(self.images.get(indices)), self.device)

    def _view(self) -> int:
        """Which view of the images this epoch takes; 0 is the plain image, with augmentation of its own."""
        return self.progress.epoch % (1 + len(self._views))

    def _seed(self, use: int) -> int:
        """The seed of this step and process for one use of random numbers: 63 bits of both, neighbours share nothing.

        By splitmix64's finaliser.
        """
        seed, step = self.config.seed + use + 7919 * self.ranks.rank, self.progress.global_step
        value = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & (2**64 - 1)
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        return (value ^ (value >> 31)) >> 1

    def _loss(
        self, features: Tensor, necked: Tensor, indices: NDArray[np.int64], shape: tuple[int, ...]
    ) -> tuple[Tensor, TripletLoss]:
        """features, necked: float32 [n, dim] of the batch; shape: [n] for P×K, [b, 3] or [b, 2] else."""
        config = self.config
        labels, taught = self.targets(indices)
        triplet = triplet_objective(config, features, labels, shape)
        loss = config.triplet_weight * triplet.loss
        if self.heads:
            loss = loss + self.head_loss(necked, labels, taught)
        if taught is not None:
            loss = loss + config.similarity_weight * similarity_matching(necked, taught)
        return loss, triplet

    def targets(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        """Labels, int64 [n], and the teacher's vectors, float32 [n, t], of these images [n], on the device."""
        rows = moved(torch.from_numpy(indices), self.device)
        return self._labels[rows], None if self._taught is None else self._taught[self._view()][rows]

    def head_loss(self, necked: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
        """What the training heads make of these embeddings: identities, metric losses, teacher, each by its weight.

        necked: float32 [n, dim]. labels, taught: as :meth:`targets` gives them for the same images.
        """
        config = self.config
        loss = necked.new_zeros(())
        if "classifier" in self.heads:
            named = F.cross_entropy(self.heads["classifier"](necked), labels, label_smoothing=config.label_smoothing)
            loss = loss + config.identity_weight * named
        if "metric" in self.heads:
            metric = metric_loss(cast(nn.ModuleDict, self.heads["metric"]), necked, labels)
            loss = loss + config.metric_weight * metric
        if taught is not None:
            loss = loss + config.teacher_weight * cosine_regression(self.heads["projection"](necked), taught)
        return loss

    def finish_epoch(self) -> dict[str, float]:
        """Close the epoch: its means, and the counters set for the next one. Raises TrainingError on collapse."""
        state, config = self.progress, self.config
        row = {
            "epoch": state.epoch + 1,
            "loss": state.loss_sum / max(1, state.step),
            "triplet_loss": state.triplet_sum / max(1, state.step),
            "triplet_accuracy": state.accuracy_sum / max(1, state.step),
            "lr": stage_at(config, state.epoch).learning_rate(state.epoch + 1.0, config.schedule),
            "images_per_second": state.images / max(state.seconds, 1e-9),
            "seconds": state.seconds,
        }
        level = None if self.heads else collapsed_loss(config)
        # All embeddings alike give this loss exactly, in every batch. A mean alone may pass by it while learning.
        stuck = (row["triplet_loss"], state.triplet_last)
        if level and all(abs(loss - level) < 1e-3 * level for loss in stuck):
            raise TrainingError(
                f"the triplets have collapsed: after epoch {state.epoch + 1} the loss stands at {level:g} "
                f"({row['triplet_loss']:.4f}), all embeddings are the same; lower --lr or start from --init bundled"
            )
        state.epoch += 1
        state.step = state.images = 0
        state.loss_sum = state.triplet_sum = state.accuracy_sum = state.seconds = 0.0
        return row


def training_device(name: str) -> str:
    """The device that ``auto`` means here. Raises UsageError for one that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch sees no CUDA device here; use --device cpu")
    if name != "cpu" and not name.startswith("cuda"):
        raise UsageError(f"unknown device {name!r}: use auto, cpu or cuda")
    return name

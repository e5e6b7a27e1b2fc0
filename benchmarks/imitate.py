"""Imitation: a network learns to give what another gives, on views of a data set's images. No label is looked at.

What benchmarks/bundled.py and benchmarks/fast.py share. On a CPU a process of its own makes the views and asks the
teacher about them; where there is a second core that costs no time. Each finished epoch leaves a checkpoint, which a
run goes on from, and a bundle; where seconds are counted, that comes in the end.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, multiprocessing, nn
from torch.nn import functional as F

from siamese_search.datasets.records import ImageRecord
from siamese_search.embedding import looks_of
from siamese_search.evaluation.calibrate import calibrate, save_calibration
from siamese_search.evaluation.evaluate import embed_records
from siamese_search.evaluation.protocol import Labels
from siamese_search.evaluation.verification import pair_scores
from siamese_search.model.bundle import Bundle
from siamese_search.model.embedder import load_embedder
from siamese_search.model.network import APNNetwork
from siamese_search.model.weights_file import save_bundle
from siamese_search.training.augment import augment, draw, mixed
from siamese_search.training.config import REID_CPU
from siamese_search.training.data import HoldOut, LabelledImages, PixelSource, Split, label_images, load_split

BATCH = 32
SIZE = (128, 64)
VIEW = REID_CPU.with_options(
    height=128, width=64, zoom=0.2, jitter=0.4, tint=0.2, grey=0.0, blur=0.1, detail=2.2, erase=0.3, mixstyle=0.0
)
#: Share of the views with another's lower part: people whom no label knows.
VIEW_MIX = 0.4
#: Lessons that wait for the student at most.
AHEAD = 6

#: From views, float32 [n, 128, 64, 3] in 0–255, and the epoch to embeddings [n, t] and maps [n, c, h, w].
Teacher = Callable[[Tensor, int], tuple[Tensor, list[Tensor]]]


@dataclass(frozen=True)
class Lesson:
    """Views, float32 [n, 128, 64, 3], and what the teacher gives for them."""

    views: Tensor
    embeddings: Tensor
    maps: list[Tensor]


class Views:
    """Augmented views of a data set's images, made on ``device``."""

    def __init__(self, images: LabelledImages, seed: tuple[int, ...], device: str = "cpu", batch: int = BATCH) -> None:
        self.images, self.count, self.batch = images, len(images.records), batch
        self.device = torch.device(device)
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(sum(seed))

    def of(self, indices: NDArray[np.int64]) -> Tensor:
        """float32 [n, 128, 64, 3] of these images."""
        n = len(indices)
        partners = self.images.get_tensor(self.rng.integers(0, self.count, n), self.device)
        r = torch.from_numpy(self.rng.random((n, 2)).astype(np.float32))
        cut = torch.where(r[:, 0] < VIEW_MIX, 0.35 + 0.3 * r[:, 1], 1.0)
        both = mixed(self.images.get_tensor(indices, self.device), partners, cut.to(self.device))
        return augment(both, VIEW, draw(n, self.generator))

    def some(self) -> Tensor:
        """The same of images drawn at random."""
        return self.of(self.rng.integers(0, self.count, self.batch))

    def epoch(self) -> Iterator[Tensor]:
        """Views of all images once, in random order, in whole batches."""
        steps = self.count // self.batch
        for indices in self.rng.permutation(self.count)[: steps * self.batch].reshape(-1, self.batch):
            yield self.of(indices)


def load(data: Path, ids: Path | None) -> tuple[LabelledImages, Split]:
    """The images to learn from, and the split that they are of."""
    split = load_split(data, "auto", HoldOut(ids_file=ids) if ids else HoldOut(amount=0))
    pixels = PixelSource([record.path for record in split.train.records], SIZE, threads=2)
    return label_images(split.train, pixels), split


def _ask(queue: Any, make: Callable[..., Teacher], arguments: tuple[Any, ...], images: Any, epochs: range) -> None:
    """The asking process: lessons of these epochs. ``images``: data set and held-out identities."""
    torch.set_num_threads(1)
    teacher, (labelled, _) = make(*arguments), load(*images)
    for lesson in lessons_there(teacher, labelled, "cpu", BATCH, epochs):
        queue.put([one.numpy().astype(np.float16) for one in (lesson.views, lesson.embeddings, *lesson.maps)])


def lessons(make: Callable[..., Teacher], arguments: tuple[Any, ...], images: Any, epochs: range) -> Iterator[Lesson]:
    """Lessons of these epochs, from another process; make: a function of a module, called there with the arguments."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(AHEAD)
    process = context.Process(target=_ask, args=(queue, make, arguments, images, epochs), daemon=True)
    process.start()
    try:
        while True:
            views, embeddings, *maps = (torch.from_numpy(one).float() for one in queue.get())
            yield Lesson(views, embeddings, maps)
    finally:
        process.terminate()


def lessons_there(teacher: Teacher, images: LabelledImages, device: str, batch: int, epochs: range) -> Iterator[Lesson]:
    """The same where a teacher on the device is so quick that nobody waits for it."""
    for epoch in epochs:
        for views in Views(images, (7, epoch), device, batch).epoch():
            with torch.no_grad():
                given = teacher(views, epoch)
            yield Lesson(views, *given)


@dataclass
class Imitation:
    """A student, where it is watched, and what makes its maps and embeddings comparable to the teacher's.

    weights: of the losses: maps, embeddings, similarities within a batch. rate: the learning rate at a fractional
    epoch; heads learn ``eager`` times as fast. prepare: told the fractional epoch before each step. living:
    normalisations that go by the batch, as in any training that may follow; the others keep their statistics.
    """

    student: APNNetwork
    watched: Sequence[nn.Module]
    adapters: nn.ModuleList
    projection: nn.Module
    weights: tuple[float, float, float]
    rate: Callable[[float], float]
    eager: float = 1.0
    prepare: Callable[[float], None] = lambda _at: None
    living: Sequence[nn.Module] = ()

    def __post_init__(self) -> None:
        self.seen: list[Tensor] = []
        for module in self.watched:
            module.register_forward_hook(lambda _module, _inputs, output: self.seen.append(output))

    def look(self, lesson: Lesson, epoch: int, small: int) -> tuple[list[Tensor], Tensor]:
        """The student's maps and embeddings of a lesson; in the first ``small`` epochs it sees the images small."""
        self.seen.clear()
        inputs = self.student.normalise(lesson.views)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=inputs.device.type != "cpu"):
            embeddings = self.student(F.avg_pool2d(inputs, 2) if epoch < small else inputs)[1]
        return [one.float() for one in self.seen], embeddings.float()

    def loss(self, maps: list[Tensor], embeddings: Tensor, lesson: Lesson) -> tuple[Tensor, list[float]]:
        """The loss, and its parts."""
        near = torch.stack(
            [
                ((adapter(own) - wanted) ** 2).mean() / (wanted.var((0, 2, 3)).mean() + 1e-6)
                for adapter, own, wanted in zip(self.adapters, maps, lesson.maps, strict=True)
            ]
        ).sum()
        wanted = F.normalize(lesson.embeddings, dim=1)
        cosine = 1.0 - F.cosine_similarity(self.projection(embeddings), wanted).mean()
        own = F.normalize(embeddings, dim=1)
        apart = ~torch.eye(len(own), dtype=torch.bool, device=own.device)
        alike = ((own @ own.T - wanted @ wanted.T)[apart] ** 2).mean()
        parts = torch.stack((near, cosine, alike))
        return (parts * torch.tensor(self.weights, device=own.device)).sum(), parts.tolist()


@dataclass(frozen=True)
class Plan:
    """How long to learn. epochs: at most. seconds: that the schedule ends with, however many epochs these are.

    small: epochs of small images before the others.
    """

    epochs: int
    seconds: float = math.inf
    small: int = 0
    batch: int = BATCH


def learn(
    imitation: Imitation, given: Callable[[range], Iterator[Lesson]], split: Split, out: Path, plan: Plan, *,
    about: dict[str, Any], kept: dict[str, Any] | None = None, finish: Callable[[APNNetwork], object] = lambda _: None,
) -> None:  # fmt: skip
    """Train. given: the lessons of epochs. about: what the bundle says of it. kept: goes into each checkpoint.

    finish: changes a network in evaluation mode, a copy, before it becomes a bundle.
    """
    began = time.monotonic()
    student, heads = imitation.student, nn.ModuleList([imitation.adapters, imitation.projection])
    body = [parameter for parameter in student.parameters() if parameter.requires_grad]
    groups = [{"params": body, "eager": 1.0}, {"params": list(heads.parameters()), "eager": imitation.eager}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, weight_decay=0.02)
    ema = ModelEmaV3(student, decay=0.998, use_warmup=True)
    first, step, spent = 0, 0, 0.0
    saved = checkpoint(out)
    if saved:
        for name, one in (("student", student), ("ema", ema.module), ("heads", heads), ("optimizer", optimizer)):
            one.load_state_dict(saved[name])  # type: ignore[attr-defined]
        first, step, spent = saved["epoch"], saved["step"], saved.get("seconds", 0.0)
    steps = len(split.train.records) // plan.batch
    student.eval()  # normalisations keep their statistics
    for module in imitation.living:
        module.train()
    course = given(range(first, plan.epochs))
    for epoch in range(first, plan.epochs):
        started, sums = time.process_time(), np.zeros(3)
        for number in range(1, steps + 1):
            passed = (spent + time.monotonic() - began) / plan.seconds
            at = max(epoch + (number - 1) / steps, min(passed, 1.0) * plan.epochs)
            if passed >= 1.0:
                break
            imitation.prepare(at)
            for group in optimizer.param_groups:
                group["lr"] = imitation.rate(at) * group["eager"]
            lesson = next(course)
            loss, parts = imitation.loss(*imitation.look(lesson, epoch, plan.small), lesson)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(body, 5.0)
            optimizer.step()
            step += 1
            ema.update(student, step=step)
            sums += parts
            if number % 50 == 0 or number == steps:
                near, cosine, alike = sums / number
                cost = (time.process_time() - started) / number / plan.batch * 1e3
                said = f"maps {near:.3f}  1 - cosine {cosine:.4f}  similarities {alike:.5f}  {cost:.0f} ms an image"
                print(f"epoch {epoch + 1}/{plan.epochs}  {number}/{steps}  {said}", flush=True)
        state: dict[str, Any] = {"student": student.state_dict(), "ema": ema.module.state_dict()}
        state |= {"heads": heads.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1, "step": step}
        state["seconds"] = spent + time.monotonic() - began
        out.mkdir(parents=True, exist_ok=True)
        torch.save(state | (kept or {}), out / "checkpoint.new")
        os.replace(out / "checkpoint.new", out / "checkpoint.pt")  # noqa: PTH105
        last = at >= plan.epochs or epoch + 1 == plan.epochs
        if last or plan.seconds == math.inf:  # which takes seconds
            plain = APNNetwork(student.spec)
            plain.load_state_dict(ema.module.state_dict())
            finish(plain.eval())
            training = about | {"epochs": round(step / steps, 1), "images": steps * plan.batch}
            save_bundle(plain, out, {"training": training, "heldout_identities": split.heldout_identities})
        if last:
            break


def checkpoint(out: Path) -> dict[str, Any] | None:
    """What a stopped run left, as tensors alone."""
    path = out / "checkpoint.pt"
    return torch.load(path, weights_only=True) if path.exists() else None


def calibrated(bundle: Bundle, held: list[ImageRecord], data: Path) -> Bundle:
    """The bundle with a calibration of its scores, measured on the held-out people."""
    found = embed_records(held, load_embedder(bundle, threads=1))
    rows = [held[row] for row in found.rows]
    labels = Labels.within([str(r.identity) for r in rows], [r.camera for r in rows])
    about = f"{data.parent.name}/{data.name}, {len({r.identity for r in held})} held-out identities"
    looks = looks_of([record.path for record in held], bundle.input_size)
    return save_calibration(bundle, replace(calibrate(pair_scores(found.vectors, labels), about), looks=looks))
